"""How a run ends: by itself, by its block, by an error."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import fitbus
from fitbus import (
    BatchEnd,
    EpochEnd,
    Event,
    Run,
    SetLearningRate,
    StopTraining,
    TrainEnd,
)
from fitbus.control import Rejected
from fitbus.errors import (
    ControlRejectedError,
    FitbusError,
    RunEndedError,
    TrainerBusyError,
)
from fitbus.testing import EventRecorder, Gate, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(64, 4)
X, Y = PROBLEM.x, PROBLEM.y
FOREVER = 10**6
SHARED = fitbus.Trainer(PROBLEM.task, PROBLEM.params)


def breaks(event: Event) -> None:
    raise ZeroDivisionError("a handler's")


async def completes(run: Run[Any]) -> None:
    async with run:
        pass


async def is_stopped(run: Run[Any]) -> None:
    run.post(StopTraining())
    async with run:
        pass


async def fails(run: Run[Any]) -> None:
    run.add(breaks, EpochEnd)
    with pytest.raises(ZeroDivisionError):
        async with run:
            pass


async def is_cancelled(run: Run[Any]) -> None:
    with anyio.CancelScope() as scope:
        async with run:
            scope.cancel()
    assert scope.cancelled_caught


async def cannot_start(run: Run[Any]) -> None:
    """Its trainer is at something else."""
    async with SHARED.run(X, Y, batch_size=32, epochs=FOREVER) as other:
        with pytest.raises(TrainerBusyError):
            async with run:
                pass
        await other.send(StopTraining())


Ending = Callable[[Run[Any]], Awaitable[None]]


def to_be_ended(trainer: fitbus.Trainer, ending: Ending) -> Run[Any]:
    return trainer.run(X, Y, batch_size=32, epochs=1 if ending is completes else FOREVER)


ENDINGS: dict[Ending, str] = {
    completes: "completed",
    is_stopped: "stopped",
    fails: "failed",
    is_cancelled: "cancelled",
    cannot_start: "failed",
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_after_its_end_nobody_waits_for_ever(trainer: fitbus.Trainer, ending: Ending) -> None:
    """Neither who waits since before, nor who comes later; the status stays."""
    run = to_be_ended(trainer, ending)
    ended: list[RunEndedError] = []
    streamed: list[Event] = []

    async def wait_for_ever() -> None:
        with pytest.raises(RunEndedError, match="ended before a matching BatchEnd came") as caught:
            await run.wait_for(BatchEnd, where=lambda event: event.batch > FOREVER)
        ended.append(caught.value)

    async def stream_it(stream: Any) -> None:
        async with stream:
            streamed.extend([event async for event in stream])

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_for_ever)
            tasks.start_soon(stream_it, run.subscribe(TrainEnd))
            await anyio.wait_all_tasks_blocked()
            await ending(run)
        assert run.status == ENDINGS[ending]
        assert [error.run for error in ended] == [run.id]
        assert len(streamed) == (0 if ending is cannot_start else 1)
        receipt = run.post(SetLearningRate(0.1))
        assert isinstance(receipt.outcome, Rejected)
        with pytest.raises(ControlRejectedError, match="too late"):
            await receipt
        with pytest.raises(ControlRejectedError, match="too late"):
            await run.send(StopTraining())
        with pytest.raises(RunEndedError, match=run.id):
            await run.wait_for(TrainEnd)
        with pytest.raises(RunEndedError, match=run.id):
            run.subscribe(TrainEnd)
        with pytest.raises(RunEndedError, match=run.id):
            run.add(print, TrainEnd)
        if ENDINGS[ending] in ("completed", "stopped"):
            assert await run.wait() is await run.wait()
        else:
            with pytest.raises(FitbusError if ending is not fails else ZeroDivisionError):
                await run.wait()
        assert int((await run.snapshot()).step) == int(trainer.state.step)
    assert run.status == ENDINGS[ending]


@pytest.mark.parametrize("ending", [completes, is_stopped, fails, is_cancelled])
async def test_what_is_to_be_done_at_its_end_is_done_once(
    trainer: fitbus.Trainer, ending: Ending
) -> None:
    """In the event loop, when the handlers are through."""
    run = to_be_ended(trainer, ending)
    done: list[str] = []

    async def slow(event: TrainEnd) -> None:
        await anyio.lowlevel.checkpoint()
        done.append("handled")

    run.add(slow, wait=False)
    run.at_end(lambda: done.append(f"{run.status} in {threading.current_thread().name}"))
    run.at_end(lambda: done.append("second"))
    await ending(run)
    here = threading.current_thread().name
    assert done == ["handled", f"{ENDINGS[ending]} in {here}", "second"]


async def test_an_error_at_its_end_leaves_the_block(trainer: fitbus.Trainer) -> None:
    """Training is done all the same, and what else is to be done, too."""
    run = trainer.run(X, Y, batch_size=32)
    done: list[int] = []

    def broken() -> None:
        raise ZeroDivisionError("at the end")

    run.at_end(broken)
    run.at_end(lambda: done.append(1))
    with pytest.raises(ZeroDivisionError, match="at the end"):
        async with run:
            pass
    assert (done, int(trainer.state.step) > 0) == ([1], True)


# How its block is left.


async def test_leaving_the_block_waits_for_its_end_and_its_handlers(
    trainer: fitbus.Trainer,
) -> None:
    run = trainer.run(X, Y, batch_size=32)
    gate = Gate()
    handled: list[int] = []

    async def slow(event: TrainEnd) -> None:
        await gate.pass_async()
        handled.append(event.seq)

    run.add(slow, wait=False)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(completes, run)
        await gate.wait_arrived()
        await anyio.wait_all_tasks_blocked()
        assert run.status in ("running", "finishing")
        gate.open()
    assert (run.status, len(handled)) == ("completed", 1)


async def test_an_error_is_raised_once_to_who_waits_or_by_the_block(
    trainer: fitbus.Trainer,
) -> None:
    """As itself; who waits later gets it again."""
    run = trainer.run(X, Y, batch_size=32, callbacks=[fitbus.handler(EpochEnd)(breaks)])
    async with run:
        with pytest.raises(ZeroDivisionError) as first:
            await run.wait()
    with pytest.raises(ZeroDivisionError) as again:
        await run.wait()
    assert again.value is first.value
    run = trainer.run(X, Y, batch_size=32, callbacks=[fitbus.handler(EpochEnd)(breaks)])
    with pytest.raises(ZeroDivisionError, match="a handler's"):
        async with run:
            pass


async def leave_by(error: BaseException, run: Run[Any], until: Awaitable[object]) -> BaseException:
    """What leaves the block when its body raises."""

    async def body() -> None:
        async with run:
            with contextlib.suppress(ZeroDivisionError):
                await until
            raise error

    with pytest.raises(type(error)) as caught:
        await body()
    return caught.value


@pytest.mark.parametrize("kind", [KeyError, KeyboardInterrupt, SystemExit])
async def test_a_body_that_raises_cancels_the_run(
    trainer: fitbus.Trainer, kind: type[BaseException]
) -> None:
    """Its error leads, as itself."""
    run = trainer.run(X, Y, batch_size=32, epochs=FOREVER)
    recorder = EventRecorder()
    run.add(recorder, TrainEnd)
    error = kind("the body's")
    assert await leave_by(error, run, run.wait_for(BatchEnd)) is error
    assert (run.status, getattr(error, "__notes__", [])) == ("cancelled", [])
    assert [event.reason for event in recorder.of(TrainEnd)] == ["cancelled"]


async def test_a_body_that_raises_after_the_end_changes_nothing(trainer: fitbus.Trainer) -> None:
    run = trainer.run(X, Y, batch_size=32)
    error = KeyError("the body's")
    assert await leave_by(error, run, run.wait()) is error
    assert (run.status, getattr(error, "__notes__", [])) == ("completed", [])


async def test_a_body_that_raises_beside_a_failed_run_tells_of_both(
    trainer: fitbus.Trainer,
) -> None:
    """The body's leads, the run's is in its notes."""
    run = trainer.run(X, Y, batch_size=32)
    run.add(breaks, EpochEnd)
    error = KeyError("the body's")
    assert await leave_by(error, run, run.wait()) is error
    assert run.status == "failed"
    assert error.__notes__ == ["fitbus: the run also raised ZeroDivisionError: a handler's"]
