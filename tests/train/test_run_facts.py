"""What a run tells of itself: status, counters, state."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest

import fitbus
from fitbus import (
    BatchEnd,
    EpochBegin,
    EpochEnd,
    Pause,
    Resume,
    RunPaused,
    StopTraining,
    TrainEnd,
)
from fitbus.errors import (
    WrongThreadError,
)
from fitbus.testing import EventRecorder, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(64, 4)
X, Y = PROBLEM.x, PROBLEM.y
FOREVER = 10**6
SHARED = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
ONE_EPOCH_EVENTS = 8


async def test_its_status_follows_its_life(trainer: fitbus.Trainer) -> None:
    run = trainer.run(X, Y, batch_size=32)
    told: list[str] = [run.status]
    run.add(lambda event: told.append(run.status), EpochBegin, TrainEnd)
    run.add(lambda event: Pause(), EpochBegin)
    async with run:
        await run.wait_for(RunPaused)
        told.append(run.status)
        await run.send(Resume())
    told.append(run.status)
    assert told == ["pending", "running", "paused", "finishing", "completed"]
    assert repr(run) == f"<Run {run.id!r}: completed>"


async def test_statistics_and_report_count_its_subscribers(trainer: fitbus.Trainer) -> None:
    """And those of the whole bus, but not another run's."""
    start = int(trainer.state.step)
    run = trainer.run(X, Y, batch_size=32)
    other = trainer.run(X, Y)
    stranger = other.add(EventRecorder(), name="a stranger")
    everywhere = trainer.bus.add(EventRecorder(), name="everywhere")
    run.add(EventRecorder(), BatchEnd, name="batches")
    counted: list[Any] = []
    run.add(lambda event: counted.append(run.statistics()), EpochEnd, name="counter")
    assert (run.statistics().step, run.report) == (0, None)
    async with run:
        pass
    everywhere.cancel()
    stranger.cancel()
    (at_end,) = counted
    assert (at_end.step, run.statistics().step) == (start + 2, start + 2)
    assert 2 <= at_end.steps_in_flight <= 64
    assert [entry.name for entry in at_end.subscriptions] == ["everywhere", "batches", "counter"]
    for entry in at_end.subscriptions:
        assert entry.published == entry.delivered + entry.dropped + entry.queued + entry.in_flight
    assert run.report is not None
    delivered = {entry.name: entry.delivered for entry in run.report.subscribers}
    assert delivered == {"everywhere": ONE_EPOCH_EVENTS, "batches": 2, "counter": 1}
    assert run.report.complete


async def test_the_first_stop_gives_its_reason(trainer: fitbus.Trainer) -> None:
    """None until it has acted."""
    run = trainer.run(X, Y, batch_size=32, epochs=FOREVER)
    seen: list[tuple[bool, str | None]] = [(run.stopping, run.stop_reason)]
    run.add(lambda event: seen.append((run.stopping, run.stop_reason)), EpochBegin, EpochEnd)
    run.add(lambda event: [StopTraining("good enough"), StopTraining("too long")], BatchEnd)
    async with run:
        pass
    assert seen == [(False, None), (False, None), (True, "good enough")]
    assert (run.status, run.stop_reason) == ("stopped", "good enough")


async def test_its_state_is_for_waiting_handlers(trainer: fitbus.Trainer) -> None:
    """Until they return; everybody else is told what to use."""
    run = trainer.run(X, Y, batch_size=32)
    steps: list[int] = []
    over = anyio.Event()
    refused: list[str] = []

    def refuse() -> None:
        with pytest.raises(WrongThreadError, match="snapshot") as caught:
            _ = run.state
        refused.append(threading.current_thread().name)
        assert "trainer.state" in str(caught.value)

    async def after_it_returned() -> None:
        await over.wait()
        refuse()

    async def waiting(event: EpochEnd) -> None:
        steps.append(int(run.state.step) - event.step)
        tasks.start_soon(after_it_returned)

    async def concurrent(event: EpochEnd) -> None:
        refuse()

    run.add(waiting)
    run.add(lambda event: steps.append(int(run.state.step) - event.step), BatchEnd)
    run.add(concurrent, wait=False)
    run.add(lambda event: refuse(), EpochEnd, wait=False)
    refuse()
    async with anyio.create_task_group() as tasks:
        async with run:
            refuse()
        over.set()
    refuse()
    assert (steps, len(refused)) == ([0, 0, 0], 6)


async def test_another_runs_handler_may_not_look_at_its_state(trainer: fitbus.Trainer) -> None:
    """Which its own thread may donate at that moment."""
    other = fitbus.Trainer(PROBLEM.task, PROBLEM.params).run(X, Y, epochs=FOREVER)
    run = trainer.run(X, Y, batch_size=32)
    asked: list[int] = []

    def ask(event: EpochEnd) -> None:
        with pytest.raises(WrongThreadError):
            _ = other.state
        asked.append(event.seq)

    run.add(ask)
    async with other:
        await other.wait_for(EpochEnd)
        async with run:
            pass
        await other.send(StopTraining())
    assert len(asked) == 1
