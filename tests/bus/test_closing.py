"""Closing: what is there is delivered, within a time, and a report says who got what."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.to_thread
import pytest

from fitbus import (
    Bus,
    EpochEnd,
    Event,
    HandlerFailed,
    StopTraining,
    Subscription,
    TrainEnd,
    Trainer,
)
from fitbus.bus import DeliveryReport, Options, Overflow
from fitbus.errors import BusClosedError
from fitbus.testing import EventRecorder, Gate, toy_problem

pytestmark = pytest.mark.anyio

POLICIES: list[Overflow] = ["block", "drop_oldest", "drop_newest", "latest"]


class Tick(Event):
    """What these tests publish."""


def publish(bus: Bus, count: int) -> None:
    """In a run of its own."""
    publisher = bus.publisher()
    for _ in range(count):
        publisher.publish(Tick())


async def rest_of(stream: Subscription[Any]) -> list[int]:
    with anyio.fail_after(30):
        return [event.seq async for event in stream]


@pytest.mark.parametrize("overflow", POLICIES)
async def test_closing_takes_no_room_and_nothing_follows_the_end(overflow: Overflow) -> None:
    """A full mailbox is handed out whole; what is published later is not."""
    size = 1 if overflow == "latest" else 3
    bus = Bus()
    publisher = bus.publisher()
    async with bus.subscribe(Tick, overflow=overflow, buffer_size=size) as stream:
        for _ in range(size):
            publisher.publish(Tick())
        await bus.aclose()
        publisher.publish(Tick())
        assert await rest_of(stream) == [*range(size)]
        publisher.publish(Tick())
        for _ in range(2):
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
        counts = stream.statistics()
        assert (counts.published, counts.delivered, counts.dropped) == (size, size, 0)


async def test_latest_always_delivers_the_final_value_to_a_stream() -> None:
    """Published just before closing, however many there were."""
    for count in (1, 2, 50):
        bus = Bus()
        async with bus.subscribe(Tick, overflow="latest") as stream:
            publish(bus, count)
            await bus.aclose()
            assert await rest_of(stream) == [count - 1]


@pytest.mark.parametrize("colour", ["def", "async def"])
async def test_latest_always_delivers_the_final_value_to_a_handler(colour: str) -> None:
    """That came while the handler was at an earlier one, just before the bus was left."""
    seen: list[int] = []
    gate = Gate()

    def note(event: Tick) -> None:
        seen.append(event.seq)
        gate.pass_sync()

    async def anote(event: Tick) -> None:
        seen.append(event.seq)
        await gate.pass_async()

    async with Bus() as bus:
        bus.add(note if colour == "def" else anote, wait=False, overflow="latest")
        publisher = bus.publisher()
        publisher.publish(Tick())
        await gate.wait_arrived()
        for _ in range(20):
            publisher.publish(Tick())
        gate.open()
    assert seen == [0, 20]


async def test_closing_waits_for_handlers_in_flight_and_for_what_waits() -> None:
    """It doesn't return before, and then nothing is missing."""
    gate, reports = Gate(), list[DeliveryReport]()
    recorder = EventRecorder()

    async def slow(event: Tick) -> None:
        await gate.pass_async()
        recorder(event)

    async def close() -> None:
        reports.append(await bus.aclose())

    async with Bus() as bus:
        bus.add(slow, name="slow")
        publish(bus, 5)
        await gate.wait_arrived()
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(close)
                await anyio.wait_all_tasks_blocked()
                assert reports == []
                gate.open()
    assert len(recorder.events) == 5
    assert reports[0].complete
    assert reports[0].by_name["slow"].delivered == 5
    assert reports[0].seconds > 0


async def test_closing_twice_is_fine() -> None:
    """At the same time and afterwards, by the block too: there is one report."""
    gate, reports = Gate(), list[DeliveryReport]()

    async def slow(event: Tick) -> None:
        await gate.pass_async()

    async def close() -> None:
        reports.append(await bus.aclose())

    async with Bus() as bus:
        bus.add(slow)
        publish(bus, 2)
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(close)
                tasks.start_soon(close)
                await anyio.wait_all_tasks_blocked()
                gate.open()
        reports.append(await bus.aclose())
    reports.append(await bus.aclose(drain_s=0))
    assert len(reports) == 4
    assert all(report is reports[0] for report in reports)


