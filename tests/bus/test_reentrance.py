"""Handlers that use the bus while it delivers to them: nothing deadlocks, nothing recurses."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import pytest

from fitbus import Bus, Control, EpochEnd, Event, Pause, StopTraining, Subscription
from fitbus.bus import Publisher
from fitbus.errors import BusClosedError, WouldDeadlockError
from fitbus.testing import Gate

pytestmark = pytest.mark.anyio

T = TypeVar("T")
MODES = [(colour, wait) for colour in ("def", "async def") for wait in (True, False)]
modes = pytest.mark.parametrize(("colour", "wait"), MODES)


class Tick(Event):
    """What these tests publish."""

    number: int


class Echo(Event):
    """What handlers answer with."""

    number: int


async def in_thread(function: Callable[[], T]) -> T:
    """Runs a training loop by hand in a thread."""
    with anyio.fail_after(30):
        return await anyio.to_thread.run_sync(function, abandon_on_cancel=True)


def coloured(colour: str, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same handler as `def` or as `async def`."""

    def call(event: Event) -> Any:
        return function(event)

    async def acall(event: Event) -> Any:
        return function(event)

    return call if colour == "def" else acall


async def settle(bus: Bus, publisher: Publisher, until: Callable[[], bool]) -> None:
    """Lets the training thread pass boundaries, and handlers work, until something holds."""
    with anyio.fail_after(30):
        while not until():
            await in_thread(lambda: [*publisher.boundary()])
            await bus.drain(None, 30)


@modes
async def test_a_handler_may_publish(colour: str, wait: bool) -> None:
    """What it publishes comes after the event that it handles, for everybody."""
    seen: list[Event] = []
    async with Bus() as bus:
        publisher = bus.publisher()

        def answer(event: Tick) -> None:
            publisher.publish(Echo(number=event.number))

        bus.add(coloured(colour, answer), Tick, wait=wait)
        bus.add(seen.append, Tick, Echo, wait=False)
        await in_thread(lambda: [publisher.barrier(Tick(number=i)) for i in range(3)])
        await settle(bus, publisher, lambda: len(seen) == 6)
    assert [event.seq for event in seen] == list(range(6))
    for number in range(3):
        places = [event.seq for event in seen if getattr(event, "number", None) == number]
        kinds = [type(event) for event in seen if getattr(event, "number", None) == number]
        assert kinds == [Tick, Echo]
        assert places == sorted(places)


@modes
async def test_a_handler_may_publish_to_itself(colour: str, wait: bool) -> None:
    """Its next call comes after this one has returned: a thousand of them need no deeper stack."""
    numbers: list[int] = []
    depths: list[int] = []
    inside: list[int] = []
    async with Bus() as bus:
        publisher = bus.publisher()

        def count_down(event: Tick) -> None:
            assert not inside
            inside.append(1)
            frame, depth = sys._getframe(), 0
            while frame.f_back is not None:
                frame, depth = frame.f_back, depth + 1
            depths.append(depth)
            numbers.append(event.number)
            if event.number:
                publisher.publish(Tick(number=event.number - 1))
            inside.clear()

        bus.add(coloured(colour, count_down), Tick, wait=wait)
        publisher.publish(Tick(number=1000))
        await settle(bus, publisher, lambda: len(numbers) == 1001)
        assert not publisher.failures.pending
    assert numbers == list(range(1000, -1, -1))
    assert max(depths) - min(depths) < 20


def test_a_boundary_ends_though_a_def_handler_publishes_to_itself_for_ever() -> None:
    """Each boundary calls it for what was published before."""
    bus = Bus()
    publisher = bus.publisher()
    numbers: list[int] = []

    def go_on(event: Tick) -> None:
        numbers.append(event.number)
        assert len(numbers) < 100
        publisher.publish(Tick(number=event.number + 1))

    bus.add(go_on, Tick)
    publisher.publish(Tick(number=0))
    for boundary in range(5):
        assert numbers == list(range(boundary))
        assert [*publisher.boundary()] == []
    publisher.barrier(EpochEnd())
    assert len(numbers) < 10
    publisher.close()
    assert len(numbers) < 10


@modes
async def test_a_handler_may_send_controls_to_its_own_run(colour: str, wait: bool) -> None:
    """By `post`, which doesn't wait; the boundary yields them with those that it returns."""
    async with Bus() as bus:
        publisher = bus.publisher()

        def ask(event: Tick) -> Control:
            publisher.post(Pause(), "posted")
            return StopTraining("returned")

        bus.add(coloured(colour, ask), Tick, wait=wait, name="asking")
        await in_thread(lambda: publisher.barrier(Tick(number=0)))
        await bus.drain(None, 30)
        assert [*publisher.boundary()] == [Pause(), StopTraining("returned")]


@modes
async def test_a_handler_may_subscribe_another(colour: str, wait: bool) -> None:
    """Which gets what is published from then on."""
    numbers: list[int] = []
    async with Bus() as bus:
        publisher = bus.publisher()

        def grow(event: Tick) -> None:
            if event.number == 1:
                bus.add(lambda later: numbers.append(later.number), Tick, wait=wait)

        bus.add(coloured(colour, grow), Tick, wait=wait)
        for number in range(4):
            await in_thread(functools.partial(publisher.barrier, Tick(number=number)))
            await bus.drain(None, 30)
    assert numbers == [2, 3]


