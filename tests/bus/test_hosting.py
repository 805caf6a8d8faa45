"""Which loop handlers run in: before it starts, after it has ended, and handed on between hosts."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest

from fitbus import Bus, Event
from fitbus.errors import BusClosedError, FitbusError
from fitbus.testing import Gate

pytestmark = pytest.mark.anyio

Run = Callable[..., Any]


class Tick(Event):
    """What these tests publish."""

    number: int


@pytest.fixture
def run(anyio_backend_name: str, anyio_backend_options: dict[str, Any]) -> Run:
    """Runs an event loop of its own, from start to end."""

    def run(function: Callable[..., Any], *args: Any) -> Any:
        return anyio.run(
            function, *args, backend=anyio_backend_name, backend_options=anyio_backend_options
        )

    return run


class Recorder:
    """A concurrent handler that notes numbers, and in which thread it ran."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.threads: set[int] = set()

    async def __call__(self, event: Tick) -> None:
        self.numbers.append(event.number)
        self.threads.add(threading.get_ident())


async def host(bus: Bus, during: Callable[[], object] = lambda: None) -> None:
    """Hosts a bus without closing it."""
    async with bus.hosted():
        during()
        await bus.drain(None, 30)


def in_new_thread(function: Callable[[], object]) -> None:
    """Runs something in a thread, to its end."""
    thread = threading.Thread(target=function)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()


def test_what_is_published_before_a_loop_starts_is_delivered_in_it(run: Run) -> None:
    """By two threads; publishing neither raises nor blocks."""
    bus = Bus()
    recorder, thread_side = Recorder(), list[int]()
    bus.add(recorder, Tick)
    bus.add(lambda event: thread_side.append(event.number), Tick, wait=False)
    publisher = bus.publisher()
    publisher.publish(Tick(number=0))
    in_new_thread(lambda: publisher.publish(Tick(number=1)))
    assert recorder.numbers == []
    run(host, bus)
    assert recorder.numbers == thread_side == [0, 1]


def test_what_is_published_after_a_loop_has_ended_waits_for_the_next(run: Run) -> None:
    """The bus lives in one loop, then in another."""
    bus = Bus()
    recorder = Recorder()
    bus.add(recorder, Tick)
    publisher = bus.publisher()
    for turn in range(3):
        ticks = [Tick(number=10 * turn + place) for place in range(3)]
        run(host, bus, functools.partial(publisher.publish, ticks[0]))
        publisher.publish(ticks[1])
        in_new_thread(functools.partial(publisher.publish, ticks[2]))
        publisher.boundary()
    assert recorder.numbers == [0, 1, 2, 10, 11, 12, 20]
    (counts,) = bus.statistics().subscriptions
    assert (counts.published, counts.queued) == (9, 2)


def test_streams_may_be_opened_in_one_loop_after_another(run: Run) -> None:
    bus = Bus()
    publisher = bus.publisher()

    async def take_one(number: int) -> int:
        async with bus.subscribe(Tick) as stream:
            publisher.publish(Tick(number=number))
            return (await anext(stream)).number

    assert [run(take_one, number) for number in range(3)] == [0, 1, 2]


def test_a_bus_may_be_closed_in_another_loop(run: Run) -> None:
    """What waits then for handlers that nobody hosts is reported as undelivered."""
    bus = Bus()
    recorder = Recorder()
    bus.add(recorder, Tick, name="recorder")
    publisher = bus.publisher()
    run(host, bus, lambda: publisher.publish(Tick(number=0)))
    publisher.publish(Tick(number=1))
    report = run(bus.aclose).by_name["recorder"]
    assert (report.delivered, report.undelivered) == (1, 1)
    publisher.publish(Tick(number=2))
    assert recorder.numbers == [0]


async def test_a_bus_in_use_is_refused_in_another_loop(run: Run) -> None:
    """Neither hosted nor read there; the loop where it lives goes on."""
    recorder = Recorder()
    async with Bus() as bus:
        bus.add(recorder, Tick)
        stream = bus.subscribe(Tick)

        def elsewhere(enter: Callable[[], Any]) -> None:
            async def main() -> None:
                with pytest.raises(FitbusError, match="another event loop"):
                    await enter()

            run(main)

        await anyio.to_thread.run_sync(elsewhere, bus.hosted().__aenter__)
        await anyio.to_thread.run_sync(elsewhere, stream.__aenter__)
        bus.publisher().publish(Tick(number=0))
    assert recorder.numbers == [0]


