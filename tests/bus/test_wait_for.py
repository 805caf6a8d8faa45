"""Waiting for one event, and being told why none came."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest

from fitbus import Bus, EpochEnd, Event
from fitbus.errors import InvalidArgumentError, RunEndedError

pytestmark = pytest.mark.anyio


class Tick(Event):
    """What these tests publish."""

    number: int


def publish(bus: Bus, numbers: range) -> None:
    publisher = bus.publisher()
    for number in numbers:
        publisher.publish(Tick(number=number))


async def test_wait_for_gives_the_next_event_that_matches() -> None:
    """Not one from before; with nothing left behind on the bus."""
    async with Bus() as bus, anyio.create_task_group() as tasks:
        found: list[int] = []

        async def wait(least: int) -> None:
            found.append((await bus.wait_for(Tick, where=lambda e: e.number >= least)).number)

        publish(bus, range(100, 110))
        tasks.start_soon(wait, 3)
        await anyio.wait_all_tasks_blocked()
        publish(bus, range(6))
        with anyio.fail_after(30):
            while not found:
                await anyio.lowlevel.checkpoint()
        assert found == [3]
        assert bus.statistics().subscriptions == ()


async def test_wait_for_says_why_nothing_came() -> None:
    """Too late, the bus closed, or the predicate raised."""
    bus = Bus()
    with pytest.raises(TimeoutError, match=r"no matching Tick or EpochEnd came within 0.01 s"):
        await bus.wait_for(Tick, EpochEnd, timeout=0.01)
    with pytest.raises(InvalidArgumentError, match=r"^timeout: "):
        await bus.wait_for(Tick, timeout=0)
    errors: list[BaseException] = []

    async def wait(where: Callable[[Tick], object]) -> None:
        with pytest.raises((RunEndedError, ZeroDivisionError)) as caught:
            await bus.wait_for(Tick, where=where)
        errors.append(caught.value)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, lambda event: event.number / 0)
        await anyio.wait_all_tasks_blocked()
        publish(bus, range(2))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, lambda event: event.number)
        await anyio.wait_all_tasks_blocked()
        await bus.aclose()
    raised, ended = errors
    assert isinstance(raised, ZeroDivisionError)
    assert isinstance(ended, RunEndedError)
    assert ended.run is None
    assert str(ended) == "the bus was closed before a matching Tick came"
