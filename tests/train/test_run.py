"""The live handle of a run: before its block, in it, and after it."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable
from typing import Any

import anyio
import anyio.to_thread
import pytest

import fitbus
from fitbus import (
    Applied,
    BatchEnd,
    ControlApplied,
    EpochBegin,
    EpochEnd,
    Event,
    Run,
    ScaleLearningRate,
    SetLearningRate,
    StopTraining,
    TrainBegin,
    TrainEnd,
)
from fitbus.errors import (
    FitbusError,
    InvalidArgumentError,
)
from fitbus.testing import EventRecorder, Gate, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(64, 4)
X, Y = PROBLEM.x, PROBLEM.y
FOREVER = 10**6
SHARED = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
BATCHES = ["BatchBegin", "BatchEnd"] * 2
ONE_EPOCH = ["TrainBegin", "EpochBegin", *BATCHES, "EpochEnd", "TrainEnd"]


class Mark(Event):
    """An event of one's own."""

    n: int


def names(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


# Before its block.


@pytest.mark.anywhere
async def test_what_is_attached_before_the_block_misses_nothing(trainer: fitbus.Trainer) -> None:
    """Handlers of each kind, an open stream, and a control, which acts before the first step."""
    run = trainer.run(X, Y, batch_size=32)
    waiting, worker = EventRecorder(), EventRecorder()
    concurrent: list[Event] = []
    run.add(waiting)
    run.add(worker, wait=False)

    @run.on(Event, wait=False)
    async def note(event: Event) -> None:
        concurrent.append(event)

    receipt = run.post(SetLearningRate(0.05), "early")
    step = int(trainer.state.step)
    async with run.subscribe(Event) as stream:
        assert (run.status, run.report, run.stop_reason) == ("pending", None, None)
        async with run:
            pass
        streamed = [event async for event in stream]
    assert waiting.names == [*ONE_EPOCH[:1], "ControlApplied", *ONE_EPOCH[1:]]
    assert [event.seq for event in waiting.events] == list(range(len(ONE_EPOCH) + 1))
    assert {event.run for event in waiting.events} == {run.id}
    assert worker.events == concurrent == streamed == waiting.events
    assert receipt.outcome == Applied(step=step, epoch=0)


@pytest.mark.anywhere
async def test_what_is_awaited_before_the_block_comes(trainer: fitbus.Trainer) -> None:
    """Its first event, the acknowledgement of a control, and its result."""
    run = trainer.run(X, Y, batch_size=32)
    found: dict[str, Any] = {}

    async def keep(name: str, answer: Awaitable[Any]) -> None:
        found[name] = await answer

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep, "event", run.wait_for(TrainBegin))
        tasks.start_soon(keep, "control", run.send(ScaleLearningRate(1.0)))
        tasks.start_soon(keep, "result", run.wait())
        await anyio.wait_all_tasks_blocked()
        assert found == {}
        async with run:
            pass
    assert isinstance(found["event"], TrainBegin)
    assert isinstance(found["control"], Applied)
    assert found["result"] is await run.wait()


async def test_ids_are_numbered_by_bus_or_given() -> None:
    """Of two runs only one may be live under an id."""
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    assert [trainer.run(X, Y).id for _ in range(2)] == ["fit-1", "fit-2"]
    run = trainer.run(X, Y, batch_size=32, epochs=FOREVER, run_id="nightly")
    other = fitbus.Trainer(PROBLEM.task, PROBLEM.params, bus=trainer.bus)
    pending = other.run(X, Y, run_id="nightly")
    assert repr(run) == "<Run 'nightly': pending>"
    async with run:
        assert await run.wait_for(BatchEnd)
        with pytest.raises(InvalidArgumentError, match=r"nightly.*live"):
            other.run(X, Y, run_id="nightly")
        with pytest.raises(InvalidArgumentError, match=r"nightly.*live"):
            async with pending:
                pass
        assert (pending.status, run.status) == ("failed", "running")
        await run.send(StopTraining())
    assert other.run(X, Y, run_id="nightly").status == "pending"
    for wrong in ("", 3):
        with pytest.raises(InvalidArgumentError, match="run_id"):
            other.run(X, Y, run_id=wrong)  # type: ignore[arg-type]  # that is the test


async def test_a_callback_that_is_refused_leaves_none_attached(trainer: fitbus.Trainer) -> None:
    """The fixture sees that the bus has nobody left."""
    with pytest.raises(InvalidArgumentError, match="callbacks"):
        trainer.run(X, Y, callbacks=[EventRecorder(), [3]])
    with pytest.raises(InvalidArgumentError, match="callbacks"):
        await trainer.fit(X, Y, callbacks=[EventRecorder(), fitbus.Callback])


@pytest.mark.anywhere
async def test_it_is_started_once(trainer: fitbus.Trainer) -> None:
    """Whoever enters it again, while it lives or later, doesn't disturb it."""
    run = trainer.run(X, Y, batch_size=32)
    recorder = EventRecorder()
    run.add(recorder)
    async with run:
        with pytest.raises(FitbusError, match="was started before; make a new one"):
            await run.__aenter__()
    assert run.status == "completed"
    with pytest.raises(FitbusError, match=r"'.*': completed> was started before"):
        await run.__aenter__()
    assert (run.status, recorder.names) == ("completed", ONE_EPOCH)


