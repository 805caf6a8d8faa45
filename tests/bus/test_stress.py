"""Four threads publish a hundred thousand events, while others come and go."""

from __future__ import annotations

import functools
import random
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import anyio
import anyio.to_thread
import pytest

from fitbus import Bus, Event, Subscription
from fitbus.bus import BusStatistics, Overflow, Publisher, SubscriptionStatistics

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

THREADS = 4
EVENTS = 100_000
POLICIES: list[Overflow] = ["block", "drop_oldest", "drop_newest", "latest"]
BUFFER = 256  # "block" holds twice as many: each thread publishes one event between two boundaries


class Tick(Event):
    """What all publish."""


class Tock(Tick):
    """What training waits for, now and then."""


class Witness:
    """Handles events in each mode; knows whether its calls overlapped."""

    def __init__(self) -> None:
        self.seen: list[Event] = []
        self.busy = threading.Lock()
        self.overlapped = False

    def call(self, event: Event) -> None:
        if not self.busy.acquire(blocking=False):
            self.overlapped = True
            return
        self.seen.append(event)
        self.busy.release()

    def gather(self, events: Sequence[Event]) -> None:
        for event in events:
            self.call(event)

    async def acall(self, event: Event) -> None:
        self.call(event)

    async def agather(self, events: Sequence[Event]) -> None:
        self.gather(events)

    async def consume(self, stream: Subscription[Any]) -> None:
        async for event in stream:
            self.call(event)

    def check(self, counts: SubscriptionStatistics) -> None:
        """Each event once, in order within its run; as many as were counted, and none left."""
        assert not self.overlapped
        last: dict[str, int] = {}
        for event in self.seen:
            assert event.seq > last.get(event.run, -1)
            last[event.run] = event.seq
        assert counts.delivered == len(self.seen)
        assert counts.published == counts.delivered + counts.dropped
        assert (counts.queued, counts.in_flight, counts.errors) == (0, 0, 0)


class Crowd:
    """Subscribers that come and go, as a thread's chance has it."""

    def __init__(self, bus: Bus, seed: int) -> None:
        self.bus = bus
        self.chance = random.Random(seed)  # noqa: S311  # the same in every run of the test
        self.live: list[Subscription[Any]] = []
        self.all: list[tuple[Witness, Subscription[Any]]] = []

    def act(self) -> None:
        """Adds one, cancels one, or looks at what the bus counts."""
        chance = self.chance
        what = chance.choice(("add", "cancel", "look"))
        if what == "look":
            check_sums(self.bus.statistics())
        elif what == "cancel" and self.live:
            self.live.pop(chance.randrange(len(self.live))).cancel()
        elif what == "add" and not self.live:
            self.live.append(self.add())

    def add(self) -> Subscription[Any]:
        chance, witness = self.chance, Witness()
        every, overflow = chance.choice((1, 1, 7)), chance.choice(POLICIES)
        match chance.randrange(6):
            case 0:
                added = self.bus.add(witness.call, Tock, wait=True)
            case 1:
                added = self.bus.add(witness.acall, Tock, wait=True)
            case choice:
                handler = (witness.call, witness.acall, witness.gather, witness.agather)[choice - 2]
                added = self.bus.add(
                    handler,
                    Tick,
                    wait=False,
                    every=every,
                    batched=choice > 3,
                    overflow=overflow,
                    buffer_size=BUFFER,
                )
        self.all.append((witness, added))
        return added


def check_sums(statistics: BusStatistics) -> None:
    """What was published is accounted for, at every moment."""
    for counts in statistics.subscriptions:
        parts = (counts.delivered, counts.dropped, counts.queued, counts.in_flight)
        assert counts.published == sum(parts)
        assert min(parts) >= 0


def train(own: Publisher, other: Publisher, crowd: Crowd) -> None:
    """A loop that publishes in its own run, and each tenth event in its neighbour's."""
    for number in range(EVENTS // THREADS):
        if number % 500 == 0:
            own.barrier(Tock())
        elif number % 10 == 0:
            other.publish(Tick())
        else:
            own.publish(Tick())
        own.boundary()
        if number % 100 == 0:
            crowd.act()


@pytest.fixture
def switching_all_the_time() -> Iterator[None]:
    """Lets threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


async def test_nothing_is_lost_doubled_or_out_of_order(switching_all_the_time: None) -> None:
    """All policies, handlers of all modes, streams; counts add up at every moment and at the end;
    who asked to lose nothing has lost nothing.
    """
    bus = Bus()
    ticks = [Witness() for _ in POLICIES]
    tocks = [Witness(), Witness()]
    consumer = Witness()
    stream = bus.subscribe(Tick, overflow="block", buffer_size=BUFFER)
    staying: list[tuple[Witness, Subscription[Any]]] = [
        *(
            (w, bus.add(w.acall, Tick, overflow=overflow, buffer_size=BUFFER))
            for w, overflow in zip(ticks, POLICIES, strict=True)
        ),
        (tocks[0], bus.add(tocks[0].call, Tock, wait=True)),
        (tocks[1], bus.add(tocks[1].acall, Tock, wait=True)),
        (consumer, stream),
    ]
    publishers = [bus.publisher() for _ in range(THREADS)]
    crowds = [Crowd(bus, seed) for seed in range(THREADS)]
    with anyio.fail_after(120):
        async with bus.hosted(), anyio.create_task_group() as tasks, stream:
            tasks.start_soon(consumer.consume, stream)
            async with anyio.create_task_group() as threads:
                for place, crowd in enumerate(crowds):
                    other = publishers[(place + 1) % THREADS]
                    job = functools.partial(train, publishers[place], other, crowd)
                    threads.start_soon(anyio.to_thread.run_sync, job)
            for publisher in publishers:
                publisher.close()
            report = await bus.aclose()
            assert report.errors == ()
    assert bus.statistics().published == EVENTS
    for witness, subscription in (*staying, *(pair for crowd in crowds for pair in crowd.all)):
        witness.check(subscription.statistics())
    for _, subscription in staying:
        counts = subscription.statistics()
        wanted = EVENTS if Tick in subscription.kinds else EVENTS // 500
        assert counts.published == wanted
        if subscription.options.overflow == "block":
            assert (counts.delivered, counts.dropped) == (wanted, 0)
    assert sum(len(crowd.all) for crowd in crowds) > 100
