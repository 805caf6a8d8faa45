"""Subscribers that are too slow: what they lose by each policy, and what they are told of it."""

from __future__ import annotations

import anyio
import pytest

from fitbus import Bus, Event, Lagged, Subscription
from fitbus.bus import Overflow, Publisher
from fitbus.testing import Gate

pytestmark = pytest.mark.anyio

POLICIES: list[Overflow] = ["block", "drop_oldest", "drop_newest", "latest"]


class Tick(Event):
    """What these tests publish."""


Seen = int | tuple[int, int, int]


def as_seen(event: Event) -> Seen:
    """An event's `seq`; of a loss the count and the range."""
    if isinstance(event, Lagged):
        return (event.count, event.first_seq, event.last_seq)
    return event.seq


def publish(publisher: Publisher, count: int) -> None:
    for _ in range(count):
        publisher.publish(Tick())


async def take(stream: Subscription[Event], count: int) -> list[Seen]:
    with anyio.fail_after(30):
        return [as_seen(await anext(stream)) for _ in range(count)]


async def take_all(bus: Bus, stream: Subscription[Event]) -> list[Seen]:
    """What a stream hands out until it ends, after its bus is closed."""
    await bus.aclose()
    with anyio.fail_after(30):
        return [as_seen(event) async for event in stream]


@pytest.mark.parametrize("overflow", ["block", "drop_oldest", "drop_newest"])
@pytest.mark.parametrize("size", [1, 4])
async def test_within_its_buffer_a_slow_subscriber_loses_nothing(
    overflow: Overflow, size: int
) -> None:
    """However often that is filled and emptied."""
    async with Bus() as bus:
        publisher = bus.publisher()
        async with bus.subscribe(Tick, Lagged, overflow=overflow, buffer_size=size) as stream:
            for turn in range(3):
                publish(publisher, size)
                assert await take(stream, size) == [*range(turn * size, (turn + 1) * size)]
            assert stream.statistics().dropped == 0
            assert await take_all(bus, stream) == []


@pytest.mark.parametrize(
    ("overflow", "first", "second"),
    [
        ("block", [0, 1, 2, 3, 4, 5, (4, 6, 9)], [10, 11, 12, 13, 14, 15, (2, 16, 17)]),
        ("drop_oldest", [(7, 0, 6), 7, 8, 9], [(5, 10, 14), 15, 16, 17]),
        ("drop_newest", [0, 1, 2, (7, 3, 9)], [10, 11, 12, (5, 13, 17)]),
        ("latest", [(9, 0, 8), 9], [(7, 10, 16), 17]),
    ],
)
async def test_what_each_policy_loses_is_told_in_its_place(
    overflow: Overflow, first: list[Seen], second: list[Seen]
) -> None:
    """With the count of it; a second lag is counted afresh. `"block"` holds twice its size."""
    async with Bus() as bus:
        publisher = bus.publisher()
        async with bus.subscribe(Tick, Lagged, overflow=overflow, buffer_size=3) as stream:
            publish(publisher, 10)
            assert await take(stream, len(first)) == first
            publish(publisher, 8)
            assert await take_all(bus, stream) == second
            lost = sum(seen[0] for seen in (*first, *second) if isinstance(seen, tuple))
            counts = stream.statistics()
            assert (counts.published, counts.dropped, counts.delivered) == (18, lost, 18 - lost)


@pytest.mark.parametrize(
    ("overflow", "seen"),
    [
        ("block", [0, 1, (3, 2, 4)]),
        ("drop_oldest", [(4, 0, 3), 4]),
        ("drop_newest", [0, (4, 1, 4)]),
        ("latest", [(4, 0, 3), 4]),
    ],
)
async def test_a_buffer_of_one_works(overflow: Overflow, seen: list[Seen]) -> None:
    async with Bus() as bus:
        publisher = bus.publisher()
        async with bus.subscribe(Tick, Lagged, overflow=overflow, buffer_size=1) as stream:
            publish(publisher, 5)
            assert await take(stream, len(seen)) == seen
            publish(publisher, 1)
            assert await take_all(bus, stream) == [5]


async def test_two_lags_with_events_between_them_are_told_apart() -> None:
    """Each where it happened, though neither was read yet."""
    async with Bus() as bus:
        publisher = bus.publisher()
        async with bus.subscribe(Tick, Lagged, overflow="drop_newest", buffer_size=2) as stream:
            publish(publisher, 5)
            assert await take(stream, 1) == [0]
            publish(publisher, 3)
            assert await take_all(bus, stream) == [1, (3, 2, 4), 5, (2, 6, 7)]


