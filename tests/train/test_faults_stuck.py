"""Threads that don't end in time: named, and waited for by whoever comes next.

Scenario 39.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.to_thread
import numpy as np
import optax
import pytest

import fitbus
from fitbus import (
    BatchBegin,
    BatchEnd,
    EpochBegin,
    EpochEnd,
    Event,
    TestBatchEnd,
    TestBegin,
    TrainBegin,
    TrainEnd,
    handler,
)
from fitbus.errors import ThreadStuckError, TrainerBusyError
from fitbus.testing import Gate, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(64, 4)
X, Y = PROBLEM.x, PROBLEM.y
FOREVER = 10**6


async def thread_ended() -> None:
    """Waits for the run's thread, without holding up the loop."""
    for thread in threading.enumerate():
        if thread.name.startswith("fitbus"):
            await anyio.to_thread.run_sync(thread.join, 10)
            assert not thread.is_alive()


async def stuck(
    trainer: fitbus.Trainer, gate: Gate, start: Callable[[], Any], match: str
) -> ThreadStuckError:
    """Cancels a call that is stuck at a gate; checks what everybody is told until it ends."""
    left: list[BaseException] = []

    async def work() -> None:
        with pytest.raises(ThreadStuckError, match=match) as caught:
            await start()
        left.append(caught.value)

    started = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        await gate.wait_arrived()
        tasks.cancel_scope.cancel()
    assert anyio.current_time() - started < 5
    (error,) = left
    assert isinstance(error, ThreadStuckError)
    for again in (
        lambda: trainer.fit(X, Y),
        lambda: trainer.evaluate(X, Y),
        lambda: trainer.predict(X),
    ):
        with pytest.raises(ThreadStuckError, match=match):
            await again()
    with pytest.raises(ThreadStuckError, match=match):
        _ = trainer.state
    gate.open()
    await thread_ended()
    assert trainer.state.step >= 0
    before = int(trainer.state.step)
    await trainer.fit(X, Y, batch_size=32)
    assert int(trainer.state.step) == before + 2
    return error


async def test_in_compilation() -> None:
    gate = Gate()

    def apply(params: Any, x: Any) -> Any:
        gate.pass_sync()
        return x @ params["w"] + params["b"]

    task = fitbus.Supervised(apply, PROBLEM.task.loss, optax.sgd, learning_rate=0.1)
    trainer = fitbus.Trainer(task, PROBLEM.params)
    error = await stuck(
        trainer, gate, lambda: trainer.fit(X, Y, grace_s=0.1), "still tracing the train step"
    )
    assert error.grace_s == 0.1
    assert error.activity == "tracing the train step"


@pytest.fixture(scope="module")
def trainer() -> fitbus.Trainer:
    """One for all: each test ends with a fit that works."""
    return fitbus.Trainer(PROBLEM.task, PROBLEM.params)


@pytest.mark.parametrize(
    ("after", "steps", "match"),
    [(0, 0, "waiting for the first batch"), (2, 3, "waiting for a batch")],
)
async def test_in_a_blocking_source(
    trainer: fitbus.Trainer, after: int, steps: int, match: str
) -> None:
    """At the first batch, or later, where the batch that came in the end still makes a step."""
    gate = Gate()
    before = int(trainer.state.step)

    def batches() -> Iterator[Any]:
        yield from itertools.repeat((X[:32], Y[:32]), after)
        gate.pass_sync()
        yield from itertools.repeat((X[:32], Y[:32]))

    await stuck(trainer, gate, lambda: trainer.fit(batches(), grace_s=0.1), match)
    assert int(trainer.state.step) == before + steps + 2


@pytest.mark.parametrize("after", [0, 1])
async def test_in_a_blocking_source_of_validation(trainer: fitbus.Trainer, after: int) -> None:
    gate = Gate()

    def batches() -> Iterator[Any]:
        yield from itertools.repeat((X[:32], Y[:32]), after)
        gate.pass_sync()
        yield X[:32], Y[:32]

    def start() -> Any:
        return trainer.fit(X, Y, batch_size=32, validation_data=batches, grace_s=0.1)

    first, later = (
        "waiting for the first batch of the validation data",
        "waiting for a batch to eval",
    )
    await stuck(trainer, gate, start, later if after else first)