async def test_a_second_thread_publishes_into_the_loop() -> None:
    """Handlers run in the loop's thread all the same."""
    recorder = Recorder()
    async with Bus() as bus:
        bus.add(recorder, Tick)
        publisher = bus.publisher()
        for number in range(3):
            await anyio.to_thread.run_sync(publisher.publish, Tick(number=number))
    assert recorder.numbers == [0, 1, 2]
    assert recorder.threads == {threading.get_ident()}


async def test_handlers_added_before_and_while_hosting_run() -> None:
    """In the loop or from a thread, before the block, in it, and by a handler."""
    bus = Bus()
    before, within, threaded = Recorder(), Recorder(), Recorder()
    bus.add(before, Tick)
    async with bus:
        bus.add(within, Tick)
        await anyio.to_thread.run_sync(bus.add, threaded, Tick)
        bus.publisher().publish(Tick(number=0))
    assert before.numbers == within.numbers == threaded.numbers == [0]


async def test_a_bus_is_entered_once_and_not_after_it_was_closed() -> None:
    bus = Bus()
    async with bus:
        with pytest.raises(FitbusError, match="open already"):
            await bus.__aenter__()
    with pytest.raises(BusClosedError, match="make a new one"):
        await bus.__aenter__()
    with pytest.raises(BusClosedError, match="make a new one"):
        bus.hosted()
    with pytest.raises(BusClosedError, match="subscribe to a new one"):
        bus.add(Recorder(), Tick)


async def test_handlers_go_on_when_an_inner_host_leaves() -> None:
    """Those that it had taken are handed to the outer one, with what waits for them."""
    bus = Bus()
    outer, inner = Recorder(), Recorder()
    publisher = bus.publisher()
    async with bus.hosted():
        bus.add(outer, Tick)
        async with bus.hosted():
            bus.add(inner, Tick)
            publisher.publish(Tick(number=0))
        publisher.publish(Tick(number=1))
        await bus.drain(None, 30)
        assert outer.numbers == inner.numbers == [0, 1]
        async with bus:
            publisher.publish(Tick(number=2))
        assert bus.statistics().subscriptions == ()
    assert outer.numbers == inner.numbers == [0, 1, 2]


async def test_handlers_go_on_when_the_first_of_two_hosts_leaves_first() -> None:
    """As runs do that overlap; a call in flight then is finished before the host has left."""
    bus = Bus()
    numbers: list[int] = []
    open_calls: list[int] = []
    gate, both = Gate(), Gate()

    async def work(event: Tick) -> None:
        open_calls.append(event.number)
        await gate.pass_async()
        open_calls.remove(event.number)
        numbers.append(event.number)

    async def first() -> None:
        async with bus.hosted():
            bus.add(work, Tick)
            publisher.publish(Tick(number=0))
            publisher.publish(Tick(number=1))
            await gate.wait_arrived()
            await both.pass_async()
        assert open_calls in ([], [1])

    publisher = bus.publisher()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first)
        await gate.wait_arrived()
        async with bus.hosted():
            both.open()
            await anyio.wait_all_tasks_blocked()
            assert open_calls == [0]
            gate.open()
            await bus.drain(None, 30)
            publisher.publish(Tick(number=2))
            await bus.drain(None, 30)
    assert numbers == [0, 1, 2]


def test_a_boundary_does_not_wait_for_handlers_that_nobody_will_call() -> None:
    """A full mailbox on a bus without a loop would hold training for ever: an error says so."""
    bus = Bus()

    async def follow(event: Tick) -> None:
        del event

    bus.add(follow, Tick, name="follow", buffer_size=2)
    with bus.publisher() as publisher:
        publisher.publish(Tick(number=0))
        publisher.boundary()
        publisher.publish(Tick(number=0))
        with pytest.raises(
            FitbusError, match=r"'follow' is full.*nobody hosts the bus.*async with"
        ):
            publisher.boundary()