async def test_a_lag_belongs_to_one_subscriber() -> None:
    """Another one, subscribed to every event there is, hears nothing of it."""
    async with Bus() as bus:
        publisher = bus.publisher()
        async with (
            bus.subscribe(Event, buffer_size=2) as small,
            bus.subscribe(Event, buffer_size=100) as large,
        ):
            publish(publisher, 6)
            assert await take(small, 3) == [(4, 0, 3), 4, 5]
            publish(publisher, 1)
            assert await take_all(bus, large) == [*range(7)]
            assert await take(small, 1) == [6]
            assert [s.statistics().dropped for s in (small, large)] == [4, 0]


@pytest.mark.parametrize("overflow", POLICIES)
async def test_who_did_not_ask_is_not_told(overflow: Overflow) -> None:
    """What it lost is counted all the same."""
    async with Bus() as bus:
        publisher = bus.publisher()
        async with bus.subscribe(Tick, overflow=overflow, buffer_size=2) as stream:
            publish(publisher, 9)
            seen = await take_all(bus, stream)
            assert not any(isinstance(one, tuple) for one in seen)
            assert stream.statistics().dropped == 9 - len(seen) > 0


async def test_a_lag_says_whose_it_is_and_where_training_was() -> None:
    """Its own place in the order is none."""
    async with Bus() as bus:
        publisher = bus.publisher(run="mine")
        async with bus.subscribe(Lagged, Tick, buffer_size=1) as stream:
            for step in range(4):
                publisher.step, publisher.epoch = step, 1
                publish(publisher, 1)
            lagged = await anext(stream)
            assert isinstance(lagged, Lagged)
            assert (lagged.run, lagged.seq, lagged.step, lagged.epoch) == ("mine", -1, 2, 1)
            assert lagged.time > 0
            assert lagged.subscriber == stream.name == "stream of Lagged, Tick"


@pytest.mark.parametrize("colour", ["def", "async def"])
@pytest.mark.parametrize(
    ("overflow", "expected"),
    [
        ("block", [0, 1, 2, 3, 4, (2, 5, 6), 7]),
        ("drop_oldest", [0, (4, 1, 4), 5, 6, 7]),
        ("drop_newest", [0, 1, 2, (4, 3, 6), 7]),
        ("latest", [0, (5, 1, 5), 6, 7]),
    ],
)
async def test_a_handler_is_told_in_place_too(
    colour: str, overflow: Overflow, expected: list[Seen]
) -> None:
    """Between two calls; in a worker thread as on the loop."""
    seen: list[Seen] = []
    gate = Gate()

    def note(event: Tick | Lagged) -> None:
        seen.append(as_seen(event))
        gate.pass_sync()

    async def anote(event: Tick | Lagged) -> None:
        seen.append(as_seen(event))
        await gate.pass_async()

    handler = note if colour == "def" else anote
    async with Bus() as bus:
        subscription = bus.add(handler, wait=False, overflow=overflow, buffer_size=2)
        publisher = bus.publisher()
        publish(publisher, 1)
        await gate.wait_arrived()
        publish(publisher, 6)
        gate.open()
        await bus.drain(None, 30)
        publish(publisher, 1)
    assert seen == expected
    lost = sum(one[0] for one in seen if isinstance(one, tuple))
    counts = subscription.statistics()
    assert (counts.published, counts.delivered, counts.dropped) == (8, 8 - lost, lost)


async def test_events_that_a_filter_holds_back_are_no_loss() -> None:
    """They take no room either."""
    async with Bus() as bus:
        publisher = bus.publisher()
        async with bus.subscribe(Tick, Lagged, every=5, buffer_size=2) as stream:
            publish(publisher, 12)
            assert await take(stream, 2) == [4, 9]
            publish(publisher, 13)
            assert await take_all(bus, stream) == [(1, 14, 14), 19, 24]
            assert stream.statistics().published == 5


@pytest.mark.parametrize(
    ("overflow", "expected"), [("drop_oldest", [0, 4, 5]), ("drop_newest", [0, 1, 2])]
)
async def test_only_the_event_in_hand_is_out_of_the_policys_reach(
    overflow: Overflow, expected: list[Seen]
) -> None:
    """What waited when the handler began its first call can still give way."""
    seen: list[Seen] = []
    gate = Gate()

    async def note(event: Tick) -> None:
        seen.append(as_seen(event))
        await gate.pass_async()

    bus = Bus()
    bus.add(note, overflow=overflow, buffer_size=2)
    publisher = bus.publisher()
    publish(publisher, 2)
    async with bus:
        await gate.wait_arrived()
        publish(publisher, 4)
        gate.open()
    assert seen == expected
