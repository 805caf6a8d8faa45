"""Streams: what they hold, how they end, and that nothing is lost or doubled on the way."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from fitbus import Bus, EpochEnd, Event, Lagged, Subscription
from fitbus.errors import BusClosedError, FitbusError, InvalidArgumentError

pytestmark = pytest.mark.anyio

natively = pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)


class Tick(Event):
    """What these tests publish."""

    number: int


def publish(bus: Bus, numbers: range) -> None:
    publisher = bus.publisher()
    for number in numbers:
        publisher.publish(Tick(number=number))


async def take(stream: Subscription[Tick], most: int) -> list[int]:
    """The numbers of the next events."""
    numbers: list[int] = []
    with anyio.fail_after(30):
        async for event in stream:
            numbers.append(event.number)
            if len(numbers) == most:
                break
    return numbers


async def take_with_cancellations(
    stream: Subscription[Tick], bus: Bus, attempt: Callable[[int], Awaitable[None]]
) -> None:
    """Lets a thread publish while consumer after consumer is started and cancelled."""
    thread = threading.Thread(target=publish, args=(bus, range(2000)))
    thread.start()
    turns = itertools.cycle([3, 0, 2, 1, 1, 3, 2])
    while thread.is_alive() or stream.statistics().queued > 5:
        await attempt(next(turns))
    thread.join()


async def test_cancelling_a_consumer_by_its_scope_loses_and_doubles_nothing() -> None:
    taken: list[int] = []

    async def attempt(turns: int) -> None:
        async def consume() -> None:
            while True:
                event = await anext(stream)
                taken.append(event.number)
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consume)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()

    async with Bus() as bus, bus.subscribe(Tick, buffer_size=2000) as stream:
        await take_with_cancellations(stream, bus, attempt)
        taken += await take(stream, stream.statistics().queued)
        assert stream.statistics().delivered == 2000
    assert taken == list(range(2000))


@natively
async def test_cancelling_a_consumer_natively_loses_and_doubles_nothing() -> None:
    """By `task.cancel()`, wherever it stands."""
    taken: list[int] = []

    async def consume() -> None:
        while True:
            event = await anext(stream)
            taken.append(event.number)
            await asyncio.sleep(0)

    async def attempt(turns: int) -> None:
        task = asyncio.create_task(consume())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async with Bus() as bus, bus.subscribe(Tick, buffer_size=2000) as stream:
        await take_with_cancellations(stream, bus, attempt)
        taken += await take(stream, stream.statistics().queued)
        assert stream.statistics().delivered == 2000
    assert taken == list(range(2000))


@natively
async def test_an_event_that_comes_as_its_consumer_is_cancelled_goes_to_another() -> None:
    """Natively, after it was woken and before it ran."""
    async with Bus() as bus, bus.subscribe(Tick) as stream:
        publisher = bus.publisher()
        first, second = (asyncio.ensure_future(take(stream, 1)) for _ in range(2))
        await anyio.wait_all_tasks_blocked()
        publisher.publish(Tick(number=0))
        first.cancel()
        assert await second == [0]
        with pytest.raises(asyncio.CancelledError):
            await first
        publisher.publish(Tick(number=1))
        assert await take(stream, 1) == [1]


async def test_several_consumers_of_one_stream_share_it() -> None:
    """Each event goes to one of them; each of them gets its events in order, and the end."""
    shares: list[list[int]] = [[], [], []]
    async with Bus() as bus, bus.subscribe(Tick) as stream:

        async def consume(share: list[int]) -> None:
            async for event in stream:
                share.append(event.number)
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tasks:
            for share in shares:
                tasks.start_soon(consume, share)
            await anyio.wait_all_tasks_blocked()
            publish(bus, range(300))
            with anyio.fail_after(30):
                while sum(map(len, shares)) < 300:
                    await anyio.lowlevel.checkpoint()
            stream.close()
    assert sorted(itertools.chain(*shares)) == list(range(300))
    assert all(share == sorted(share) and share for share in shares)


async def test_two_streams_of_the_same_kind_are_two() -> None:
    """Each gets everything, and ends by itself."""
    async with Bus() as bus, bus.subscribe(Tick) as one:
        async with bus.subscribe(Tick) as other:
            publish(bus, range(3))
            assert await take(one, 3) == await take(other, 3) == [0, 1, 2]
        publish(bus, range(3, 5))
        assert await take(one, 2) == [3, 4]


async def test_a_stream_holds_events_only_while_it_is_open() -> None:
    """Not those from before; what was not taken is lost when it is left, and counted."""
    async with Bus() as bus:
        stream = bus.subscribe(Tick)
        publish(bus, range(3))
        assert bus.statistics().subscriptions == ()
        async with stream:
            publish(bus, range(3, 6))
            assert await take(stream, 1) == [3]
        publish(bus, range(6, 9))
    counts = stream.statistics()
    assert (counts.published, counts.delivered, counts.dropped, counts.queued) == (3, 1, 2, 0)
    assert stream.report().undelivered == 2
    assert await take(stream, 1) == []


async def test_a_stream_needs_nobody_to_host_the_bus() -> None:
    bus = Bus()
    async with bus.subscribe(Tick) as stream:
        publish(bus, range(3))
        assert await take(stream, 3) == [0, 1, 2]


async def test_breaking_off_leaves_a_stream_open() -> None:
    """The next loop goes on where the first one left it."""
    async with Bus() as bus, bus.subscribe(Tick) as stream:
        publish(bus, range(6))
        assert await take(stream, 2) == [0, 1]
        assert await take(stream, 3) == [2, 3, 4]
        assert await take(stream, 1) == [5]


async def test_what_is_wrong_with_opening_or_reading_is_said() -> None:
    """Opened twice, opened again after it was left, read unopened, or no stream at all."""
    async with Bus() as bus:
        stream = bus.subscribe(Tick)
        with pytest.raises(FitbusError, match="is not open; write `async with"):
            await anext(stream)
        async with stream:
            with pytest.raises(FitbusError, match="was opened before; `subscribe` again"):
                await stream.__aenter__()
            publish(bus, range(1))
            assert await take(stream, 1) == [0]
        with pytest.raises(FitbusError, match="was opened before; `subscribe` again"):
            await stream.__aenter__()
        handler = bus.add(lambda event: None, Tick)
        with pytest.raises(FitbusError, match="a stream comes from `subscribe`"):
            await handler.__aenter__()
        with pytest.raises(FitbusError, match="is not open"):
            await anext(handler)
    with pytest.raises(BusClosedError):
        await bus.subscribe(Tick).__aenter__()


def test_subscribing_to_nothing_or_to_no_event_is_refused() -> None:
    bus = Bus()
    nothing: list[type[Event]] = []
    kinds: list[Any] = [int]
    with pytest.raises(InvalidArgumentError, match=r"^kinds: "):
        bus.subscribe(*nothing)
    with pytest.raises(InvalidArgumentError, match=r"^kinds: "):
        bus.subscribe(*kinds)
    with pytest.raises(InvalidArgumentError, match=r"^buffer_size: "):
        bus.subscribe(Tick, buffer_size=0)
    with pytest.raises(InvalidArgumentError, match=r"^after: "):
        bus.subscribe(Tick, after=True)


async def test_closing_the_bus_ends_its_streams_after_what_they_have() -> None:
    bus = Bus()
    async with bus.subscribe(Tick) as stream:
        publish(bus, range(3))
        await bus.aclose()
        assert await take(stream, 10) == [0, 1, 2]
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


@pytest.mark.parametrize("end", ["cancel", "close", "aclose"])
async def test_whoever_waits_learns_of_the_end(end: str) -> None:
    """By `cancel` or `close` of another thread, or the bus' end."""
    async with Bus() as bus, bus.subscribe(Tick) as stream:
        ended: list[list[int]] = []

        async def consume() -> None:
            ended.append(await take(stream, 1))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consume)
            await anyio.wait_all_tasks_blocked()
            if end == "aclose":
                await bus.aclose()
            else:
                thread = threading.Thread(target=getattr(stream, end))
                thread.start()
                thread.join()
        assert ended == [[]]


