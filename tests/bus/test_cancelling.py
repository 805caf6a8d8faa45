"""Ending a subscription: at once, once, from anywhere, and without leaving a trace."""

from __future__ import annotations

import contextlib
import functools
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from fitbus import Bus, Event, Subscription
from fitbus.bus import Publisher
from fitbus.testing import Gate

pytestmark = pytest.mark.anyio

T = TypeVar("T")
MODES = [(colour, wait) for colour in ("def", "async def") for wait in (True, False)]
modes = pytest.mark.parametrize(("colour", "wait"), MODES)


class Tick(Event):
    """What these tests publish."""

    number: int


class Recorder:
    """A handler of either colour that can be weakly referenced, and does something at each call."""

    def __init__(self, at_call: Callable[[], object] = lambda: None) -> None:
        self.numbers: list[int] = []
        self.at_call = at_call

    def call(self, event: Tick) -> None:
        self.numbers.append(event.number)
        self.at_call()

    async def acall(self, event: Tick) -> None:
        self.call(event)

    def of(self, colour: str) -> Callable[[Tick], Any]:
        return self.call if colour == "def" else self.acall


async def in_thread(function: Callable[[], T]) -> T:
    """Runs a training loop by hand in a thread."""
    with anyio.fail_after(30):
        return await anyio.to_thread.run_sync(function, abandon_on_cancel=True)


async def train(publisher: Publisher, events: range) -> None:
    """Publishes, and waits for those that want it."""
    await in_thread(lambda: [publisher.barrier(Tick(number=number)) for number in events])


@modes
async def test_nothing_comes_after_a_cancel(colour: str, wait: bool) -> None:
    recorder, other = Recorder(), Recorder()
    async with Bus() as bus:
        subscription = bus.add(recorder.of(colour), Tick, wait=wait)
        bus.add(other.of(colour), Tick, wait=wait)
        publisher = bus.publisher()
        await train(publisher, range(3))
        await bus.drain(None, 30)
        subscription.cancel()
        assert not publisher.failures.pending
        await train(publisher, range(3, 6))
    assert recorder.numbers == [0, 1, 2]
    assert other.numbers == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("colour", ["def", "async def"])
async def test_what_waits_is_lost_and_what_is_in_flight_is_finished(colour: str) -> None:
    """The losses are counted."""
    gate, numbers = Gate(), list[int]()

    def call(event: Tick) -> None:
        gate.pass_sync()
        numbers.append(event.number)

    async def acall(event: Tick) -> None:
        await gate.pass_async()
        numbers.append(event.number)

    async with Bus() as bus:
        subscription = bus.add(call if colour == "def" else acall, Tick, wait=False)
        publisher = bus.publisher()
        for number in range(5):
            publisher.publish(Tick(number=number))
        await gate.wait_arrived()
        subscription.cancel()
        counts = subscription.statistics()
        assert (counts.delivered, counts.queued) == (0, 0)
        assert counts.published == counts.in_flight + counts.dropped == 5
        gate.open()
    assert numbers == [0]
    counts = subscription.statistics()
    assert (counts.published, counts.delivered, counts.in_flight) == (5, 1, 0)
    assert subscription.report().undelivered == 4


@modes
async def test_cancelling_from_inside_the_handler_ends_it_after_this_call(
    colour: str, wait: bool
) -> None:
    """With events waiting behind it."""
    subscriptions: list[Subscription[Any]] = []

    def cancel() -> None:
        subscriptions[0].cancel()

    recorder = Recorder(cancel)
    async with Bus() as bus:
        subscriptions.append(bus.add(recorder.of(colour), Tick, wait=wait))
        await train(bus.publisher(), range(5))
        await bus.drain(None, 30)
        assert bus.statistics().subscriptions == ()
    assert recorder.numbers == [0]


async def test_a_batched_handler_may_cancel_itself() -> None:
    """What was in its batch counts as delivered."""
    batches: list[int] = []

    async def once(events: list[Tick]) -> None:
        batches.append(len(events))
        subscription.cancel()

    bus = Bus()
    subscription = bus.add(once, Tick, wait=False, batched=True)
    publisher = bus.publisher()
    for number in range(5):
        publisher.publish(Tick(number=number))
    async with bus:
        await bus.drain(None, 30)
        publisher.publish(Tick(number=5))
    assert batches == [5]
    assert subscription.statistics().delivered == subscription.statistics().published == 5