async def test_a_closed_bus_takes_nobody_in_and_publishing_goes_on() -> None:
    """The message says what to do; a training loop isn't disturbed."""
    bus = Bus()
    before = bus.subscribe(Tick)
    publisher = bus.publisher()
    await bus.aclose()
    for subscribe in (lambda handler: bus.add(handler, Tick), bus.on(Tick)):
        with pytest.raises(BusClosedError, match="subscribe to a new one"):
            subscribe(EventRecorder())
    for stream in (before, bus.subscribe(Tick)):
        with pytest.raises(BusClosedError, match="subscribe to a new one"):
            await stream.__aenter__()
    publisher.publish(Tick())
    assert list(publisher.boundary()) == []
    publisher.barrier(Tick())
    assert bus.statistics().published == 2


async def test_a_warning_names_who_did_not_finish(caplog: pytest.LogCaptureFixture) -> None:
    """On the loop and in a worker thread; not those who did, or who had nothing to do."""
    gate = Gate()
    arrived = [Gate(), Gate()]

    async def hang(event: Tick) -> None:
        arrived[0].open()
        await gate.pass_async()

    def hang_in_thread(event: Tick) -> None:
        arrived[1].open()
        gate.pass_sync()

    async def finish(event: Tick) -> None: ...

    async with Bus() as bus:
        bus.add(hang, name="hangs", on_error="log")
        bus.add(hang_in_thread, wait=False, name="hangs in a thread", on_error="log")
        bus.add(finish, name="finishes")
        bus.add(EventRecorder(), EpochEnd, wait=False, name="idle")
        publish(bus, 3)
        for one in arrived:
            await one.pass_async()
        caplog.clear()
        report = await bus.aclose(drain_s=0.01)
        warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    gate.open()
    for name, where, warning in zip(
        ("hangs", "hangs in a thread"), ("pass_async", "pass_sync"), warnings, strict=True
    ):
        line, _, stack = warning.partition("; it was at:\n")
        assert line == f"handler {name!r} was cancelled: it ran on past drain_s"
        assert f"gate.{where}()" in stack
    assert [(e.name, e.delivered, e.undelivered) for e in report.subscribers] == [
        ("hangs", 0, 3),
        ("hangs in a thread", 0, 3),
        ("finishes", 3, 0),
        ("idle", 0, 0),
    ]
    assert not report.complete


async def test_without_time_to_drain_what_waits_is_undelivered() -> None:
    """The one way in which `block` loses events; they are counted, and never handled."""
    gate, seen = Gate(), list[int]()

    async def note(event: Tick) -> None:
        seen.append(event.seq)
        await gate.pass_async()

    async with Bus() as bus:
        subscription = bus.add(note, name="note", on_error="log")
        publisher = bus.publisher()
        publisher.publish(Tick())
        await gate.wait_arrived()
        for _ in range(3):
            publisher.publish(Tick())
        report = await bus.aclose(drain_s=0)
    gate.open()
    entry = report.by_name["note"]
    assert (entry.delivered, entry.dropped, entry.undelivered) == (0, 0, 4)
    assert not report.complete
    assert seen == [0]
    counts = subscription.statistics()
    assert (counts.published, counts.dropped, counts.queued, counts.in_flight) == (4, 3, 0, 0)


async def test_handlers_that_nobody_ever_hosted_are_not_waited_for() -> None:
    """What waits for them is reported at once."""
    bus = Bus()
    bus.add(EventRecorder(), Tick, wait=False, name="alone")
    publish(bus, 3)
    with anyio.fail_after(5):
        report = await bus.aclose()
    assert report.by_name["alone"].undelivered == 3
    assert bus.statistics().subscriptions == ()