@pytest.mark.parametrize(
    "kind", [TrainBegin, EpochBegin, BatchBegin, BatchEnd, TestBegin, TestBatchEnd, EpochEnd]
)
async def test_in_a_hung_def_handler(trainer: fitbus.Trainer, kind: type[Event]) -> None:
    """The error names the handler, and the event."""
    gate = Gate()

    @handler(kind, name="hanging")
    def hang(event: Event) -> None:
        gate.pass_sync()

    def start() -> Any:
        return trainer.fit(
            X,
            Y,
            batch_size=32,
            epochs=FOREVER,
            validation_data=(X, Y),
            callbacks=[hang],
            grace_s=0.1,
        )

    await stuck(trainer, gate, start, f"still in handler 'hanging' of {kind.__name__}")


async def test_in_a_hung_hook(trainer: fitbus.Trainer) -> None:
    """A callback's hook too."""
    gate = Gate()

    class Hangs(fitbus.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            gate.pass_sync()

    def start() -> Any:
        return trainer.fit(X, Y, batch_size=32, callbacks=[Hangs()], grace_s=0.1)

    await stuck(trainer, gate, start, "still in handler '.*Hangs' of EpochEnd")


async def test_in_the_last_hook(trainer: fitbus.Trainer) -> None:
    """`TrainEnd` itself: what hangs there isn't waited for without end."""
    gate = Gate()

    def hang(event: TrainEnd) -> None:
        gate.pass_sync()

    def start() -> Any:
        return trainer.fit(X, Y, batch_size=32, callbacks=[hang], grace_s=0.1)

    await stuck(trainer, gate, start, "still in handler '.*hang' of TrainEnd")


async def test_evaluate_and_predict(trainer: fitbus.Trainer) -> None:
    for call, doing in ((trainer.evaluate, "evaluate"), (trainer.predict, "predict")):
        gate = Gate()

        def batches(gate: Gate = gate) -> Iterator[Any]:
            yield X[:32], Y[:32]
            gate.pass_sync()

        def start(call: Any = call, batches: Any = batches) -> Any:
            return call(batches(), grace_s=0.1)

        await stuck(trainer, gate, start, f"still waiting for a batch to {doing}")


async def test_everybody_in_the_loop_gets_the_end(trainer: fitbus.Trainer) -> None:
    """`TrainEnd` comes from the loop, where the thread can't publish it; nothing follows it."""
    gate = Gate()
    reasons: list[str] = []
    names: list[str] = []

    async def waiting(event: TrainEnd) -> None:
        reasons.append(event.reason)

    @handler(TrainEnd, wait=False)
    async def concurrent(event: TrainEnd) -> None:
        reasons.append(event.reason)

    @handler(Event, wait=False)
    async def all_of_them(event: Event) -> None:
        names.append(type(event).__name__)

    def hang(event: EpochEnd) -> None:
        gate.pass_sync()

    def start() -> Any:
        return trainer.fit(
            X,
            Y,
            batch_size=32,
            epochs=FOREVER,
            callbacks=[waiting, concurrent, all_of_them, hang],
            grace_s=0.1,
        )

    await stuck(trainer, gate, start, "in handler")
    assert reasons == ["cancelled", "cancelled"]
    batch = ["BatchBegin", "BatchEnd"]
    assert names == ["TrainBegin", "EpochBegin", *batch, *batch, "EpochEnd", "TrainEnd"]


async def test_a_thread_that_fails_after_it_was_left_is_noted(
    trainer: fitbus.Trainer, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits for its error any more; the log has it."""
    gate = Gate()

    def batches() -> Iterator[Any]:
        yield X[:32], Y[:32]
        gate.pass_sync()
        raise ZeroDivisionError("too late")

    with caplog.at_level(logging.ERROR, "fitbus"):
        await stuck(trainer, gate, lambda: trainer.fit(batches(), grace_s=0.1), "a batch")
    assert "too late" in caplog.text


async def test_a_run_is_live_meanwhile() -> None:
    """Before it is cancelled, whoever wants the trainer is told of the run."""
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    gate = Gate()

    def hold(event: EpochBegin) -> None:
        gate.pass_sync()

    async with trainer.run(X, Y, batch_size=32, callbacks=[hold], run_id="mine") as run:
        await gate.wait_arrived()
        for call in (trainer.fit(X, Y), trainer.evaluate(X, Y), trainer.predict(X)):
            with pytest.raises(TrainerBusyError, match="'mine'"):
                await call
        with pytest.raises(TrainerBusyError, match=r"run\.snapshot"):
            _ = trainer.state
        gate.open()
        await run.wait()
    assert trainer.bus.statistics().subscriptions == ()
    assert np.isfinite(trainer.state.params["w"]).all()
