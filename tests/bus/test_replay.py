"""`subscribe(after=seq)`: the tail is replayed, and live events follow without gap or double."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import numpy as np
import pytest

from fitbus import BatchBegin, BatchEnd, Bus, EpochEnd, Event, Lagged, PredictBatchEnd, Subscription
from fitbus.bus import Options, Publisher

pytestmark = pytest.mark.anyio


class Tick(Event):
    """What these tests publish."""


class Tock(Tick):
    """A special one."""


class Other(Event):
    """What nobody asks for."""


Seen = int | tuple[int, int, int]


def publish(publisher: Publisher, count: int, kind: type[Event] = Tick) -> None:
    for _ in range(count):
        publisher.publish(kind())


async def take(stream: Subscription[Any], count: int) -> list[Seen]:
    """The `seq` of the next events; of a loss the count and the range."""
    seen: list[Seen] = []
    with anyio.fail_after(30):
        for _ in range(count):
            event = await anext(stream)
            lost = isinstance(event, Lagged)
            seen.append((event.count, event.first_seq, event.last_seq) if lost else event.seq)
    return seen


@pytest.mark.parametrize("after", [-1, 0, 4, 8, 9, 50])
async def test_what_came_after_a_place_is_replayed_and_live_events_follow(after: int) -> None:
    """From the start, the middle and the end; one from beyond it gets what comes."""
    bus = Bus()
    publisher = bus.publisher()
    publish(publisher, 10)
    async with bus.subscribe(Tick, Lagged, after=after) as stream:
        publish(publisher, 3)
        expected = [*range(min(after, 9) + 1, 13)]
        assert await take(stream, len(expected)) == expected
        assert stream.statistics().queued == 0


async def test_without_a_place_nothing_is_replayed() -> None:
    bus = Bus()
    publisher = bus.publisher()
    publish(publisher, 10)
    async with bus.subscribe(Tick, Lagged) as stream:
        publish(publisher, 1)
        assert await take(stream, 1) == [10]


async def test_resuming_while_events_pour_in_has_no_gap_and_no_double() -> None:
    """Reader after reader goes on where the last one left off, while two threads publish."""
    count = 4000
    bus = Bus(tail_size=count)
    publisher = bus.publisher()
    threads = [threading.Thread(target=publish, args=(publisher, count // 2)) for _ in range(2)]
    for thread in threads:
        thread.start()
    seen: list[Seen] = []
    resumed = 0
    with anyio.fail_after(60):
        while len(seen) < count:
            after = len(seen) - 1
            async with bus.subscribe(Tick, Lagged, after=after, buffer_size=count) as stream:
                seen += await take(stream, min(1 + resumed % 90, count - len(seen)))
            resumed += 1
    for thread in threads:
        thread.join()
    assert resumed > 50
    assert seen == [*range(count)]


async def test_opening_while_events_pour_in_joins_tail_and_live_events() -> None:
    """Many at once, each from a place of its own."""
    count = 2000
    bus = Bus(tail_size=count)
    publisher = bus.publisher()
    publish(publisher, 100)
    thread = threading.Thread(target=publish, args=(publisher, count - 100))
    thread.start()
    for after in range(0, 100, 10):
        async with bus.subscribe(Tick, after=after, buffer_size=count) as stream:
            expected = [*range(after + 1, count)]
            assert await take(stream, len(expected)) == expected
    thread.join()


async def test_a_place_that_is_too_old_gives_a_lag_first() -> None:
    """With all that is missing; then what is kept, then live events."""
    bus = Bus(tail_size=5)
    publisher = bus.publisher()
    publish(publisher, 12)
    async with bus.subscribe(Tick, Lagged, after=2) as stream:
        publish(publisher, 1)
        assert await take(stream, 7) == [(4, 3, 6), 7, 8, 9, 10, 11, 12]
    async with bus.subscribe(Tick, Lagged, after=7) as stream:  # the oldest that is kept is next
        assert await take(stream, 5) == [8, 9, 10, 11, 12]


async def test_a_place_that_is_too_old_is_counted_though_nobody_is_told() -> None:
    bus = Bus(tail_size=5)
    publish(bus.publisher(), 12)
    async with bus.subscribe(Tick, after=-1) as stream:
        assert await take(stream, 5) == [7, 8, 9, 10, 11]
        counts = stream.statistics()
        assert (counts.published, counts.delivered, counts.dropped) == (12, 5, 7)


async def test_a_mailbox_too_small_for_the_tail_tells_both_losses_at_once() -> None:
    """What isn't kept any more, and what didn't fit."""
    bus = Bus(tail_size=10)
    publish(bus.publisher(), 50)
    async with bus.subscribe(Tick, Lagged, after=-1, buffer_size=3) as stream:
        assert await take(stream, 4) == [(47, 0, 46), 47, 48, 49]


async def test_filters_hold_for_what_is_replayed() -> None:
    """Types, `where` and `every`, which counts on from there."""
    bus = Bus()
    publisher = bus.publisher()
    for _ in range(5):
        publish(publisher, 1, Tick)
        publish(publisher, 1, Tock)
        publish(publisher, 1, Other)
    async with (
        bus.subscribe(Tock, after=1) as tocks,
        bus.subscribe(Tick, after=-1, where=lambda event: event.seq % 2 == 1) as odd,
        bus.subscribe(Tick, after=-1, every=4) as fourth,
    ):
        publish(publisher, 2, Tock)
        assert await take(tocks, 6) == [4, 7, 10, 13, 15, 16]
        assert await take(odd, 6) == [1, 3, 7, 9, 13, 15]
        assert await take(fourth, 3) == [4, 10, 16]


async def test_an_error_of_a_predicate_is_raised_after_what_was_replayed() -> None:
    bus = Bus()
    publish(bus.publisher(), 6)
    async with bus.subscribe(Tick, after=-1, where=lambda event: 1 / (3 - event.seq) > 0) as stream:
        assert await take(stream, 3) == [0, 1, 2]
        with pytest.raises(ZeroDivisionError):
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_the_latest_run_is_replayed_whichever_run_the_place_was_of() -> None:
    """And goes on being so when it has ended; live events of all runs follow."""
    bus = Bus()
    one, two = bus.publisher(), bus.publisher()
    publish(one, 20)
    publish(two, 4)
    async with bus.subscribe(Tick, after=1) as stream:
        two.close()
        publish(one, 1)
        found = [await anext(stream) for _ in range(3)]
        assert [(event.run, event.seq) for event in found] == [
            ("run-2", 2),
            ("run-2", 3),
            ("run-1", 20),
        ]
    async with bus.subscribe(Tick, Lagged, after=19) as stream:  # two has no such place
        assert stream.statistics().queued == 0
    bus.finish_run("run-2")
    async with bus.subscribe(Tick, after=2) as stream:
        event = await anext(stream)
        assert (event.run, event.seq) == ("run-2", 3)


async def test_a_stream_of_one_run_replays_that_run() -> None:
    """Though it isn't the latest; of one that isn't there nothing is replayed."""
    bus = Bus()
    one, two = bus.publisher(), bus.publisher()
    publish(one, 5)
    publish(two, 5)
    async with bus.make_stream([Tick], Options(), after=2, run="run-1") as stream:
        publish(two, 1)
        publish(one, 1)
        found = [await anext(stream) for _ in range(3)]
        assert [(event.run, event.seq) for event in found] == [("run-1", n) for n in (3, 4, 5)]
    async with bus.make_stream([Tick], Options(), after=2, run="run-3") as stream:
        assert stream.statistics().published == 0


async def test_before_the_first_run_there_is_nothing_to_replay() -> None:
    bus = Bus()
    async with bus.subscribe(Tick, Lagged, after=-1) as stream:
        publish(bus.publisher(), 2)
        assert await take(stream, 2) == [0, 1]


async def test_events_that_were_never_made_are_told_to_those_who_ask_for_their_types() -> None:
    """Since nobody was subscribed then; in their place, and no more of them than asked for."""
    bus = Bus()
    publisher = bus.publisher()
    publish(publisher, 1)
    publisher.skip((BatchBegin, BatchEnd))
    publisher.skip((BatchBegin, BatchEnd))
    publish(publisher, 1)
    async with (
        bus.subscribe(Event, after=-1) as everything,
        bus.subscribe(BatchEnd, Tick, Lagged, after=2) as later,
        bus.subscribe(Tick, EpochEnd, Lagged, after=-1) as others,
    ):
        assert await take(everything, 3) == [0, (4, 1, 4), 5]
        assert await take(later, 2) == [(2, 3, 4), 5]
        assert await take(others, 2) == [0, 5]


async def test_outputs_are_not_kept() -> None:
    """They would hold the memory of whole batches; who resumes is told."""
    bus = Bus()
    publisher = bus.publisher()
    publish(publisher, 1)
    publisher.publish(PredictBatchEnd(batch=0, outputs=np.zeros(3)))
    publish(publisher, 1)
    async with bus.subscribe(Event, after=-1) as stream:
        assert await take(stream, 3) == [0, (1, 1, 1), 2]


async def test_places_between_events_published_together_are_no_losses() -> None:
    """Of types that this stream doesn't want, though it wanted some that were skipped before."""
    bus = Bus()
    publisher = bus.publisher()
    publisher.skip((BatchBegin, BatchEnd), 3)
    async with bus.subscribe(BatchEnd):
        events = [BatchEnd(batch=i, logs={}, batch_logs={}) for i in range(3)]
        publisher.publish_all(events, [1, 2, 3], (BatchBegin,))
        async with bus.subscribe(BatchEnd, Lagged, after=6) as late:
            publisher.close()
            await bus.aclose()
            found = [event async for event in late]
    assert [(type(event), event.seq) for event in found] == [
        (BatchEnd, 7),
        (BatchEnd, 9),
        (BatchEnd, 11),
    ]


async def test_what_an_earlier_process_published_is_told_as_a_loss() -> None:
    """A run that goes on counting; asked for by one who had its first events from there."""
    bus = Bus()
    publisher = bus.publisher()
    publisher.go_on(10)
    publish(publisher, 2)
    publisher.go_on(3)  # never back
    publish(publisher, 1)
    async with bus.subscribe(Tick, Lagged, after=5) as stream:
        assert await take(stream, 4) == [(4, 6, 9), 10, 11, 12]
    async with bus.subscribe(Tick, Lagged, after=9) as stream:
        assert await take(stream, 3) == [10, 11, 12]
