"""Which loop handlers run in: before it starts, after it has ended, and handed on between hosts."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from fitbus import Bus, EpochEnd, Event
from fitbus.errors import BusClosedError, FitbusError, InvalidArgumentError
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


async def test_leaving_the_block_delivers_what_is_there() -> None:
    """Whether the body ended or raised; its error leaves as itself, in no group."""
    for error in (None, KeyError("body")):
        recorder = Recorder()
        bus = Bus()
        bus.add(recorder, Tick)

        async def body(bus: Bus = bus, error: Exception | None = error) -> None:
            async with bus:
                for number in range(100):
                    bus.publisher().publish(Tick(number=number))
                if error is not None:
                    raise error

        if error is None:
            await body()
        else:
            with pytest.raises(KeyError, match="body") as caught:
                await body()
            assert caught.value is error
        assert recorder.numbers == list(range(100))


async def test_leaving_by_cancellation_delivers_what_is_there() -> None:
    """Handlers are shielded from it, and the cancellation isn't swallowed."""
    recorder = Recorder()
    after: list[str] = []
    with anyio.CancelScope() as scope:
        async with Bus() as bus:

            async def slow(event: Tick) -> None:
                await anyio.lowlevel.checkpoint()
                await recorder(event)

            bus.add(slow, Tick)
            for number in range(10):
                bus.publisher().publish(Tick(number=number))
            scope.cancel()
            await anyio.lowlevel.checkpoint()
            after.append("body")
    assert scope.cancelled_caught
    assert recorder.numbers == list(range(10))
    assert after == []


@pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)
async def test_native_cancellations_get_through_to_a_handler_that_hangs() -> None:
    """One ends the body, the next ones the waits for the handler; nothing is left running."""
    gate, ended = Gate(), list[str]()

    async def hang(event: Tick) -> None:
        try:
            await gate.pass_async()
        finally:
            ended.append("handler")

    async def serve() -> None:
        async with Bus() as bus:
            bus.add(hang, Tick)
            bus.publisher().publish(Tick(number=0))
            await anyio.sleep_forever()

    before = asyncio.all_tasks()
    task = asyncio.create_task(serve())
    await gate.wait_arrived()
    for _ in range(3):
        assert ended == []
        task.cancel()
        await anyio.wait_all_tasks_blocked()
    assert task.cancelled()
    assert ended == ["handler"]
    assert asyncio.all_tasks() == before


async def test_a_handler_that_runs_past_drain_s_is_cancelled_and_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With what waited behind it; closing again gives the same report."""
    gate, ended = Gate(), list[str]()

    async def hang(event: Tick) -> None:
        gate.open()
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("cancelled")

    async with Bus() as bus:
        bus.add(hang, Tick, name="hanging")
        for number in range(5):
            bus.publisher().publish(Tick(number=number))
        await gate.pass_async()
        report = await bus.aclose(drain_s=0.01)
        assert await bus.aclose() is report
        with pytest.raises(InvalidArgumentError, match=r"^drain_s: "):
            await bus.aclose(drain_s=-1)
    entry = report.by_name["hanging"]
    assert (entry.delivered, entry.dropped, entry.undelivered) == (0, 0, 5)
    assert not report.complete
    assert ended == ["cancelled"]
    assert "'hanging' was cancelled: it ran on past drain_s" in caplog.text


async def test_closing_reports_what_each_got() -> None:
    """Those that have ended before among them, in the order of subscribing."""
    async with Bus() as bus:
        publisher = bus.publisher()
        for name in ("first", "second", "third"):
            bus.add(Recorder(), Tick, name=name)
        gone = bus.add(Recorder(), Tick, name="gone")
        publisher.publish(Tick(number=0))
        await bus.drain(None, 30)
        gone.cancel()
        await anyio.wait_all_tasks_blocked()
        publisher.publish(Tick(number=1))
        publisher.publish(EpochEnd())
        report = await bus.aclose()
    assert [(entry.name, entry.delivered) for entry in report.subscribers] == [
        ("first", 2),
        ("second", 2),
        ("third", 2),
        ("gone", 1),
    ]
    assert report.complete