async def test_a_stream_drops_the_oldest_and_tells_those_who_ask() -> None:
    """By default; the `Lagged` comes first, since the loss was there."""
    async with Bus() as bus, bus.subscribe(Tick, Lagged, buffer_size=3) as stream:
        publish(bus, range(10))
        lagged = await anext(stream)
        assert isinstance(lagged, Lagged)
        assert (lagged.count, lagged.first_seq, lagged.last_seq) == (7, 0, 6)
        assert [(await anext(stream)).seq for _ in range(3)] == [7, 8, 9]
        counts = stream.statistics()
        assert (counts.published, counts.delivered, counts.dropped) == (10, 3, 7)


async def test_an_error_of_its_predicate_is_raised_where_the_stream_is_read() -> None:
    """After the events before it, and once."""

    def judge(event: Tick) -> bool:
        return 1 / (3 - event.number) > 0

    async with Bus() as bus, bus.subscribe(Tick, where=judge) as stream:
        publish(bus, range(6))
        assert [(await anext(stream)).number for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ZeroDivisionError):
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_a_stream_that_was_opened_and_forgotten_gives_a_warning() -> None:
    """When it is collected; one that was never opened, or was left, gives none."""

    async def open_and_forget() -> None:
        bus = Bus()
        bus.subscribe(Tick)
        async with bus.subscribe(Tick):
            pass
        await bus.subscribe(EpochEnd).__aenter__()

    async def until_collected() -> None:
        await open_and_forget()
        with anyio.fail_after(10):
            while not caught.list:
                await anyio.lowlevel.checkpoint()  # the loop lets go of its last wake-up
                gc.collect()

    with pytest.warns(ResourceWarning, match="stream of EpochEnd.*use `async with`") as caught:
        await until_collected()
    assert len([w for w in caught if "stream of" in str(w.message)]) == 1


async def test_whoever_only_looks_gets_on() -> None:
    """Polling never waits: the turn that a busy stream gives to others doesn't stop it for good."""
    bus = Bus()
    taken: list[int] = []
    async with bus.subscribe(Tick) as stream:
        publish(bus, range(200))
        for _ in range(300):
            with anyio.move_on_after(0):
                taken.append((await anext(stream)).number)
    assert taken == list(range(200))
