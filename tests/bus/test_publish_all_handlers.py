"""Handlers of events that are published together: called as for those that come one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import anyio.to_thread
import pytest

from fitbus import Bus, EpochEnd, Event, HandlerFailed
from fitbus.bus import Publisher
from fitbus.testing import EventRecorder

from ._twins import (
    COUNT,
    GROUPS,
    Send,
    Tick,
    Tock,
    drained,
    one_by_one,
    publish,
    seen,
    together,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("send", [together, one_by_one])
async def test_handlers_get_all_in_order(send: Send) -> None:
    """On the loop and in a thread, one by one and gathered; each what it asked for."""
    calls: dict[str, list[int]] = {"async": [], "def": [], "batched": [], "every": [], "ticks": []}

    async def on_loop(event: Event) -> None:
        calls["async"].append(event.seq)

    def in_thread(event: Event) -> None:
        calls["def"].append(event.seq)

    async def gathered(events: Sequence[Event]) -> None:
        calls["batched"] += [event.seq for event in events]

    async def third(event: Event) -> None:
        calls["every"].append(event.seq)

    async def ticks(event: Tick) -> None:
        calls["ticks"].append(event.seq)

    async with Bus() as bus:
        bus.add(on_loop, Event)
        bus.add(in_thread, Event, wait=False)
        bus.add(gathered, Event, batched=True)
        bus.add(third, Event, every=3)
        bus.add(ticks, Tick)
        publisher = bus.publisher()
        await anyio.to_thread.run_sync(publish, send, publisher, GROUPS)
        publisher.close()
        report = await bus.aclose()
    assert calls["async"] == calls["def"] == calls["batched"] == [*range(COUNT)]
    assert calls["every"] == [*range(2, COUNT, 3)]
    assert calls["ticks"] == [0, 1, 2, 3, 4, 5, 7, 9, 11, 13, 15]
    assert [entry.dropped for entry in report.subscribers] == [0] * 5


async def test_training_is_held_until_there_is_room_again() -> None:
    """At the next boundary, by a handler whose mailbox took more than it holds."""
    taken: list[int] = []
    queued: list[int] = []

    async def slow(event: Event) -> None:
        await anyio.lowlevel.checkpoint()
        taken.append(event.seq)

    async with Bus() as bus:
        mine = bus.add(slow, Event, wait=False, buffer_size=1)
        publisher = bus.publisher()

        def train() -> None:
            for group in GROUPS:
                publish(together, publisher, [group])
                publisher.boundary()
                queued.append(mine.statistics().queued)

        await anyio.to_thread.run_sync(train)
        publisher.close()
        await bus.aclose()
    assert taken == [*range(COUNT)]
    assert queued == [0] * len(GROUPS)


@pytest.mark.parametrize("waits", [True, False])
async def test_waiting_handlers_are_called_for_each(waits: bool) -> None:
    """`def` ones at the next boundary, async ones on the loop; nothing is overtaken."""
    found: list[Any] = []
    for send in (together, one_by_one):
        calls: list[tuple[str, int]] = []
        async with Bus() as bus:

            def later(event: Event, calls: list[Any] = calls) -> None:
                calls.append(("def", event.seq))

            async def on_loop(event: Event, calls: list[Any] = calls) -> None:
                calls.append(("async", event.seq))

            if waits:
                bus.add(later, Tick)
            bus.add(on_loop, EpochEnd, Tock, wait=True)
            recorder = EventRecorder()
            bus.add(recorder, Event, wait=False)
            publisher = bus.publisher()

            def train(send: Send = send, publisher: Publisher = publisher) -> None:
                publish(send, publisher, GROUPS)
                publisher.boundary()

            await anyio.to_thread.run_sync(train)
            publisher.close()
            await bus.aclose()
        found.append(
            (
                [seq for kind, seq in calls if kind == "def"],
                [seq for kind, seq in calls if kind == "async"],
                seen(recorder.events),
            )
        )
    assert found[0] == found[1]
    assert found[0][0] == ([0, 1, 2, 3, 4, 5, 7, 9, 11, 13, 15] if waits else [])
    assert found[0][1] == [6, 7, 10, 11, 14, 15, 17]


@pytest.mark.parametrize("on_error", ["raise", "log", "stop", "unsubscribe"])
async def test_a_predicate_that_raises_is_asked_no_more(on_error: Any) -> None:
    """Unless its errors are to be logged only. The others get all."""
    found: list[Any] = []
    for send in (together, one_by_one):
        asked: list[int] = []

        def fails(event: Tick, asked: list[int] = asked) -> bool:
            asked.append(event.number)
            return bool(1 / (event.number - 2))

        async with Bus() as bus:
            failing = bus.add(
                lambda event: None,
                Tick,
                wait=False,
                where=fails,
                on_error=on_error,
            )
            async with (
                bus.subscribe(Tick, overflow="block") as ticks,
                bus.subscribe(HandlerFailed, overflow="block") as failures,
            ):
                publisher = bus.publisher()
                await anyio.to_thread.run_sync(publish, send, publisher, [["tick"] * 8])
                failures.close()
                errors = [failure.event_seq async for failure in failures]
                others = await drained(ticks)
        found.append((asked, errors, [e["number"] for e in others], failing.errors))
    assert found[0] == found[1]
    goes_on = on_error == "log"
    assert found[0] == ([*range(8 if goes_on else 3)], [2], [*range(8)], 1)
