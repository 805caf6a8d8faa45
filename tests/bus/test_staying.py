"""A concurrent `def` handler keeps its thread between two events, and gives it back when asked."""

from __future__ import annotations

import threading
import time

import anyio
import anyio.to_thread
import pytest

from fitbus import Bus, Event

pytestmark = pytest.mark.anyio

EVENTS = 20


class Tick(Event):
    """What these tests publish."""


async def test_events_one_by_one_are_handled_in_one_thread() -> None:
    """Each is published when the one before was handled, and its thread has gone to rest."""
    threads: list[threading.Thread] = []
    handled = [threading.Event() for _ in range(EVENTS)]

    def handle(event: Tick) -> None:
        threads.append(threading.current_thread())  # an object: idents are used again
        handled[len(threads) - 1].set()

    async with Bus() as bus:
        bus.add(handle, wait=False)
        publisher = bus.publisher()

        def train() -> None:
            for each in handled:
                publisher.publish(Tick())
                assert each.wait(30)
            publisher.close()

        await anyio.to_thread.run_sync(train)
    assert len(threads) == EVENTS
    assert len(set(map(id, threads))) == 1
    assert not threads[0].is_alive()  # when the bus is left


async def test_its_rest_isnt_time_in_the_handler() -> None:
    """The seconds are those of the calls, and can be read while the thread stays."""
    spent: list[float] = []
    done = threading.Event()

    def handle(event: Tick) -> None:
        started = time.perf_counter()
        sum(range(20_000))
        spent.append(time.perf_counter() - started)
        if len(spent) == EVENTS:
            done.set()

    async with Bus() as bus:
        subscription = bus.add(handle, wait=False)
        publisher = bus.publisher()

        def train() -> float:
            started = time.perf_counter()
            for count in range(EVENTS):
                publisher.publish(Tick())
                assert subscription.mark()(30)  # the thread is given back for each
                assert len(spent) == count + 1
            assert done.wait(30)
            return time.perf_counter() - started

        took_s = await anyio.to_thread.run_sync(train)
        assert sum(spent) <= subscription.statistics().seconds < took_s
        publisher.close()