async def test_cancelling_is_idempotent_and_from_any_thread() -> None:
    """Eight threads at once, while a ninth publishes: it ends once, and counts add up."""
    recorder = Recorder()
    async with Bus() as bus:
        subscription = bus.add(recorder.acall, Tick, wait=False)
        publisher = bus.publisher()
        start = threading.Barrier(9)

        def cancel() -> None:
            start.wait()
            subscription.cancel()

        def publish() -> None:
            start.wait()
            for number in range(300):
                publisher.publish(Tick(number=number))

        async with anyio.create_task_group() as tasks:
            for work in (*[cancel] * 8, publish):
                tasks.start_soon(in_thread, work)
        subscription.cancel()
        counts = subscription.statistics()
        assert bus.statistics().subscriptions == ()
    counts = subscription.statistics()
    assert counts.published == counts.delivered + counts.dropped
    assert (counts.queued, counts.in_flight) == (0, 0)
    assert recorder.numbers == [*range(counts.delivered)]


@pytest.mark.parametrize("hosted", [True, False])
@modes
async def test_a_cancelled_handler_is_referenced_by_nobody(
    colour: str, wait: bool, hosted: bool
) -> None:
    """Neither is its subscription; whether the bus is hosted or not, with and without events."""
    bus = Bus()
    publisher = bus.publisher()
    kept: list[Subscription[Any]] = []
    references: list[weakref.ref[Any]] = []

    def attach() -> None:
        recorder = Recorder()
        kept.append(bus.add(recorder.of(colour), Tick, wait=wait))
        references.extend((weakref.ref(recorder), weakref.ref(kept[-1])))

    async def let_go() -> None:
        kept.pop().cancel()
        with anyio.fail_after(10):
            while any(reference() is not None for reference in references):
                for _ in range(10):
                    await anyio.lowlevel.checkpoint()  # its task ends in the loop
                gc.collect()

    async with bus.hosted() if hosted else contextlib.nullcontext():
        attach()
        await let_go()
        attach()
        publisher.publish(Tick(number=0))
        publisher.boundary()
        await let_go()


def test_a_bus_that_nobody_holds_is_collected() -> None:
    """With its handlers, subscriptions and publisher, although these refer to it."""
    bus = Bus()
    recorder = Recorder()
    subscription = bus.add(recorder.call, Tick)
    publisher = bus.publisher()
    publisher.barrier(Tick(number=0))
    references: list[weakref.ref[Any]] = [
        weakref.ref(kept) for kept in (bus, recorder, subscription, publisher)
    ]
    del bus, recorder, subscription, publisher
    gc.collect()
    assert [reference() for reference in references] == [None] * 4


async def test_cancelling_one_of_a_predicates_siblings_leaves_nothing_queued() -> None:
    """A predicate may cancel another subscription that the same event would go to."""
    recorder = Recorder()
    async with Bus() as bus:

        def cancel_other(event: Tick) -> bool:
            second.cancel()
            return True

        first = bus.add(recorder.acall, Tick, where=cancel_other)
        second = bus.add(recorder.acall, Tick)
        bus.publisher().publish(Tick(number=0))
        await bus.drain(None, 30)
        assert second.statistics().queued == 0
    assert recorder.numbers == [0]
    assert first.statistics().delivered == 1


async def test_a_subscriber_added_in_between_gets_what_comes_after() -> None:
    """Adding and cancelling while events go by: each gets those of its time."""
    recorders = [Recorder() for _ in range(4)]
    async with Bus() as bus:
        publisher = bus.publisher()
        subscriptions: list[Subscription[Any]] = []
        for number, recorder in enumerate(recorders):
            subscriptions.append(bus.add(recorder.call, Tick, wait=True))
            publisher.barrier(Tick(number=2 * number))
            publisher.barrier(Tick(number=2 * number + 1))
            if number:
                subscriptions[number - 1].cancel()
    assert [recorder.numbers for recorder in recorders] == [
        [0, 1, 2, 3],
        [2, 3, 4, 5],
        [4, 5, 6, 7],
        [6, 7],
    ]


@modes
async def test_cancelling_between_publishing_and_the_call(colour: str, wait: bool) -> None:
    """What another thread published and a waiting `def` handler hasn't seen isn't called either."""
    recorder = Recorder()
    bus = Bus()
    subscription = bus.add(recorder.of(colour), Tick, wait=wait)
    publisher = bus.publisher()
    await in_thread(functools.partial(publisher.publish, Tick(number=0)))
    subscription.cancel()
    publisher.boundary()
    async with bus:
        await bus.drain(None, 30)
    publisher.close()
    assert recorder.numbers == []
