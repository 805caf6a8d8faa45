"""`Runs`: a service's runs by id, in the background, until its block is left."""

from __future__ import annotations

import gc
import logging
import re
import weakref
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

import fitbus
from fitbus import (
    Applied,
    BatchEnd,
    ControlApplied,
    EpochBegin,
    EpochEnd,
    Event,
    Pause,
    StopTraining,
    TestBegin,
    TrainBegin,
    TrainEnd,
)
from fitbus.errors import (
    FitbusError,
    InvalidArgumentError,
    RunCancelledError,
    RunEndedError,
    TrainerBusyError,
)
from fitbus.testing import EventRecorder, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(64, 4)
X, Y = PROBLEM.x, PROBLEM.y
FOREVER = 10**6
SHARED = tuple(fitbus.Trainer(PROBLEM.task, PROBLEM.params) for _ in range(3))


@pytest.fixture
def trainers() -> Iterator[tuple[fitbus.Trainer, ...]]:
    """Three for all tests of this file, so that their steps are compiled once."""
    yield SHARED
    for trainer in SHARED:
        assert trainer.bus.statistics().subscriptions == ()
        assert repr(trainer) == "<Trainer of Supervised: idle>"


def breaks(event: EpochEnd) -> None:
    raise ZeroDivisionError("a handler's")


async def test_runs_live_in_the_background_until_the_block_is_left(
    trainers: tuple[fitbus.Trainer, ...],
) -> None:
    """Then each is stopped at a boundary: the running, the paused and the one not yet begun.

    None of them validates any more.
    """
    recorders = [EventRecorder() for _ in trainers]
    options: Any = {"batch_size": 32, "epochs": FOREVER}
    async with fitbus.Runs() as runs:
        first = runs.start(
            *(trainers[0], X, Y),
            validation_data=(X[:32], Y[:32]),
            callbacks=[recorders[0]],
            **options,
        )
        second = runs.start(trainers[1], X, Y, callbacks=[recorders[1]], **options)
        assert first.status == "pending"
        await second.send(Pause())
        assert second.status == "paused"
        await first.wait_for(BatchEnd, where=lambda event: event.epoch > 0)
        third = runs.start(trainers[2], X, Y, callbacks=[recorders[2]], **options)
    for run, recorder in zip((first, second, third), recorders, strict=True):
        assert run.status == "stopped"
        (end,) = recorder.of(TrainEnd)
        assert (end.reason, end.detail, end.source) == (
            *("stopped", "the service is shutting down"),
            "Runs",
        )
        assert (await run.wait()).epoch == [event.epoch for event in recorder.of(EpochEnd)]
        stopped = max(event.seq for event in recorder.of(ControlApplied))
        assert not [event for event in recorder.of(TestBegin) if event.seq > stopped]
    assert recorders[2].names == ["TrainBegin", "ControlApplied", "TrainEnd"]
    assert repr(runs) == f"<Runs: {first.id} stopped, {second.id} stopped, {third.id} stopped>"


async def test_they_are_found_by_id(trainers: tuple[fitbus.Trainer, ...]) -> None:
    """One that was given, or a random one; ended ones stay."""
    async with fitbus.Runs() as runs:
        assert (len(runs), list(runs)) == (0, [])
        first = runs.start(trainers[0], X, Y, batch_size=32, run_id="nightly")
        second = runs.start(trainers[1], X, Y, batch_size=32)
        assert first.id == "nightly"
        assert re.fullmatch("[0-9a-f]{12}", second.id)
        await first.wait()
        await second.wait()
        assert list(runs.items()) == [("nightly", first), (second.id, second)]
        assert ("nightly" in runs, "other" in runs, len(runs)) == (True, False, 2)
        third = runs.start(trainers[0], X, Y, batch_size=32)
        assert third.id != second.id
        for unknown in (lambda: runs["other"], lambda: runs.stop("other")):
            with pytest.raises(KeyError, match="other"):
                unknown()
    assert runs["nightly"].status == "completed"


async def test_one_is_stopped_by_id(trainers: tuple[fitbus.Trainer, ...]) -> None:
    """The receipt tells the step; the others go on."""
    recorder = EventRecorder()
    async with fitbus.Runs() as runs:
        kept = runs.start(trainers[0], X, Y, batch_size=32, epochs=FOREVER)
        options: Any = {"batch_size": 32, "epochs": FOREVER, "callbacks": [recorder]}
        for reason in (["a user asked"], []):
            run = runs.start(trainers[1], X, Y, **options)
            await run.wait_for(BatchEnd)
            applied = await runs.stop(run.id, *reason)
            await run.wait()
            assert isinstance(applied, Applied)
            assert run.status == "stopped"
            end = recorder.of(TrainEnd)[-1]
            assert (end.detail, end.source) == ((reason or ["asked to stop"])[0], "Runs")
            assert end.step == applied.step
        assert await kept.wait_for(EpochBegin)
        assert kept.status == "running"


