"""What a run's statistics, its report and its log say of what subscribers cost."""

from __future__ import annotations

import time
from typing import Any

import anyio
import pytest

import fitbus
from fitbus import BatchEnd, Callback, EpochEnd, Event, TrainEnd
from fitbus.bus import RunStatistics
from fitbus.testing import toy_problem

from ._spin import spin

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(64, 4)
X, Y = PROBLEM.x, PROBLEM.y
SHARED = fitbus.Trainer(PROBLEM.task, PROBLEM.params)


async def test_a_run_says_how_long_it_took_and_what_of_it_was_whose(
    trainer: fitbus.Trainer,
) -> None:
    run = trainer.run(X, Y, batch_size=32, epochs=2)
    readings: list[RunStatistics] = [run.statistics()]

    def slow(event: BatchEnd) -> None:
        spin(0.01)
        readings.append(run.statistics())

    run.add(slow, name="slow")
    started = time.perf_counter()
    async with run:
        await run.wait()
    whole_s = time.perf_counter() - started
    readings.append(run.statistics())
    seconds = [reading.seconds for reading in readings]
    assert seconds == sorted(seconds)
    assert seconds[0] == 0
    assert 4 * 0.01 < seconds[-1] < whole_s
    assert seconds[-1] == run.statistics().seconds  # it has ended
    (live,) = readings[-2].subscriptions
    assert 3 * 0.01 <= live.held_s <= live.run_s
    assert 0 < live.held_share == live.held_s / live.run_s < 1
    report = run.report
    assert report is not None
    assert report.run_s == seconds[-1]
    (entry,) = report.subscribers
    assert (entry.delivered, entry.run_s) == (4, report.run_s)
    assert 0 < entry.held_share == entry.held_s / report.run_s < 1
    assert str(report).splitlines()[1].startswith("slow")
    assert readings[-2].table().splitlines()[1].split()[:4] == ["slow", "3", "0", "0"]


async def test_a_subscriber_of_the_whole_bus_is_counted_by_run(trainer: fitbus.Trainer) -> None:
    """One fit after the other, also if it ends before a run does."""
    waits = {"first": 0.02, "second": 0.001, "third": 0.001}

    def everywhere(event: Event) -> None:
        spin(waits[event.run])

    subscription = trainer.bus.add(everywhere, BatchEnd, name="everywhere")
    held: dict[str, float] = {}
    live: list[int] = []
    try:
        for id in waits:
            run = trainer.run(X, Y, batch_size=32, epochs=2, run_id=id)
            assert [s.delivered for s in run.statistics().subscriptions] == [4 * len(held)]
            run.add(lambda event: live.append(delivered(run)), EpochEnd)  # noqa: B023  # in its run
            if id == "third":
                run.add(lambda event: subscription.cancel(), TrainEnd)
            async with run:
                await run.wait()
            assert run.report is not None
            entry = run.report.by_name["everywhere"]
            assert (entry.delivered, entry.errors, entry.run_s) == (4, 0, run.report.run_s)
            assert entry.seconds == pytest.approx(entry.held_s)
            held[id] = entry.held_s
    finally:
        subscription.cancel()
    assert live == 3 * [2, 4]
    assert held["first"] >= 4 * 0.02
    assert held["third"] < held["first"] / 2
    assert subscription.statistics().delivered == 12
    assert subscription.statistics().held_s == pytest.approx(sum(held.values()))


def delivered(run: fitbus.Run[Any]) -> int:
    """Of the subscriber that came first."""
    return run.statistics().subscriptions[0].delivered


class Mixed(Callback):
    """Has a worker, for which the training thread waits at its `def` hook."""

    spent_s = 0.0

    async def on_train_batch_end(self, batch: int, logs: Any = None) -> None: ...

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        started = time.perf_counter()
        spin(0.03)
        self.spent_s += time.perf_counter() - started


async def test_time_in_a_hook_is_counted_once(trainer: fitbus.Trainer) -> None:
    """By the thread that calls it, not also by the worker that waits for that."""
    mixed = Mixed()
    run = trainer.run(X, Y, batch_size=32, callbacks=[mixed])
    async with run:
        await run.wait()
    assert run.report is not None
    (entry,) = run.report.subscribers
    assert mixed.spent_s <= entry.seconds < 1.5 * mixed.spent_s
    assert entry.held_s >= mixed.spent_s


@pytest.mark.slow  # a second is the least that is told
@pytest.mark.parametrize("colour", ["def", "async def"])
async def test_who_holds_training_up_is_named_once(
    trainer: fitbus.Trainer, colour: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a fast one, nor one that is slow beside training."""

    def slow(event: BatchEnd) -> None:
        spin(0.1)

    async def aslow(event: BatchEnd) -> None:
        await anyio.sleep(0.1)

    def fast(event: BatchEnd) -> None: ...

    async def afast(event: BatchEnd) -> None: ...

    run = trainer.run(X, Y, batch_size=32, epochs=8)
    run.add(slow if colour == "def" else aslow, wait=True, name="slow")
    run.add(fast if colour == "def" else afast, wait=True, name="fast")
    run.add(lambda event: spin(0.05), EpochEnd, wait=False, name="beside")
    async with run:
        await run.wait()
    (line,) = [record.getMessage() for record in caplog.records if record.name == "fitbus"]
    assert line.startswith(f"run {run.id!r} waits for handler 'slow' ")
    percent = float(line.split("'slow' ")[1].split(" %")[0])
    assert 10 <= percent <= 100
