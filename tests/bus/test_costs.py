"""What subscribers cost: seconds, those that training waited, and their share of the run."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from fitbus import Bus, Event
from fitbus.bus import DeliveryReport, SubscriberReport
from fitbus.testing import Gate

pytestmark = pytest.mark.anyio


class Tick(Event):
    """What these tests publish."""


def spin(seconds: float) -> None:
    """Takes so long: what is measured here is time that a handler needs."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def spinning(seconds: float) -> Callable[[Event], None]:
    def work(event: Event) -> None:
        spin(seconds)

    return work


async def reported(bus: Bus, ticks: int) -> DeliveryReport:
    """Trains, and waits for each tick."""

    def train() -> None:
        with bus.publisher() as publisher:
            for _ in range(ticks):
                publisher.barrier(Tick())

    await anyio.to_thread.run_sync(train)
    return await bus.aclose()


async def test_shares_are_of_the_runs_time() -> None:
    """Of two handlers that training waits for, one after the other, they add up; others have 0."""
    async with Bus() as bus:
        bus.add(spinning(0.008), Tick, name="long")
        bus.add(spinning(0.004), Tick, name="short")
        bus.add(spinning(0.002), Tick, name="beside", wait=False)
        report = await reported(bus, 5)
    found = report.by_name
    assert found["long"].held_s >= found["long"].seconds >= 5 * 0.008
    assert found["short"].held_s >= found["short"].seconds >= 5 * 0.004
    assert found["beside"].seconds >= 5 * 0.002
    for entry in report.subscribers:
        assert entry.run_s == report.run_s
        assert entry.held_share == entry.held_s / report.run_s
        assert entry.handler_share == entry.seconds / report.run_s
    assert found["beside"].held_share == 0
    assert 0.5 < found["long"].held_share + found["short"].held_share <= 1


async def test_draining_isnt_the_run() -> None:
    """A handler that goes on when training is over has had more than the whole of it."""
    gate = Gate()

    async def late(event: Tick) -> None:
        await gate.pass_async()

    async with Bus() as bus:
        bus.add(late, wait=False, name="late")
        with bus.publisher() as publisher:
            publisher.publish(Tick())
        await gate.wait_arrived()
        run_s = bus.statistics().subscriptions[0].run_s
        spin(2 * run_s)
        assert bus.statistics().subscriptions[0].run_s == run_s  # it has ended
        gate.open()
        report = await bus.aclose()
    (entry,) = report.subscribers
    assert report.run_s == entry.run_s == run_s
    assert entry.handler_share > 1
    assert entry.held_share == 0


async def test_who_is_through_early_holds_nobody_up() -> None:
    """Of handlers that are waited for together each counts until its own end."""
    first = anyio.Event()

    async def early(event: Tick) -> None:
        first.set()

    async def late(event: Tick) -> None:
        await first.wait()
        await anyio.lowlevel.checkpoint()
        spin(0.03)

    async with Bus() as bus:
        bus.add(early, wait=True, name="early")
        bus.add(late, wait=True, name="late")
        report = await reported(bus, 1)
    found = report.by_name
    assert found["late"].held_s - found["early"].held_s >= 0.03
    assert found["early"].held_s > 0


async def waited_for(bus: Bus) -> SubscriberReport:
    """Until it is seen that training has waited for the one subscriber there is."""
    with anyio.fail_after(20):
        while True:
            (now,) = bus.statistics().subscriptions
            if now.held_s:
                assert 0 < now.held_share <= 1
                return bus.subscriptions[0].report()
            await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("wait", [True, False], ids=["handler", "room"])
