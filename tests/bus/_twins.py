"""Events that are published together, and one by one on a twin bus, to be compared."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
import msgspec

from fitbus import BatchEnd, EpochEnd, Event, Subscription
from fitbus.bus import Publisher

__all__ = [
    "COUNT",
    "GROUPS",
    "MAKE",
    "Groups",
    "Send",
    "Tick",
    "Tock",
    "both",
    "drained",
    "one_by_one",
    "publish",
    "seen",
    "together",
]


class Tick(Event):
    """What these tests publish."""

    number: int


class Tock(Tick):
    """A special one."""


MAKE: dict[str, Callable[[int], Event]] = {
    "tick": lambda number: Tick(number=number),
    "tock": lambda number: Tock(number=number),
    "epoch": lambda number: EpochEnd(logs={"loss": float(number)}),
    "batch": lambda number: BatchEnd(batch=number, logs={}, batch_logs={}),
}

Groups = list[list[str]]
Send = Callable[[Publisher, Sequence[Event], Sequence[int], tuple[type[Event], ...]], None]


def together(
    publisher: Publisher,
    events: Sequence[Event],
    steps: Sequence[int],
    skipped: tuple[type[Event], ...] = (),
) -> None:
    publisher.publish_all(events, steps, skipped)


def one_by_one(
    publisher: Publisher,
    events: Sequence[Event],
    steps: Sequence[int],
    skipped: tuple[type[Event], ...] = (),
) -> None:
    for event, step in zip(events, steps, strict=True):
        if skipped:
            publisher.skip(skipped)
        publisher.step = step
        publisher.publish(event)


def seen(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Events with their types, and without their times."""
    return [
        {"type": type(event).__name__}
        | {k: v for k, v in msgspec.structs.asdict(event).items() if k != "time"}
        for event in events
    ]


def publish(send: Send, publisher: Publisher, groups: Groups, skipped: Any = ()) -> None:
    """Publishes groups of events, one group after the other, with steps of their own."""
    number = 0
    for group in groups:
        events = [MAKE[kind](number + place) for place, kind in enumerate(group)]
        send(publisher, events, [10 * number + place for place in range(len(group))], skipped)
        number += len(group)


async def drained(stream: Subscription[Any]) -> list[dict[str, Any]]:
    """What a stream holds, once nothing more comes."""
    stream.close()
    return seen([event async for event in stream])


def both(action: Callable[[Send], Awaitable[Any]], backend: Any) -> list[Any]:
    """What an action finds, of events that are published in either way."""
    name, options = backend
    return [
        anyio.run(action, send, backend=name, backend_options=options)
        for send in (together, one_by_one)
    ]


GROUPS: Groups = [["tick"] * 5, ["tick", "epoch", "tock", "batch"] * 3, ["epoch"], ["batch"] * 7]
COUNT = sum(map(len, GROUPS))