async def test_the_report_tells_losses_and_errors() -> None:
    """By subscriber, streams among them; errors in words, in the order in which they came."""

    async def fail(event: Tick) -> None:
        if event.seq in (1, 3):
            raise KeyError(event.seq)

    async with (
        Bus() as bus,
        bus.subscribe(Tick, buffer_size=2) as read,
        bus.subscribe(Tick, buffer_size=3) as unread,
    ):
        bus.add(fail, name="fails", on_error="log")
        publish(bus, 5)
        assert [(await anext(read)).seq for _ in range(2)] == [3, 4]
        report = await bus.aclose()
        del unread
    found = [(e.delivered, e.dropped, e.undelivered, e.errors) for e in report.subscribers]
    assert found == [(2, 3, 0, 0), (0, 2, 3, 0), (5, 0, 0, 2)]
    assert [error.startswith("fails raised KeyError: ") for error in report.errors] == [True, True]
    assert [error[-7:] for error in report.errors] == ["(seq 1)", "(seq 3)"]
    assert not report.complete


async def test_a_stream_that_was_left_unread_is_in_the_report() -> None:
    """While its run is live."""
    async with Bus() as bus:
        publisher = bus.publisher()
        async with bus.subscribe(Tick) as stream:
            for _ in range(3):
                publisher.publish(Tick())
            await anext(stream)
        report = await bus.aclose()
    [entry] = report.subscribers
    assert (entry.delivered, entry.dropped, entry.undelivered) == (1, 0, 2)


async def test_draining_one_run_reports_those_that_listen_to_it() -> None:
    """Those of the whole bus among them; the bus stays open."""
    async with Bus() as bus:
        one, other = bus.publisher(run="one"), bus.publisher(run="other")
        recorder = EventRecorder()
        bus.add(recorder, Tick, wait=False, name="all")
        async with (
            bus.make_stream([Tick], Options(), after=None, run="one"),
            bus.make_stream([Tick], Options(), after=None, run="other"),
        ):
            one.publish(Tick())
            other.publish(Tick())
            report = await bus.drain("one", 30)
        assert [entry.name for entry in report.subscribers] == ["all", "stream of Tick"]
        assert report.by_name["all"].delivered == len(recorder.events) == 2
        other.publish(Tick())
    assert len(recorder.events) == 3


async def test_closing_frees_a_thread_that_stands_still_for_a_handler() -> None:
    """What the handler answers then comes too late to be waited for, and is no error."""
    gate = Gate()

    async def hang(event: EpochEnd) -> StopTraining:
        await gate.pass_async()
        return StopTraining("late")

    ended = Gate()

    def train() -> None:
        publisher.barrier(EpochEnd())
        ended.open()

    async with Bus() as bus:
        publisher = bus.publisher()
        bus.add(hang, name="hangs")
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, train)
                await gate.wait_arrived()
                tasks.start_soon(bus.aclose)
                await ended.pass_async()
                gate.open()
        report = await bus.aclose()
        assert report.by_name["hangs"].delivered == 1
        assert report.errors == ()
        assert [*publisher.boundary()] == [StopTraining("late")]


async def test_who_fails_while_the_run_is_drained_is_told_of() -> None:
    """By `HandlerFailed`, as at any other time, to concurrent handlers and to streams."""
    problem = toy_problem(64, 4)
    trainer = Trainer(problem.task, problem.params)
    gate, told = Gate(), EventRecorder()

    async def fails_late(event: EpochEnd) -> None:
        await gate.pass_async()
        raise ZeroDivisionError(f"in epoch {event.epoch}")

    run = trainer.run(problem.x, problem.y, epochs=3)
    run.add(fails_late, EpochEnd, wait=False, on_error="log")
    run.add(told, HandlerFailed, wait=False)
    async with run.subscribe(HandlerFailed, TrainEnd) as stream, run:
        assert isinstance(await anext(stream), TrainEnd)  # only then do they fail
        gate.open()
        await run.wait()
        streamed = [event async for event in stream]
    errors = [f"ZeroDivisionError: in epoch {epoch}" for epoch in range(3)]
    assert [event.error for event in told.of(HandlerFailed)] == errors
    assert streamed == told.of(HandlerFailed)
    assert run.report is not None
    assert len(run.report.errors) == 3
