"""What the bus counts: it adds up, at every moment, and says what really happened."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from anyio.abc import TaskStatus

from fitbus import BatchEnd, Bus, Event, HandlerFailed, Subscription
from fitbus.bus import BusStatistics, Handler, Overflow, Publisher, SubscriptionStatistics
from fitbus.testing import EventRecorder, Gate

pytestmark = pytest.mark.anyio

POLICIES: list[Overflow] = ["block", "drop_oldest", "drop_newest", "latest"]


class Tick(Event):
    """What these tests publish."""


class Tock(Tick):
    """What training waits for."""


def counts_of(counts: SubscriptionStatistics) -> dict[str, int]:
    """The five that add up, those that are 0 left out."""
    names = ("published", "delivered", "dropped", "queued", "in_flight")
    return {name: value for name in names if (value := getattr(counts, name))}


def check_sums(statistics: BusStatistics) -> None:
    for counts in statistics.subscriptions:
        parts = (counts.delivered, counts.dropped, counts.queued, counts.in_flight)
        assert counts.published == sum(parts)
        assert min(parts) >= 0


@pytest.mark.parametrize("colour", ["def", "async def"])
async def test_each_event_is_where_the_counts_say(colour: str) -> None:
    """Of a concurrent handler: waiting, in flight, delivered; what a cancel leaves is lost."""
    gates = [Gate(), Gate(), Gate()]

    def call(event: Tick) -> None:
        gates[event.seq].pass_sync()

    async def acall(event: Tick) -> None:
        await gates[event.seq].pass_async()

    async with Bus() as bus:
        publisher = bus.publisher()
        handler = call if colour == "def" else acall
        subscription = bus.add(handler, wait=False, overflow="drop_newest", buffer_size=4)
        assert counts_of(subscription.statistics()) == {}
        publisher.publish(Tick())
        await gates[0].wait_arrived()
        assert counts_of(subscription.statistics()) == {"published": 1, "in_flight": 1}
        for _ in range(6):
            publisher.publish(Tick())
        assert counts_of(subscription.statistics()) == {
            "published": 7,
            "in_flight": 1,
            "queued": 4,
            "dropped": 2,
        }
        gates[0].open()
        await gates[1].wait_arrived()
        assert counts_of(subscription.statistics()) == {
            "published": 7,
            "delivered": 1,
            "in_flight": 1,
            "queued": 3,
            "dropped": 2,
        }
        subscription.cancel()
        assert counts_of(subscription.statistics()) == {
            "published": 7,
            "delivered": 1,
            "in_flight": 1,
            "dropped": 5,
        }
        gates[1].open()
    assert counts_of(subscription.statistics()) == {"published": 7, "delivered": 2, "dropped": 5}


@pytest.mark.parametrize("colour", ["def", "async def"])
async def test_an_event_that_training_waits_for_is_in_flight(colour: str) -> None:
    """As the handler itself sees it."""
    found: list[dict[str, int]] = []

    def look(event: Tock) -> None:
        found.append(counts_of(subscription.statistics()))

    async def alook(event: Tock) -> None:
        look(event)

    async with Bus() as bus:
        subscription = bus.add(look if colour == "def" else alook, wait=True)
        publisher = bus.publisher()

        def train() -> None:
            for _ in range(2):
                publisher.barrier(Tick())
                publisher.barrier(Tock())

        await anyio.to_thread.run_sync(train)
    assert found == [
        {"published": 1, "in_flight": 1},
        {"published": 2, "delivered": 1, "in_flight": 1},
    ]
    assert counts_of(subscription.statistics()) == {"published": 2, "delivered": 2}


async def test_a_batch_is_in_flight_as_a_whole() -> None:
    found: list[dict[str, int]] = []
    gate = Gate()

    async def gather(events: Sequence[Tick]) -> None:
        found.append(counts_of(subscription.statistics()))
        await gate.pass_async()

    async with Bus() as bus:
        subscription = bus.add(gather, wait=False, batched=True)
        publisher = bus.publisher()
        publisher.publish(Tick())
        await gate.wait_arrived()
        for _ in range(5):
            publisher.publish(Tick())
        gate.open()
    assert found == [
        {"published": 1, "in_flight": 1},
        {"published": 6, "delivered": 1, "in_flight": 5},
    ]


async def test_a_stream_counts_what_its_consumer_took() -> None:
    """And what filters held back not at all."""
    async with Bus() as bus:
        publisher = bus.publisher()
        async with bus.subscribe(Tick, every=2, buffer_size=3) as stream:
            for _ in range(10):
                publisher.publish(Tick())
            assert counts_of(stream.statistics()) == {"published": 5, "queued": 3, "dropped": 2}
            await anext(stream)
            assert counts_of(stream.statistics()) == {
                "published": 5,
                "delivered": 1,
                "queued": 2,
                "dropped": 2,
            }
        assert counts_of(stream.statistics()) == {"published": 5, "delivered": 1, "dropped": 4}


async def test_the_bus_counts_what_was_published_whoever_listens() -> None:
    """Over all runs; not what was skipped. One entry for each subscriber that is there."""
    bus = Bus()
    one, two = bus.publisher(), bus.publisher()
    one.publish(Tick())
    one.skip((BatchEnd, BatchEnd))
    two.barrier(Tock())
    assert bus.statistics().published == 2
    assert bus.statistics().subscriptions == ()
    first, second = (bus.add(EventRecorder(), Tick, wait=False, name=n) for n in ("a", "b"))
    two.publish(Tick())
    assert [entry.name for entry in bus.statistics().subscriptions] == ["a", "b"]
    assert bus.statistics().subscriptions == (first.statistics(), second.statistics())
    first.cancel()
    assert [entry.name for entry in bus.statistics().subscriptions] == ["b"]
    assert bus.statistics().published == 3


async def test_time_is_counted_where_it_is_spent() -> None:
    """Only a waiting handler holds training; errors are calls that raised."""

    def fail(event: Tick) -> None:
        raise KeyError

    async with Bus() as bus:
        publisher = bus.publisher()
        waiting = bus.add(EventRecorder(), Tick, name="waiting")
        beside = bus.add(EventRecorder(), Tick, wait=False, name="beside")
        failing = bus.add(fail, on_error="log", name="failing")
        for _ in range(3):
            await anyio.to_thread.run_sync(publisher.barrier, Tick())
        report = await bus.aclose()
    found = {s.name: s.statistics() for s in (waiting, beside, failing)}
    assert found["waiting"].held_s >= found["waiting"].seconds > 0
    assert found["beside"].seconds > 0
    assert found["beside"].held_s == 0
    assert {name: counts.errors for name, counts in found.items()} == {
        "waiting": 0,
        "beside": 0,
        "failing": 3,
    }
    for entry in report.subscribers:
        counts = found[entry.name]
        assert (entry.delivered, entry.errors, entry.held_s) == (3, counts.errors, counts.held_s)


async def test_readings_stay_as_they_are() -> None:
    """Frozen, and of one moment."""
    async with Bus() as bus, bus.subscribe(Tick) as stream:
        publisher = bus.publisher()
        publisher.publish(Tick())
        before = bus.statistics()
        publisher.publish(Tick())
        await anext(stream)
        assert (before.published, before.subscriptions[0].queued) == (1, 1)
        report = await bus.aclose()
        for reading in (before, before.subscriptions[0], report, report.subscribers[0]):
            name = dataclasses.fields(reading)[0].name
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(reading, name, None)


class Busy:
    """A bus with handlers of all modes and streams, published to by two threads."""

    def __init__(self) -> None:
        self.bus = Bus()
        self.staying: list[tuple[Subscription[Any], EventRecorder]] = []
        self.passing: list[tuple[Subscription[Any], EventRecorder]] = []
        for overflow in POLICIES:
            for colour in ("def", "async def", "batched"):
                batched = colour == "batched"
                options = {"wait": False, "buffer_size": 8, "batched": batched}
                self.staying.append(self.add(Tick, colour, overflow=overflow, **options))
        self.staying.append(self.add(Tock, "def", wait=True))
        self.staying.append(self.add(Tock, "async def", wait=True))

    def add(
        self, kind: type[Event], colour: str, **options: Any
    ) -> tuple[Subscription[Any], EventRecorder]:
        recorder = EventRecorder()

        async def call(event: Event) -> None:
            recorder(event)
            await anyio.lowlevel.checkpoint()

        async def gather(events: Sequence[Event]) -> None:
            recorder.events.extend(events)

        handlers: dict[str, Handler] = {"def": recorder, "async def": call, "batched": gather}
        return self.bus.add(handlers[colour], kind, **options), recorder

    async def consume(self, overflow: Overflow, *, task_status: TaskStatus[None]) -> None:
        recorder = EventRecorder()
        async with self.bus.subscribe(Tick, overflow=overflow, buffer_size=8) as stream:
            self.staying.append((stream, recorder))
            task_status.started()
            async for event in stream:
                recorder(event)

    def train(self, publisher: Publisher) -> None:
        """Publishes, and cancels one subscriber after the other."""
        added = self.add(Tick, "async def")
        for number in range(300):
            publisher.publish(Tick())
            if number % 30 == 0:
                publisher.barrier(Tock())
            assert [*publisher.boundary()] == []
            if number % 40 == 0:
                self.passing.append(added)
                added[0].cancel()
                added = self.add(Tick, "async def")
        self.passing.append(added)

    async def run(self) -> None:
        with anyio.fail_after(60):
            async with self.bus.hosted(), anyio.create_task_group() as consumers:
                for overflow in POLICIES:
                    await consumers.start(self.consume, overflow)
                async with anyio.create_task_group() as threads:
                    for _ in range(2):
                        publisher = self.bus.publisher()
                        threads.start_soon(anyio.to_thread.run_sync, self.train, publisher)
                await self.bus.aclose()


def check_readings(readings: Sequence[Sequence[SubscriptionStatistics]]) -> None:
    """Those of the same subscribers at one moment after another: no count ever goes down."""
    last = [(0, 0, 0) for _ in readings[0]]
    for reading in readings:
        now = [(counts.published, counts.delivered, counts.dropped) for counts in reading]
        for one, other in zip(last, now, strict=True):
            assert all(a <= b for a, b in zip(one, other, strict=True))
        last = now


async def test_counts_add_up_at_every_moment_of_a_busy_bus() -> None:
    """Read from a thread of its own all the while; in the end each got as many as was counted."""
    busy = Busy()
    every: list[BusStatistics] = []
    staying: list[list[SubscriptionStatistics]] = []
    first = [subscription for subscription, _ in busy.staying]
    done = threading.Event()

    def read() -> None:
        while not done.wait(0.001):
            every.append(busy.bus.statistics())
            staying.append([subscription.statistics() for subscription in first])

    reader = threading.Thread(target=read)
    reader.start()
    try:
        await busy.run()
    finally:
        done.set()
        reader.join()
    assert len(every) > 5
    for reading in every:
        check_sums(reading)
    check_readings(staying)
    assert busy.bus.statistics().published == 2 * 310
    for subscription, recorder in (*busy.staying, *busy.passing):
        counts = subscription.statistics()
        assert (counts.queued, counts.in_flight) == (0, 0)
        assert counts.delivered == len(recorder.events)
        assert counts.published == counts.delivered + counts.dropped
    for subscription, _ in busy.staying:
        wanted = 620 if Tick in subscription.kinds else 20
        assert subscription.statistics().published == wanted
        if subscription.options.overflow == "block":
            assert subscription.statistics().dropped == 0


async def test_what_def_handlers_miss_after_the_end_is_counted() -> None:
    """A failure while the run is drained is told; the thread in which they are called has ended."""
    gate = Gate()
    recorder, every_other = EventRecorder(), EventRecorder()

    async def fail(event: Tick) -> None:
        await gate.pass_async()
        raise ZeroDivisionError

    async with Bus() as bus:
        bus.add(fail, Tick, wait=False, on_error="log")
        waiting = bus.add(recorder, HandlerFailed, name="waiting")
        bus.add(every_other, HandlerFailed, every=2, name="every other")
        publisher = bus.publisher()
        for _ in range(3):
            publisher.publish(Tick())
        publisher.close()
        gate.open()
        report = await bus.drain(publisher.run, 10)
        assert counts_of(waiting.statistics()) == {"published": 3, "dropped": 3}
    assert recorder.events == []
    found = [(entry.delivered, entry.undelivered) for entry in report.subscribers]
    assert found == [(3, 0), (0, 3), (0, 1)]
    assert not report.complete
