"""What happens once a step: nothing is compiled, read or waited for that needn't be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitbus
from fitbus import (
    BatchBegin,
    BatchEnd,
    Callback,
    Control,
    EpochEnd,
    Event,
    ScaleLearningRate,
    SetLearningRate,
)
from fitbus.testing import EventRecorder, toy_problem

from ._bad_input import Mean

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(100, 4)
X, Y = PROBLEM.x, PROBLEM.y


# Compilation.


def counted() -> tuple[fitbus.Supervised, list[str]]:
    """A task, and which of its functions were called: once a trace, if compiled."""
    calls: list[str] = []

    def apply(params: Any, x: Any) -> Any:
        calls.append("apply")
        return PROBLEM.task.apply(params, x)

    def loss(predictions: Any, y: Any) -> Any:
        calls.append("loss")
        return (predictions - y) ** 2

    def error(predictions: Any, y: Any) -> Any:
        calls.append("error")
        return jnp.abs(predictions - y)

    return fitbus.Supervised(apply, loss, optax.adam, 0.1, metrics={"error": error}), calls


async def test_the_train_step_is_traced_and_compiled_once(compiled: list[str]) -> None:
    """With a short last batch, five learning rates, all kinds of subscribers, and a second fit."""
    task, calls = counted()
    trainer = fitbus.Trainer(task, PROBLEM.params)
    rates: list[float] = []

    def look(event: EpochEnd) -> SetLearningRate:
        rates.append(float(run.state.opt_state.hyperparams["learning_rate"]))
        return SetLearningRate(0.1 / (2 + event.epoch))

    run = trainer.run(X, Y, batch_size=32, epochs=6, callbacks=[look, EventRecorder()])
    async with run:
        pass
    np.testing.assert_allclose(rates, [0.1 / (1 + epoch) for epoch in range(6)], rtol=1e-6)
    assert calls == ["apply", "loss", "error"]
    assert compiled.count("jit(step)") == 1

    await trainer.fit(X, Y, batch_size=32, epochs=2)
    assert int(trainer.state.step) == 8 * 4
    await trainer.fit([(X[:32], Y[:32]), (X[32:42], Y[32:42])])
    assert calls == ["apply", "loss", "error"]
    assert compiled.count("jit(step)") == 1


async def test_a_second_fit_compiles_nothing_at_all(compiled: list[str]) -> None:
    """Nor do a second evaluation and a second prediction; controls included."""
    task, calls = counted()
    trainer = fitbus.Trainer(task, PROBLEM.params)

    def steer(event: BatchEnd) -> list[Control]:
        return [SetLearningRate(0.1), ScaleLearningRate(0.5)]

    async def everything() -> None:
        validation = (X[:40], Y[:40])
        await trainer.fit(X, Y, batch_size=32, validation_data=validation, callbacks=[steer])
        await trainer.fit(X, Y, batch_size=32)
        await trainer.evaluate(X, Y, batch_size=32)
        await trainer.predict(X, batch_size=32)

    await everything()
    assert calls == ["apply", "loss", "error"] * 2 + ["apply"]
    compiled.clear()
    await everything()
    assert len(calls) == 7
    assert compiled == []


async def test_another_trainer_traces_for_itself() -> None:
    """A task holds no trace, so that changing what it refers to acts on the next trainer."""
    task, calls = counted()
    for _ in range(2):
        await fitbus.Trainer(task, PROBLEM.params).fit(X, Y, batch_size=32)
    assert calls == ["apply", "loss", "error"] * 2


# Running ahead. A batch whose values take a tenth of a second to come stands for a slow device:
# a step that is given it can't be read before, while all that doesn't wait takes milliseconds.


@jax.jit
def late(x: Any) -> Any:
    """Gives x; takes long."""
    spun = jax.lax.fori_loop(0, 80_000, lambda _, a: jnp.sin(a) + 1, x)
    return jnp.where(spun < 3, x, spun)


class Watched(list[Any]):
    """Batches. Calls a function as each is taken, in the training thread."""

    look: Callable[[], object]

    def __iter__(self) -> Iterator[Any]:
        for batch in super().__iter__():
            self.look()
            yield batch


ONES = jnp.ones(1024)  # JAX computes what is smaller on the spot
LIMIT = 5


@pytest.fixture(scope="module")
def trainers() -> dict[int, fitbus.Trainer]:
    """By how many steps may be in flight; their steps are compiled."""
    made = {n: fitbus.Trainer(Mean(), {"w": np.zeros(1)}, max_in_flight=n) for n in (1, LIMIT, 64)}
    for trainer in made.values():
        trainer.fit_sync([ONES])
    jax.block_until_ready(late(ONES))
    return made


def rarely() -> list[Any]:
    return [fitbus.handler(EpochEnd)(lambda event: None), EpochHooks()]


def often() -> list[Any]:
    async def task(event: BatchEnd) -> None:
        event.logs["mean"]

    return [task, fitbus.handler(Event, wait=False)(lambda event: None), AsyncBatchHooks()]


class EpochHooks(Callback):
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        pass

    def on_train_end(self, logs: Any = None) -> None:
        pass


class AsyncBatchHooks(Callback):
    async def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        pass


@pytest.mark.parametrize("callbacks", [list, rarely, often], ids=["nobody", "rarely", "often"])
async def test_nothing_waits_for_the_device(
    trainers: dict[int, fitbus.Trainer], callbacks: Callable[[], list[Any]]
) -> None:
    """No value is read, and no step awaited, before an epoch is dispatched to its end.

    Whoever listens, but for handlers of batches that training waits for.
    """
    trainer = trainers[64]
    pending = late(2 * ONES)
    ready: list[bool] = []
    batches = Watched([pending, *[ONES] * 19])
    batches.look = lambda: ready.append(pending.is_ready())
    history = await trainer.fit(batches, callbacks=callbacks())
    assert ready == [False] * 20
    assert history.history == {"mean": [pytest.approx(1.05)]}


async def test_a_waiting_handler_of_batches_waits_for_the_device(
    trainers: dict[int, fitbus.Trainer],
) -> None:
    """It sees each step's values before the next one: that is what it asks for."""
    trainer = trainers[64]
    pending = late(2 * ONES)
    seen: list[float] = []
    taken: list[list[float]] = []
    batches = Watched([pending, ONES, ONES])
    batches.look = lambda: taken.append(list(seen))

    def wait(event: BatchEnd) -> None:
        seen.append(event.batch_logs["mean"])

    await trainer.fit(batches, callbacks=[wait])
    assert taken == [[], [2], [2, 1]]


