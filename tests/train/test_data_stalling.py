"""A stop ends a run whose async validation data stall.

Scenario 30.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest

import fitbus
from fitbus import BatchEnd, EpochEnd, Evaluate, StopTraining, TestBatchEnd, TestEnd, TrainEnd
from fitbus.errors import ControlRejectedError
from fitbus.testing import EventRecorder, Gate, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(64, 4)
X, Y = PROBLEM.x, PROBLEM.y
BATCH = (X[:32], Y[:32])
FOREVER = 10**6


@pytest.fixture(scope="module")
def trainer() -> fitbus.Trainer:
    return fitbus.Trainer(PROBLEM.task, PROBLEM.params)


def stalling(gate: Gate, before: int) -> Callable[[], AsyncIterator[Any]]:
    """Batches, and then none until the gate is open."""

    async def batches() -> AsyncIterator[Any]:
        for _ in range(before):
            yield BATCH
        await gate.pass_async()
        yield BATCH

    return batches


async def stopped(trainer: fitbus.Trainer, *, before: int, validate: bool) -> EventRecorder:
    gate, recorder = Gate(), EventRecorder()
    run = trainer.run(
        X, Y, epochs=FOREVER, validation_data=stalling(gate, before), callbacks=[recorder]
    )
    async with run:
        await gate.wait_arrived()
        with anyio.fail_after(5):
            await run.send(StopTraining("tired of waiting", validate=validate))
            history = await run.wait()
    assert run.status == "stopped"
    assert recorder.of(TrainEnd)[0].detail == "tired of waiting"
    assert not [name for name in history.history if name.startswith("val_")]
    return recorder


@pytest.mark.parametrize("before", [1, 3])
async def test_one_without_validation_ends_the_wait_at_once(
    trainer: fitbus.Trainer, before: int
) -> None:
    """Means of a part would pass for those of all, so there are none."""
    started = anyio.current_time()
    recorder = await stopped(trainer, before=before, validate=False)
    assert anyio.current_time() - started < 2
    assert len(recorder.of(TestBatchEnd)) == before
    assert [end.logs for end in recorder.of(TestEnd)] == [{}]
    (end,) = recorder.of(EpochEnd)
    assert sorted(end.logs) == ["loss", "mean_absolute_error"]


@pytest.mark.slow
async def test_one_with_validation_waits_a_little(trainer: fitbus.Trainer) -> None:
    """It is slow, perhaps; but then it isn't waited for any more."""
    recorder = await stopped(trainer, before=2, validate=True)
    assert len(recorder.of(TestBatchEnd)) == 2
    assert [end.logs for end in recorder.of(TestEnd)] == [{}]


async def test_what_comes_in_time_is_validated(trainer: fitbus.Trainer) -> None:
    """A stop before the validation, and one during it, don't call off an async source."""
    recorder = EventRecorder()

    async def batches() -> AsyncIterator[Any]:
        for _ in range(3):
            yield BATCH

    def stop(event: BatchEnd | TestBatchEnd) -> StopTraining:
        return StopTraining("enough")

    history = await trainer.fit(
        X, Y, epochs=FOREVER, validation_data=batches, callbacks=[recorder, stop]
    )
    assert len(recorder.of(TestBatchEnd)) == 3
    assert len(history.history["val_loss"]) == 1


async def test_one_at_the_first_look_at_the_validation_data(trainer: fitbus.Trainer) -> None:
    gate, recorder = Gate(), EventRecorder()
    run = trainer.run(X, Y, validation_data=stalling(gate, 0), callbacks=[recorder])
    async with run:
        await gate.wait_arrived()
        with anyio.fail_after(5):
            await run.send(StopTraining())
            await run.wait()
    assert run.status == "stopped"
    assert not recorder.of(BatchEnd)


async def test_an_evaluation_that_was_asked_for(trainer: fitbus.Trainer) -> None:
    """It stalls beside the training; the stop is applied meanwhile, and it is rejected."""
    gate = Gate()
    passes: list[int] = []

    async def batches() -> AsyncIterator[Any]:
        passes.append(len(passes))
        if passes[-1] > 0:
            await gate.pass_async()
        yield BATCH

    run = trainer.run(X, Y, epochs=FOREVER, validation_data=batches, validation_freq=FOREVER)
    async with run:
        await run.wait_for(BatchEnd)
        evaluation = run.post(Evaluate())
        await gate.wait_arrived()
        with anyio.fail_after(5):
            await run.send(StopTraining(validate=False))
            await run.wait()
        with pytest.raises(ControlRejectedError, match="stalled"):
            await evaluation
    assert run.status == "stopped"