async def test_what_can_not_be_started_is_refused_at_once(
    trainers: tuple[fitbus.Trainer, ...],
) -> None:
    """An id that is taken, be its run over or not; a wrong argument; a block that isn't entered."""
    runs = fitbus.Runs()
    with pytest.raises(FitbusError, match=r"async with fitbus\.Runs"):
        runs.start(trainers[0], X, Y)
    async with runs:
        run = runs.start(trainers[0], X, Y, batch_size=32, run_id="taken")
        for _ in range(2):
            with pytest.raises(InvalidArgumentError, match=r"run_id: found 'taken'"):
                runs.start(trainers[1], X, Y, run_id="taken")
            await run.wait()
        with pytest.raises(InvalidArgumentError, match="epochs"):
            runs.start(trainers[1], X, Y, epochs=-1)
        with pytest.raises(FitbusError, match="open already"):
            await runs.__aenter__()
        assert [*runs] == ["taken"]
    with pytest.raises(FitbusError, match=r"async with fitbus\.Runs"):
        runs.start(trainers[0], X, Y)


async def test_a_busy_trainer_is_refused_at_once(trainers: tuple[fitbus.Trainer, ...]) -> None:
    """From the start of a run to its end, be it one of these or another; the first one goes on."""
    async with fitbus.Runs() as runs:
        first = runs.start(trainers[0], X, Y, batch_size=32, epochs=FOREVER)
        with pytest.raises(TrainerBusyError, match=f"{first.id}.* hasn't ended"):
            runs.start(trainers[0], X, Y)  # the first one is pending
        await first.wait_for(EpochBegin)
        with pytest.raises(TrainerBusyError, match=first.id):
            runs.start(trainers[0], X, Y)
        await runs.stop(first.id)
        await first.wait()
        await runs.start(trainers[0], X, Y).wait()
        async with trainers[1].run(X, Y, batch_size=32, epochs=FOREVER) as other:
            with pytest.raises(TrainerBusyError, match=other.id):
                runs.start(trainers[1], X, Y)
            await other.send(StopTraining())
    assert next(iter(runs)) == first.id
    assert [run.status for run in runs.values()] == ["stopped", "completed"]


async def test_ended_runs_are_kept_up_to_a_number(trainers: tuple[fitbus.Trainer, ...]) -> None:
    """The oldest are forgotten first; live ones don't count; one may be forgotten by its id."""
    async with fitbus.Runs(keep=2) as runs:
        live = runs.start(trainers[0], X, Y, batch_size=32, epochs=FOREVER, run_id="live")
        for id in "abc":
            await runs.start(trainers[1], X, Y, run_id=id).wait()
        last = runs.start(trainers[1], X, Y, run_id="d")
        assert list(runs) == ["live", "b", "c", "d"]
        await last.wait()
        runs.forget("b")
        assert list(runs) == ["live", "c", "d"]
        with pytest.raises(FitbusError, match=r"'live'.* hasn't ended"):
            runs.forget("live")
        with pytest.raises(KeyError):
            runs.forget("b")
        await live.wait_for(EpochEnd)
    with pytest.raises(InvalidArgumentError, match="keep: found -1"):
        fitbus.Runs(keep=-1)


async def test_a_run_that_has_ended_lets_go_of_its_data(
    trainers: tuple[fitbus.Trainer, ...],
) -> None:
    x, y, held = X.copy(), Y.copy(), X.copy()
    gone = [weakref.ref(array) for array in (x, y, held)]
    async with fitbus.Runs() as runs:
        run = runs.start(trainers[0], x, y, validation_data=(held, Y))
        await run.wait()
        del x, y, held
        gc.collect()
        assert [ref() for ref in gone] == [None, None, None]
        assert runs[run.id] is run


async def test_what_is_kept_of_an_ended_run_can_still_be_followed(
    trainers: tuple[fitbus.Trainer, ...],
) -> None:
    """Whoever lost the connection learns of the end; the stream ends with it."""
    async with fitbus.Runs() as runs:
        run = runs.start(trainers[0], X, Y, batch_size=32, epochs=3)
        await run.wait()
        await trainers[0].fit(X, Y)  # another run on the same bus
        async with run.subscribe(EpochEnd, TrainEnd, after=-1) as stream:
            events = [event async for event in stream]
        assert [type(event) for event in events] == [EpochEnd, EpochEnd, EpochEnd, TrainEnd]
        assert {event.run for event in events} == {run.id}
        async with runs[run.id].subscribe(TrainEnd, EpochEnd, after=events[1].seq) as stream:
            assert [event async for event in stream] == events[2:]
        async with runs[run.id].subscribe(EpochEnd, after=events[-1].seq) as stream:
            assert [event async for event in stream] == []
        with pytest.raises(RunEndedError, match=run.id):
            run.subscribe(EpochEnd)


