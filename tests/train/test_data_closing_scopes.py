"""Closing an async source that holds scopes open, or takes its time."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import fitbus
from fitbus import BatchEnd, TrainEnd
from fitbus.errors import FitbusError
from fitbus.testing import EventRecorder, Gate, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(64, 4)
X, Y = PROBLEM.x, PROBLEM.y
BATCH = (X[:32], Y[:32])
FOREVER = 10**6


@pytest.fixture(scope="module")
def trainer() -> fitbus.Trainer:
    return fitbus.Trainer(PROBLEM.task, PROBLEM.params)


async def test_a_task_group_that_a_source_holds_open_is_left(trainer: fitbus.Trainer) -> None:
    """Left early, as `async with` around a `yield` is left: its tasks are cancelled."""
    ended: list[str] = []

    async def beside() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("task")

    async def batches() -> AsyncIterator[Any]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(beside)
            while True:
                yield BATCH

    recorder = EventRecorder()
    await trainer.fit(batches, epochs=2, steps_per_epoch=2, callbacks=[recorder])
    assert ended == ["task"]
    assert [end.reason for end in recorder.of(TrainEnd)] == ["completed"]


async def test_a_scope_that_cancels_between_two_batches_is_told_of(
    trainer: fitbus.Trainer,
) -> None:
    """The data don't just end there."""
    scopes: list[anyio.CancelScope] = []

    async def batches() -> AsyncIterator[Any]:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            while True:
                yield BATCH

    async def cancel(event: BatchEnd) -> None:
        scopes[0].cancel()
        await anyio.lowlevel.checkpoint()

    with pytest.raises(FitbusError, match="cancelled between two batches"):
        await trainer.fit(
            batches,
            steps_per_epoch=FOREVER,
            callbacks=[fitbus.handler(BatchEnd, wait=True)(cancel)],
        )


async def test_closing_may_wait(trainer: fitbus.Trainer) -> None:
    """`fit` returns after it, and controls are answered meanwhile."""
    gate, closed = Gate(), []

    async def batches() -> AsyncIterator[Any]:
        try:
            while True:
                yield BATCH
        finally:
            await gate.pass_async()
            closed.append("x")

    run = trainer.run(batches, steps_per_epoch=2)
    async with run:
        await gate.wait_arrived()
        assert int((await run.snapshot()).step) > 0
        assert run.status == "finishing"
        gate.open()
        await run.wait()
    assert closed == ["x"]


async def test_closing_gets_no_more_than_the_grace_period(
    trainer: fitbus.Trainer, caplog: pytest.LogCaptureFixture
) -> None:
    """A cancelled `fit` leaves as cancelled, and a warning names the source."""
    gate = Gate()

    async def never_closed() -> AsyncIterator[Any]:
        try:
            while True:
                yield BATCH
        finally:
            await gate.pass_async()
            raise AssertionError("nobody opens it")

    started = anyio.current_time()
    with caplog.at_level(logging.WARNING, "fitbus"), anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: trainer.fit(never_closed, steps_per_epoch=2, grace_s=0.2))
            await gate.wait_arrived()
            started = anyio.current_time()
            scope.cancel()
    assert anyio.current_time() - started < 2
    (warning,) = caplog.messages
    assert "never_closed" in warning
    assert (await trainer.fit(X, Y, batch_size=32)).epoch == [0]