async def test_who_is_waited_for_is_known_meanwhile(wait: bool) -> None:
    """Not only when the wait is over, which may be never."""
    gate, seen = Gate(), list[SubscriberReport]()

    async def stuck(event: Tick) -> None:
        await gate.pass_async()

    async with Bus() as bus:
        bus.add(stuck, wait=True) if wait else bus.add(stuck, wait=False, buffer_size=1)
        publisher = bus.publisher()

        def train() -> None:
            for _ in range(1 if wait else 4):
                publisher.barrier(Tick())
                assert [*publisher.boundary()] == []

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, train)
            try:
                seen.append(await waited_for(bus))
            finally:
                gate.open()
        seen += (await bus.aclose()).subscribers
    assert 0 < seen[0].held_s < seen[1].held_s


async def test_waiting_for_a_turn_is_counted() -> None:
    """A `def` handler that another run is in holds this one up, before it is called."""
    gate = Gate()

    def handle(event: Tick) -> None:
        if event.run == "one":
            gate.pass_sync()

    async with Bus() as bus:
        bus.add(handle)
        one, two = bus.publisher(run="one"), bus.publisher(run="two")
        trainings = [functools.partial(publisher.barrier, Tick()) for publisher in (one, two)]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, trainings[0])
            await gate.wait_arrived()
            tasks.start_soon(anyio.to_thread.run_sync, trainings[1])
            with anyio.fail_after(20):
                while bus.statistics().published < 2:
                    await anyio.lowlevel.checkpoint()
            spin(0.05)
            gate.open()
        (handler,) = bus.subscriptions
        with bus.lock:
            mine = two.ledger.statistics(handler)
        assert 0.01 < mine.held_s < mine.run_s


async def test_a_subscriber_of_two_runs_has_its_share_of_each() -> None:
    """At once: what each run waited is its own, and the bus has the sum."""
    async with Bus() as bus:
        handler = bus.add(lambda event: spin(0.02 if event.run == "slow" else 0.001), Tick)
        slow, fast = bus.publisher(run="slow"), bus.publisher(run="fast")

        def train() -> None:
            for publisher in (slow, fast, slow):
                publisher.barrier(Tick())
            spin(0.02)

        await anyio.to_thread.run_sync(train)
        with bus.lock:
            shares = [p.ledger.statistics(handler) for p in (slow, fast)]
        whole = handler.statistics()
    assert shares[0].held_s >= 2 * 0.02
    assert 0.001 <= shares[1].held_s < shares[0].held_s / 2
    assert whole.held_s == pytest.approx(shares[0].held_s + shares[1].held_s)
    assert 0 < whole.held_share < shares[0].held_share < 1


async def test_the_table_has_a_line_for_each_the_dearest_first() -> None:
    def fail(event: Tick) -> None:
        raise KeyError

    async with Bus() as bus:
        bus.add(lambda event: None, Tick, name="cheap")
        bus.add(spinning(0.01), Tick, name="dear")
        bus.add(fail, name="failing", on_error="log", wait=False)
        report = await reported(bus, 2)
    header, *lines = str(report).splitlines()
    assert header.split("  ")[0] == "subscriber"
    assert [line.split()[:4] for line in lines] == [
        ["dear", "2", "0", "0"],
        ["cheap", "2", "0", "0"],
        ["failing", "2", "0", "2"],
    ]
    dear = report.by_name["dear"]
    shown = f"{dear.seconds:.3f} s {dear.held_s:.3f} s {dear.held_share * 100:.1f} %"
    assert " ".join(lines[0].split()[4:]) == shown
    assert len({len(line) for line in (header, *lines)}) == 1


async def test_the_table_counts_all_that_was_lost() -> None:
    """Dropped, and left over."""
    gate = Gate()

    async def stuck(event: Tick) -> None:
        await gate.pass_async()

    async with Bus() as bus:
        bus.add(stuck, wait=False, overflow="drop_oldest", buffer_size=2)
        publisher = bus.publisher()
        publisher.publish(Tick())
        await gate.wait_arrived()
        for _ in range(5):
            publisher.publish(Tick())
        report = await bus.aclose(drain_s=0)
    (entry,) = report.subscribers
    assert (entry.dropped, entry.undelivered) == (3, 3)
    assert str(report).splitlines()[1].split()[1:4] == ["0", "6", "0"]