# Its events, and its subscribers.


async def test_it_has_only_its_own_events() -> None:
    """Two runs on one bus, live together: handlers, streams and waits of each; the bus has both."""
    bus = fitbus.Bus()
    trainers = [fitbus.Trainer(PROBLEM.task, PROBLEM.params, bus=bus) for _ in range(2)]
    runs = [trainer.run(X, Y, batch_size=32) for trainer in trainers]
    both: list[Event] = []
    bus.add(both.append, Event)
    seen: dict[str, list[Event]] = {run.id: [] for run in runs}
    together = Gate()
    begun: set[str] = set()

    async def hold(event: TrainBegin) -> None:
        begun.add(event.run)
        if len(begun) == 2:
            together.open()
        await together.pass_async()

    async def drive(run: Run[Any]) -> None:
        run.add(hold)
        run.add(seen[run.id].append, Event)
        async with run.subscribe(Event) as stream, run:
            assert (await run.wait_for(TrainEnd)).run == run.id
            await run.wait()
            assert [event async for event in stream] == seen[run.id]

    async with anyio.create_task_group() as tasks:
        for run in runs:
            tasks.start_soon(drive, run)
    for run in runs:
        assert names(seen[run.id]) == ONE_EPOCH
        assert [event for event in both if event.run == run.id] == seen[run.id]
    assert len(both) == 2 * len(ONE_EPOCH)
    assert bus.statistics().subscriptions[1:] == ()


@pytest.mark.anywhere
async def test_whoever_comes_in_the_middle_gets_what_follows(trainer: fitbus.Trainer) -> None:
    """Added by a waiting handler, at once: the event for which training stands still is past."""
    run = trainer.run(X, Y, batch_size=32, epochs=3)
    recorder = EventRecorder()

    def come(event: EpochEnd) -> None:
        if event.epoch == 1:
            run.add(recorder, EpochBegin, EpochEnd, TrainEnd)

    run.add(come)
    async with run:
        pass
    assert recorder.names == ["EpochBegin", "EpochEnd", "TrainEnd"]
    assert {event.epoch for event in recorder.events} == {2}


@pytest.mark.anywhere
async def test_wait_for_gives_the_next_one_that_matches(trainer: fitbus.Trainer) -> None:
    async with trainer.run(X, Y, batch_size=32, epochs=FOREVER) as run:
        found = await run.wait_for(EpochBegin, EpochEnd, where=lambda event: event.epoch >= 2)
        later = await run.wait_for(EpochBegin, where=lambda event: event.epoch > found.epoch)
        assert later.seq > found.seq
        with pytest.raises(TimeoutError, match=r"no matching TrainEnd came within 0.01 s"):
            await run.wait_for(TrainEnd, timeout=0.01)
        await run.send(StopTraining())


@pytest.mark.anywhere
async def test_events_of_ones_own_are_numbered_with_the_others(trainer: fitbus.Trainer) -> None:
    """From a handler, from the loop and from another thread; before and after the run: lost."""
    run = trainer.run(X, Y, batch_size=32, epochs=2)
    recorder = EventRecorder()
    run.add(recorder)

    def mark(event: EpochEnd) -> None:
        run.publish(Mark(n=event.epoch))

    async def mark_twice(event: TrainEnd) -> None:
        run.publish(Mark(n=2))
        await anyio.to_thread.run_sync(run.publish, Mark(n=3))

    run.add(mark)
    run.add(mark_twice)
    run.publish(Mark(n=98))
    async with run:
        pass
    run.publish(Mark(n=99))
    assert [event.n for event in recorder.of(Mark)] == [0, 1, 2, 3]
    assert [event.seq for event in recorder.events] == list(range(len(recorder.events)))
    for event, end in zip(recorder.of(Mark), recorder.of(EpochEnd), strict=False):
        assert (event.run, event.step, event.epoch) == (run.id, end.step, end.epoch)
        assert event.seq > end.seq


@pytest.mark.anywhere
async def test_controls_act_where_their_acknowledgement_says(trainer: fitbus.Trainer) -> None:
    """Sent by tasks and threads, with the name of who sent them."""
    recorder = EventRecorder()
    async with trainer.run(X, Y, batch_size=32, epochs=FOREVER) as run:
        run.add(recorder, ControlApplied)
        sent = await run.send(ScaleLearningRate(1.0), source="a task")
        receipt = await anyio.to_thread.run_sync(run.post, ScaleLearningRate(1.0), "a thread")
        posted = await receipt
        await run.send(StopTraining(), 20)
    first, second, _ = recorder.of(ControlApplied)
    assert [first.source, second.source] == ["a task", "a thread"]
    for event, applied in ((first, sent), (second, posted)):
        assert (event.step, event.epoch) == (applied.step, applied.epoch)
    assert [event.id for event in recorder.of(ControlApplied)] == [0, 1, 2]
    pairs = itertools.pairwise(event.seq for event in recorder.events)
    assert all(one < other for one, other in pairs)
