"""What a step costs: nothing is read for nobody, and subscribers cost what they ask for.

Costs are counted, not timed: the Python functions that are called in the training thread. They are
the same in every run where each step is waited for (`max_in_flight=1`).

Scenario 35.
"""

from __future__ import annotations

import dataclasses
import gc
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import anyio
import numpy as np
import pytest

import fitbus
from fitbus import BatchEnd, EpochBegin, EpochEnd, Event, TrainEnd

READS = {
    *("__array__", "__float__", "__int__", "__bool__", "__index__", "_value"),
    *("asarray", "item", "tolist", "device_get", "copy_to_host_async"),
}
TOGETHER = 32  # steps that are published in one go


class Step:
    """One of the fastest steps."""

    def train_step(self, state: fitbus.TrainState, batch: fitbus.Batch) -> Any:
        params = {"w": state.params["w"] + batch.x.sum()}
        return dataclasses.replace(state, params=params), {"loss": params["w"]}

    def eval_step(self, state: fitbus.TrainState, batch: fitbus.Batch) -> Any:
        return {"loss": state.params["w"]}

    def predict_step(self, state: fitbus.TrainState, batch: fitbus.Batch) -> Any:
        return batch.x


class Batches(list[Any]):
    """The same batch so many times. Notes what was counted in the training thread at each."""

    def __init__(self, count: int) -> None:
        super().__init__([np.ones(4, np.float32)] * count)
        self.counter = Counter()
        self.calls: list[int] = []
        self.reads: list[int] = []

    def __iter__(self) -> Iterator[Any]:
        for batch in super().__iter__():
            self.calls.append(self.counter.calls[threading.get_ident()])
            self.reads.append(self.counter.reads[threading.get_ident()])
            yield batch


class Counter:
    """Counts, by thread, which functions are called while it is entered; new threads only."""

    def __init__(self) -> None:
        self.calls: dict[int, int] = {}
        self.reads: dict[int, int] = {}

    def __enter__(self) -> None:
        gc.disable()  # JAX is called when it runs, which is whenever it likes
        threading.setprofile(self._profile)

    def __exit__(self, *_: object) -> None:
        threading.setprofile(None)
        gc.enable()

    def _profile(self, frame: FrameType, event: str, arg: Any) -> None:
        thread = threading.get_ident()
        if thread not in self.calls:
            self.calls[thread] = self.reads[thread] = 0
        if event == "call":
            self.calls[thread] += 1
            if "jax" in frame.f_code.co_filename:
                self.reads[thread] += frame.f_code.co_name in READS
        elif event == "c_call":
            self.reads[thread] += getattr(arg, "__name__", "") in READS


@pytest.fixture(scope="module")
def trainer() -> fitbus.Trainer:
    made = fitbus.Trainer(Step(), {"w": np.float32(0)}, max_in_flight=1)
    for steps in (1, TOGETHER):
        made.fit_sync([np.ones(4, np.float32)] * 3, steps_per_execution=steps)
    return made


def counted(
    trainer: fitbus.Trainer, callbacks: list[Any], count: int = 160, **more: Any
) -> Batches:
    batches = Batches(count)
    with batches.counter:
        trainer.fit_sync(batches, callbacks=callbacks, **more)
    return batches


def listeners(count: int, *kinds: type[Event]) -> list[Any]:
    """Concurrent handlers."""

    def make() -> Callable[[Any], Any]:
        async def listen(event: Event) -> None:
            pass

        return fitbus.handler(*kinds, wait=False)(listen)

    return [make() for _ in range(count)]


def nobody() -> list[Any]:
    return []


def of_epochs() -> list[Any]:
    """Waited for, too."""
    waiting = fitbus.handler(EpochBegin, EpochEnd)(lambda event: None)
    return [*listeners(3, EpochBegin, EpochEnd, TrainEnd), waiting, fitbus.callbacks.History()]


def of_a_thousand_other_types() -> list[Any]:

    def define() -> type[Event]:
        class Other(Event):
            """Nobody publishes it."""

        return Other

    return [listener for _ in range(1000) for listener in listeners(1, define())]


def of_none_of_a_thousand_types() -> list[Any]:
    assert len(of_a_thousand_other_types()) == 1000
    return []


@pytest.mark.parametrize(
    "callbacks", [nobody, of_epochs, of_a_thousand_other_types, of_none_of_a_thousand_types]
)
def test_who_doesnt_listen_to_batches_costs_them_nothing(
    trainer: fitbus.Trainer, callbacks: Callable[[], list[Any]]
) -> None:
    """Not one function is called more for a batch, and nothing is read from the device."""
    plain = counted(trainer, [])
    found = counted(trainer, callbacks())
    begin, end = 10, -10
    assert found.calls[end] - found.calls[begin] == plain.calls[end] - plain.calls[begin]
    assert found.reads[end] == found.reads[begin]
    each = set(np.diff(found.calls[begin:end]))
    assert len(each) == 1


def test_what_is_read_is_seen(trainer: fitbus.Trainer) -> None:
    """Else nothing was shown: a handler of batches is told a value of each."""
    found = counted(trainer, listeners(1, BatchEnd))
    assert found.reads[-10] - found.reads[10] >= 140


def a_batch(found: Batches, skipped: int = 2 * TOGETHER) -> float:
    """Functions that were called, by batch; but for those at the beginning and at the end."""
    return (found.calls[-skipped] - found.calls[skipped]) / (len(found) - 2 * skipped)


def test_subscribers_to_batches_cost_training_a_part_of_a_call_each(
    trainer: fitbus.Trainer,
) -> None:
    """Of steps that are published together; by so many subscribers more, and in proportion."""
    costs = {
        count: a_batch(
            counted(
                trainer,
                listeners(count, BatchEnd),
                20 * TOGETHER,
                steps_per_execution=TOGETHER,
            )
        )
        for count in (0, 1, 10, 20)
    }
    assert costs[10] - costs[1] <= 9 * 0.5
    assert costs[20] - costs[0] <= 2 * (costs[10] - costs[0])
    assert costs[20] - costs[10] <= 10 * 0.5


def stuck() -> list[Any]:
    """A subscriber that never comes back from its first event, and loses the oldest ones."""

    @fitbus.handler(Event, wait=False, overflow="drop_oldest", buffer_size=100)
    async def hang(event: Event) -> None:
        await anyio.sleep_forever()

    return [hang]


@pytest.mark.slow
@pytest.mark.parametrize("callbacks", [nobody, stuck])
def test_the_last_batches_of_many_cost_what_the_first_ones_did(
    trainer: fitbus.Trainer, callbacks: Callable[[], list[Any]]
) -> None:
    """Where nobody listens, and where somebody is stuck."""
    found = counted(trainer, callbacks(), 20_000, drain_s=0)
    first, last = (found.calls[b] - found.calls[a] for a, b in ((1000, 2000), (-1001, -1)))
    assert first > 10_000
    assert last == pytest.approx(first, rel=0.01)
