"""A place in what a handler gets: a thread learns when it is through with what was before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import anyio.to_thread
import pytest

from fitbus import Bus, Event, Subscription
from fitbus.testing import Gate

pytestmark = pytest.mark.anyio


class Tick(Event):
    """What these tests publish."""

    number: int


def handlers(gate: Gate, seen: list[int]) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Handlers of all kinds with a mailbox; each waits at the gate."""

    async def beside(event: Tick) -> None:
        await gate.pass_async()
        seen.append(event.number)

    def in_thread(event: Tick) -> None:
        gate.pass_sync()
        seen.append(event.number)

    def several(events: Sequence[Tick]) -> None:
        gate.pass_sync()
        seen.extend(event.number for event in events)

    return {
        "async def": (beside, {}),
        "def": (in_thread, {"wait": False}),
        "batched": (several, {"wait": False, "batched": True}),
    }


@pytest.mark.parametrize("kind", ["async def", "def", "batched"])
async def test_a_mark_is_passed_when_what_was_before_it_is_handled(kind: str) -> None:
    gate, seen = Gate(), list[int]()
    handler, options = handlers(gate, seen)[kind]
    async with Bus() as bus:
        subscription = bus.add(handler, Tick, **options)
        publisher = bus.publisher()
        publisher.publish(Tick(number=0))
        publisher.publish(Tick(number=1))
        passed = subscription.mark()
        await gate.wait_arrived()
        assert not passed(0.0)
        gate.open()
        assert await anyio.to_thread.run_sync(passed, 20.0)
        assert seen == [0, 1]


async def test_nobody_waits_for_a_handler_that_has_ended() -> None:
    """Neither of a mark that it never reached, nor of one that comes later."""
    gate, seen = Gate(), list[int]()
    handler, options = handlers(gate, seen)["async def"]
    async with Bus() as bus:
        subscription: Subscription[Tick] = bus.add(handler, Tick, **options)
        bus.publisher().publish(Tick(number=0))
        passed = subscription.mark()
        await gate.wait_arrived()
        subscription.cancel()
        assert passed(0.0)
        assert subscription.mark()(0.0)
        gate.open()


async def test_with_nothing_before_it_a_mark_is_passed_soon() -> None:
    async def ignore(event: Tick) -> None: ...

    async with Bus() as bus:
        passed = bus.add(ignore, Tick).mark()
        assert await anyio.to_thread.run_sync(passed, 20.0)