@modes
async def test_a_handler_may_cancel_others_and_itself(colour: str, wait: bool) -> None:
    """Of those that the same event has yet to reach, none is called that it cancelled."""
    called: list[str] = []
    subscriptions: list[Subscription[Any]] = []
    async with Bus() as bus:
        publisher = bus.publisher()

        def cancel_all(event: Tick) -> None:
            called.append("first")
            for subscription in reversed(subscriptions):  # itself last: then nobody waits for it
                subscription.cancel()

        def other(event: Tick) -> None:
            called.append("other")

        subscriptions.append(bus.add(coloured(colour, cancel_all), Tick, wait=wait))
        subscriptions.append(bus.add(coloured("def", other), Tick, wait=True))
        for number in range(2):
            await in_thread(functools.partial(publisher.barrier, Tick(number=number)))
            await bus.drain(None, 30)
        assert bus.statistics().subscriptions == ()
    assert called.count("first") == 1
    if wait:
        assert called == ["first"]


@modes
async def test_a_handler_may_look_at_the_bus(colour: str, wait: bool) -> None:
    """Its own call is in flight while it looks."""
    looked: list[tuple[int, int]] = []
    async with Bus() as bus:
        publisher = bus.publisher()

        def look(event: Tick) -> None:
            (counts,) = bus.statistics().subscriptions
            looked.append((counts.published, counts.in_flight))
            repr(bus)

        bus.add(coloured(colour, look), Tick, wait=wait)
        await in_thread(lambda: publisher.barrier(Tick(number=0)))
    assert looked == [(1, 1)]


async def test_a_predicate_may_look_at_the_bus_and_subscribe() -> None:
    """It runs with the bus' lock held, in the publishing thread, and no thread waits for itself."""
    numbers: list[int] = []
    async with Bus() as bus:

        def judge(event: Tick) -> bool:
            if event.number == 0:
                bus.add(lambda later: numbers.append(later.number), Tick, wait=False)
            return len(bus.statistics().subscriptions) == 2

        bus.add(lambda event: numbers.append(10 + event.number), Tick, wait=False, where=judge)
        publisher = bus.publisher()
        for number in range(2):
            await in_thread(functools.partial(publisher.publish, Tick(number=number)))
    assert sorted(numbers) == [1, 10, 11]


async def test_a_concurrent_handler_may_wait_for_a_later_event() -> None:
    """Training goes on meanwhile; a waiting handler that tried would wait for ever, and is told."""
    found: list[Event] = []
    refused: list[BaseException] = []
    gate = Gate()
    async with Bus() as bus:

        async def wait_more(event: Tick) -> None:
            gate.open()
            found.append(await bus.wait_for(Echo, timeout=30))

        async def wait_in_vain(event: EpochEnd) -> None:
            with pytest.raises(WouldDeadlockError, match="wait=False") as caught:
                await bus.wait_for(Echo, timeout=30)
            refused.append(caught.value)

        bus.add(wait_more, Tick)
        bus.add(wait_in_vain)
        publisher = bus.publisher()
        publisher.publish(Tick(number=0))
        await gate.pass_async()
        await anyio.wait_all_tasks_blocked()
        await in_thread(lambda: publisher.barrier(EpochEnd()))
        publisher.publish(Echo(number=5))
    assert [event.seq for event in found] == [2]
    assert len(refused) == 1


async def test_a_task_that_a_waiting_handler_starts_may_wait() -> None:
    """The refusal ends with the call of the handler."""
    found: list[Event] = []
    async with Bus() as bus, anyio.create_task_group() as tasks:
        inside = Gate()

        async def wait_for_echo() -> None:
            await inside.pass_async()
            found.append(await bus.wait_for(Echo, timeout=30))

        async def start(event: EpochEnd) -> None:
            tasks.start_soon(wait_for_echo)

        bus.add(start)
        publisher = bus.publisher()
        await in_thread(lambda: publisher.barrier(EpochEnd()))
        inside.open()
        await anyio.wait_all_tasks_blocked()
        publisher.publish(Echo(number=1))
    assert [type(event) for event in found] == [Echo]


@pytest.mark.parametrize("colour", ["def", "async def"])
async def test_a_handler_that_adds_to_a_closed_bus_is_told(colour: str) -> None:
    """While the bus is being closed, its last handlers still run."""
    gate = Gate()
    refused: list[BusClosedError] = []
    bus = Bus()

    def late(event: Tick) -> None:
        try:
            bus.add(late)
        except BusClosedError as error:
            refused.append(error)

    def call(event: Tick) -> None:
        gate.pass_sync()
        late(event)

    async def acall(event: Tick) -> None:
        await gate.pass_async()
        late(event)

    async with bus.hosted(), anyio.create_task_group() as tasks:
        bus.add(call if colour == "def" else acall, Tick, wait=False)
        bus.publisher().publish(Tick(number=0))
        await gate.wait_arrived()
        tasks.start_soon(bus.aclose)
        await anyio.wait_all_tasks_blocked()
        gate.open()
    assert len(refused) == 1
