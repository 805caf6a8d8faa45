"""Busy subscribers let others run, and only those with something to do are woken."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from fitbus import Bus, EpochEnd, Event
from fitbus.testing import Gate

pytestmark = pytest.mark.anyio


class Tick(Event):
    """What busy subscribers get."""

    number: int


class Tock(Event):
    """What others get."""


class Counted:
    """Awaits something, and counts how often the event loop resumes it."""

    def __init__(self, awaitable: Awaitable[Any]) -> None:
        self.awaitable = awaitable
        self.resumed = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self.awaitable.__await__()
        answer: Any = None
        while True:
            try:
                request = steps.send(answer)
            except StopIteration as end:
                return end.value
            answer = yield request
            self.resumed += 1


@pytest.mark.parametrize("wait", [True, False])
async def test_a_busy_handler_lets_others_run(wait: bool) -> None:
    """It has thousands of events and never awaits; another's one event isn't behind them all."""
    busy, seen_at = list[int](), list[int]()
    bus = Bus()

    async def work(event: Tick) -> None:
        busy.append(event.number)

    async def other(event: Tock) -> None:
        seen_at.append(len(busy))

    if wait:
        bus.add(work, Tick, wait=True)
    else:
        bus.add(work, Tick, buffer_size=2000)
    bus.add(other, Tock)
    publisher = bus.publisher()
    for number in range(2000):
        publisher.publish(Tick(number=number))
    publisher.publish(Tock())
    async with bus:
        pass
    assert busy == list(range(2000))
    assert seen_at[0] < 500


async def test_busy_handlers_take_turns() -> None:
    """None of three is ever far ahead of another one."""
    bus = Bus()
    done = [0, 0, 0]
    gaps: list[int] = []

    def handler(place: int) -> Callable[[Tick], Awaitable[None]]:
        async def work(event: Tick) -> None:
            done[place] += 1
            gaps.append(max(done) - min(done))

        return work

    for place in range(3):
        bus.add(handler(place), Tick)
    publisher = bus.publisher()
    for number in range(1000):
        publisher.publish(Tick(number=number))
    async with bus:
        pass
    assert done == [1000] * 3
    assert max(gaps) < 300


async def test_a_handler_that_is_never_out_of_work_lets_the_loop_run() -> None:
    """It publishes to itself for ever; a plain task beside it gets its turns, and ends it."""
    calls: list[int] = []
    async with Bus() as bus:
        publisher = bus.publisher()

        async def go_on(event: Tick) -> None:
            calls.append(event.number)
            publisher.publish(Tick(number=event.number + 1))

        subscription = bus.add(go_on, Tick)
        publisher.publish(Tick(number=0))
        for _ in range(50):
            await anyio.lowlevel.checkpoint()
        assert calls
        subscription.cancel()
        assert subscription.statistics().dropped <= 65
    assert calls == list(range(len(calls)))


async def test_a_busy_stream_lets_others_run() -> None:
    """Its loop never awaits anything else."""
    turns: list[int] = []
    taken: list[int] = []
    async with Bus() as bus, bus.subscribe(Tick, buffer_size=2000) as stream:

        async def other() -> None:
            while len(taken) < 2000:
                turns.append(len(taken))
                await anyio.lowlevel.checkpoint()

        publisher = bus.publisher()
        for number in range(2000):
            publisher.publish(Tick(number=number))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            async for event in stream:
                taken.append(event.number)
                if len(taken) == 2000:
                    break
    assert len(turns) > 10
    assert all(later - earlier < 500 for earlier, later in itertools.pairwise(turns))


async def test_nobody_is_woken_for_what_nobody_takes() -> None:
    """No subscriber, a filter that holds it back, or `def` handlers that training waits for."""
    async with Bus() as bus:

        async def never(event: Tick) -> None:
            raise AssertionError

        called: list[Event] = []
        bus.add(never, Tick, where=lambda event: False)
        bus.add(never, Tick, every=1000)
        bus.add(called.append, Tick, wait=True)
        await bus.drain(None, 30)
        before = bus.statistics().wakes
        publisher = bus.publisher()
        for number in range(100):
            publisher.barrier(Tick(number=number))
            publisher.publish(Tock())
        assert bus.statistics().wakes == before
        assert len(called) == 100


async def test_one_wake_does_for_all_that_has_come() -> None:
    """A hundred events for three subscribers; whoever is at work already isn't woken again."""
    gate = Gate()
    numbers: list[int] = []
    async with Bus() as bus:

        async def work(event: Tick) -> None:
            numbers.append(event.number)
            await gate.pass_async()

        for _ in range(3):
            bus.add(work, Tick)
        await bus.drain(None, 30)
        before = bus.statistics().wakes
        publisher = bus.publisher()
        for number in range(100):
            publisher.publish(Tick(number=number))
        assert bus.statistics().wakes == before + 1
        await gate.wait_arrived()
        await anyio.wait_all_tasks_blocked()
        for number in range(100, 200):
            publisher.publish(Tick(number=number))
        assert bus.statistics().wakes == before + 1
        gate.open()
    assert sorted(numbers) == [n for n in range(200) for _ in range(3)]


async def test_flush_s_puts_wakes_off() -> None:
    """Until `flush`, `barrier` or the next event after that time; what is done is the same."""
    numbers: list[int] = []
    async with Bus() as bus:

        async def note(event: Tick) -> None:
            numbers.append(event.number)

        bus.add(note, Tick)
        publisher = bus.publisher(flush_s=3600)
        publisher.publish(Tick(number=0))  # the first one is told at once
        await bus.drain(None, 30)
        before = bus.statistics().wakes
        for number in range(1, 5):
            publisher.publish(Tick(number=number))
        assert bus.statistics().wakes == before
        assert numbers == [0]
        publisher.flush()
        assert bus.statistics().wakes == before + 1
        await bus.drain(None, 30)
        assert numbers == [0, 1, 2, 3, 4]
        before = bus.statistics().wakes
        publisher.publish(Tick(number=5))
        publisher.barrier(EpochEnd())
        assert bus.statistics().wakes == before + 1
    assert numbers == [0, 1, 2, 3, 4, 5]


async def test_only_the_subscriber_of_an_event_is_resumed() -> None:
    """One stream gets events one by one; the consumers of others sleep on."""
    async with (
        Bus() as bus,
        bus.subscribe(Tick) as busy,
        bus.subscribe(Tock) as idle,
        bus.subscribe(Tick, where=lambda event: event.number < 0) as picky,
    ):
        publisher = bus.publisher()
        sleeping = [Counted(anext(idle)), Counted(anext(picky))]

        async def sleep(counted: Counted) -> None:
            await counted

        async with anyio.create_task_group() as tasks:
            for counted in sleeping:
                tasks.start_soon(sleep, counted)
            await anyio.wait_all_tasks_blocked()
            for number in range(50):
                thread = threading.Thread(target=publisher.publish, args=(Tick(number=number),))
                thread.start()
                working = Counted(anext(busy))
                assert (await working).number == number
                thread.join()
            for _ in range(10):
                await anyio.lowlevel.checkpoint()  # whoever was woken would run now
            assert [counted.resumed for counted in sleeping] == [0, 0]
            publisher.publish(Tock())
            publisher.publish(Tick(number=-1))
        assert [counted.resumed for counted in sleeping] == [1, 1]