@pytest.mark.parametrize("limit", [1, LIMIT])
async def test_steps_in_flight_are_bounded(trainers: dict[int, fitbus.Trainer], limit: int) -> None:
    """By `max_in_flight`, which they reach where the device is slow."""
    trainer = trainers[limit]
    taken = published = 0
    in_flight: list[int] = []

    def look() -> None:
        nonlocal taken
        in_flight.append(taken - published)  # before this batch is dispatched
        taken += 1

    def land(event: BatchEnd) -> bool:
        nonlocal published
        in_flight.append(taken - published)  # `where` is asked in the training thread
        published += 1
        return True

    batches = Watched([late(ONES), *[ONES] * 20])
    batches.look = look
    listening = fitbus.handler(BatchEnd, wait=False, where=land)(lambda event: None)
    run = trainer.run(batches, callbacks=[listening])
    async with run:
        pass
    assert max(in_flight) == limit
    assert published == taken == 21
    assert run.statistics().steps_in_flight == limit


async def test_an_event_comes_with_its_values_and_before_the_next_ones(
    trainers: dict[int, fitbus.Trainer],
) -> None:
    """Begin and end of each batch together, in order, as soon as its own values are there."""
    trainer = trainers[LIMIT]
    first = late(ONES)
    second = late(first)
    recorder = EventRecorder()
    second_is_there: list[bool] = []

    def look(event: BatchEnd) -> bool:
        if event.batch == 0:
            second_is_there.append(second.is_ready())
        return True

    @fitbus.handler(BatchEnd, wait=False, where=look)
    def watch(event: BatchEnd) -> None:
        pass

    @fitbus.handler(BatchBegin, BatchEnd, wait=False)
    def keep(event: Event) -> None:
        recorder(event)

    await trainer.fit([first, 2 * second, *[4 * ONES] * 8], callbacks=[keep, watch])
    assert [e.batch_logs["mean"] for e in recorder.of(BatchEnd)] == [1, 2] + [4] * 8
    assert recorder.names == ["BatchBegin", "BatchEnd"] * 10
    assert [e.seq for e in recorder.events] == list(range(2, 22))
    assert second_is_there == [False]
