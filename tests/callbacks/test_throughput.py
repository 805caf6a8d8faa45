"""Steps and examples a second, and the share of time that training waits for its input."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

import fitbus
from fitbus.callbacks import Callback, EarlyStopping, Logs, Throughput
from fitbus.errors import InvalidArgumentError
from fitbus.testing import toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(96)
TRAINER = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
NAMES = ["examples_per_second", "input_wait", "steps_per_second"]


async def fit(*callbacks: Any, **arguments: Any) -> fitbus.History:
    given: dict[str, Any] = {"batch_size": 16, **arguments}
    return await TRAINER.fit(PROBLEM.x, PROBLEM.y, callbacks=callbacks, **given)


def figures(measures: Throughput) -> dict[str, float]:
    return {name: getattr(measures, name) for name in NAMES}


def takes(seconds: float) -> None:
    """Is slow, as a disk is, without using a processor: time itself is measured here.

    Nothing is waited for; nobody sets the event.
    """
    threading.Event().wait(seconds)


def batches(wait_s: float, short: int = 0) -> Iterator[Any]:
    """Six batches of 16 that take their time; the last one may be short."""
    for start in range(0, 96, 16):
        takes(wait_s)
        end = start + 16 - (short if start == 80 else 0)
        yield PROBLEM.x[start:end], PROBLEM.y[start:end]


async def test_a_slow_source_is_what_training_waits_for() -> None:
    """Then the speeds are its speeds."""
    measures = Throughput()
    history = await TRAINER.fit(lambda: batches(0.02), epochs=2, callbacks=[measures])
    assert sorted(history.history) == ["loss", "mean_absolute_error"]
    found = figures(measures)
    assert 0.5 < found["input_wait"] <= 1
    assert 5 < found["steps_per_second"] < 50
    assert found["examples_per_second"] == pytest.approx(16 * found["steps_per_second"])


async def test_examples_of_whole_epochs_are_exact() -> None:
    """Without those that fill up a short batch; validation isn't part of the time."""
    measures = Throughput()

    class Slow(Callback):
        def on_test_end(self, logs: Logs | None = None) -> None:
            takes(0.3)

    started = time.perf_counter()
    await TRAINER.fit(
        lambda: batches(0.0, short=13),
        epochs=2,
        validation_data=(PROBLEM.x, PROBLEM.y),
        callbacks=[measures, Slow()],
    )
    assert time.perf_counter() - started > 0.6
    found = figures(measures)
    assert found["examples_per_second"] == pytest.approx(found["steps_per_second"] * 83 / 6)
    assert found["steps_per_second"] > 6 / 0.3
    assert 0 <= found["input_wait"] <= 1


async def test_the_first_epoch_is_measured_without_its_first_batch() -> None:
    """Before its end there may be a compilation; a single batch is measured with all of it."""
    measures = Throughput()

    class First(Callback):
        def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
            takes(0.3)

    await fit(measures, First())
    assert measures.steps_per_second is not None
    assert measures.steps_per_second > 2 * 6 / 0.3
    await fit(measures, First(), batch_size=96)
    assert measures.steps_per_second < 1 / 0.3


async def test_it_adds_to_the_logs_where_asked_to() -> None:
    """Under the attributes' names, in each epoch; a monitor of one is known, and else refused."""
    stops = EarlyStopping("steps_per_second", mode="max", patience=100)
    with pytest.raises(InvalidArgumentError, match=r"EarlyStopping\.monitor"):
        await fit(Throughput(), stops)
    measures = Throughput(log=True)
    history = await fit(measures, stops, epochs=3, validation_split=0.5)
    for name in NAMES:
        assert len(history.history[name]) == 3
        assert history.history[name][-1] == getattr(measures, name)
    assert min(history.history["steps_per_second"]) > 0


async def test_it_looks_now_and_then_and_publishes_where_asked_to() -> None:
    """Within an epoch, over its last seconds."""
    seen: list[Throughput.Measured] = []

    def see(event: Throughput.Measured) -> None:
        seen.append(event)

    measures = Throughput(every_s=0.03, window_s=0.1, publish=True)
    await TRAINER.fit(lambda: batches(0.02), epochs=2, callbacks=[measures, see])
    assert 2 <= len(seen) <= 10
    for event in seen:
        assert 5 < event.steps_per_second < 50
        assert event.examples_per_second == pytest.approx(16 * event.steps_per_second, rel=0.5)
        assert 0.3 < event.input_wait <= 1
    codec = fitbus.Codec(Throughput.Measured)
    assert codec.from_json(codec.to_json(seen[0])) == seen[0]


async def test_what_lies_before_the_window_does_not_count() -> None:
    def batches() -> Iterator[Any]:
        for number in range(33):
            takes(0.0 if number < 30 else 0.11)
            yield PROBLEM.x[:16], PROBLEM.y[:16]

    seen: list[Throughput.Measured] = []

    def see(event: Throughput.Measured) -> None:
        seen.append(event)

    measures = Throughput(every_s=1e-6, window_s=0.15, publish=True)
    await TRAINER.fit(batches, callbacks=[measures, see])
    assert seen[-1].steps_per_second < 20
    assert measures.steps_per_second is not None
    assert measures.steps_per_second > seen[-1].steps_per_second  # that of the whole epoch


async def test_examples_of_steps_in_flight_do_not_count_yet() -> None:
    measures = Throughput()
    found: list[float] = []

    def look(event: fitbus.EpochEnd) -> None:
        found.extend(measures._sample(event.step - ahead).examples for ahead in (0, 1, 2))

    await fit(measures, look)
    assert found == [96, 80, 64]


async def test_otherwise_nothing_is_published_and_no_batch_is_waited_for() -> None:
    async with TRAINER.run(
        PROBLEM.x, PROBLEM.y, batch_size=16, epochs=3, callbacks=[Throughput(every_s=1e-6)]
    ) as run:
        await run.wait()
    assert run.report is not None
    by_name = {subscriber.name: subscriber for subscriber in run.report.subscribers}
    assert sorted(by_name) == ["Throughput", "Throughput batches"]
    assert by_name["Throughput batches"].delivered == 0
    assert by_name["Throughput"].delivered == 1 + 2 * 3


async def test_it_is_used_again_and_begins_anew() -> None:
    measures = Throughput()
    assert measures.steps_per_second is None
    await fit(measures)
    first = figures(measures)
    with pytest.raises(ZeroDivisionError):
        await fit(measures, fitbus.callbacks.LambdaCallback(on_epoch_begin=lambda *_: 1 / 0))
    assert measures.steps_per_second is None
    await fit(measures)
    assert figures(measures) != first
    assert measures.state_dict() == {}
    measures.load_state_dict({})


async def test_a_cancelled_training_leaves_what_was_measured() -> None:
    measures = Throughput()
    with anyio.CancelScope() as scope:

        class Cancels(Callback):
            async def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
                scope.cancel()

        await fit(measures, Cancels(), epochs=10_000)
    assert scope.cancelled_caught
    assert measures.steps_per_second is not None


BAD: dict[str, list[Any]] = {
    "log": [None, 1],
    "publish": [None, 1],
    "window_s": [0, -1, math.inf, math.nan, None, "1", True],
    "every_s": [0, -1, math.inf, math.nan, None, "1", True],
}


@pytest.mark.parametrize(("argument", "value"), [(k, v) for k, vs in BAD.items() for v in vs])
def test_it_refuses(argument: str, value: Any) -> None:
    given: dict[str, Any] = {argument: value}
    with pytest.raises(InvalidArgumentError, match=rf"^Throughput\.{argument}: found "):
        Throughput(**given)