async def test_one_that_fails_does_not_disturb_the_others(
    trainers: tuple[fitbus.Trainer, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """Its error is logged, and raised to who waits for it; it doesn't leave the block."""
    recorder = EventRecorder()
    async with fitbus.Runs() as runs:
        good = runs.start(trainers[0], X, Y, batch_size=32, epochs=FOREVER)
        bad = runs.start(trainers[1], X, Y, batch_size=32, callbacks=[breaks, recorder])
        await good.wait_for(EpochBegin)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError, match="a handler's"):
                await bad.wait()
        unseen = runs.start(trainers[2], X, Y, batch_size=32, callbacks=[breaks])
        await good.wait_for(EpochBegin)
        await runs.stop(good.id)
        await good.wait()
    assert [run.status for run in runs.values()] == ["stopped", "failed", "failed"]
    logged = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert logged == [f"run {bad.id!r} failed", f"run {unseen.id!r} failed"]
    assert recorder.of(TrainEnd)[0].reason == "failed"
    with pytest.raises(ZeroDivisionError, match="a handler's"):
        await unseen.wait()


async def test_leaving_by_an_error_cancels_them(trainers: tuple[fitbus.Trainer, ...]) -> None:
    """At once, the one not yet begun too; the error leaves as itself."""
    recorder = EventRecorder()
    runs = fitbus.Runs()

    async def body() -> None:
        async with runs:
            run = runs.start(trainers[0], X, Y, batch_size=32, epochs=FOREVER, callbacks=[recorder])
            await run.wait_for(EpochEnd)
            runs.start(trainers[1], X, Y, epochs=FOREVER)
            raise KeyError("the service's")

    with pytest.raises(KeyError, match="the service's"):
        await body()
    assert [run.status for run in runs.values()] == ["cancelled", "cancelled"]
    assert [event.reason for event in recorder.of(TrainEnd)] == ["cancelled"]
    with anyio.fail_after(20):
        for run in runs.values():
            with pytest.raises(RunCancelledError):
                await run.wait()


async def test_cancelling_the_block_cancels_them(trainers: tuple[fitbus.Trainer, ...]) -> None:
    runs = fitbus.Runs()
    with anyio.CancelScope() as scope:
        async with runs:
            run = runs.start(
                trainers[0], X, Y, batch_size=32, steps_per_epoch=FOREVER, epochs=FOREVER
            )
            await run.wait_for(TrainBegin)
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert [run.status for run in runs.values()] == ["cancelled"]


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
async def test_an_interrupt_in_one_ends_all_and_leaves_as_itself(
    trainers: tuple[fitbus.Trainer, ...], interrupt: type[BaseException]
) -> None:
    raised = interrupt("in a handler")

    def interrupts(event: Event) -> None:
        raise raised

    runs = fitbus.Runs()

    async def body() -> None:
        async with runs:
            other = runs.start(trainers[0], X, Y, batch_size=32, epochs=FOREVER)
            await other.wait_for(EpochEnd)
            runs.start(
                trainers[1], X, Y, batch_size=32, callbacks=[fitbus.handler(EpochEnd)(interrupts)]
            )
            await anyio.sleep_forever()

    with pytest.raises(interrupt) as caught:
        await body()
    assert caught.value is raised
    assert [run.status for run in runs.values()] == ["cancelled", "cancelled"]


async def test_a_run_that_does_not_stop_in_time_is_cancelled(
    trainers: tuple[fitbus.Trainer, ...],
) -> None:
    """Here a handler that is waited for holds it until after that."""
    recorder = EventRecorder()

    async def holds(event: EpochEnd) -> None:
        await anyio.sleep(0.5)

    with anyio.fail_after(10):
        async with fitbus.Runs(grace_s=0.05) as runs:
            run = runs.start(trainers[0], X, Y, callbacks=[recorder, holds])
            await run.wait_for(EpochEnd)
    assert run.status == "cancelled"
    end = recorder.events[-1]
    assert isinstance(end, TrainEnd)
    assert end.reason == "cancelled"
    wrongs: list[Any] = [-1, float("nan"), True, "1"]
    for wrong in wrongs:
        with pytest.raises(InvalidArgumentError, match=r"^grace_s: found "):
            fitbus.Runs(grace_s=wrong)
