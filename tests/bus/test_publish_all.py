"""`publish_all` against `publish`, one by one, on a twin bus: nobody can tell the difference."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fitbus import BatchBegin, BatchEnd, Bus, EpochBegin, EpochEnd, Event, Lagged, Pause
from fitbus.bus import Overflow

from ._twins import (
    COUNT,
    GROUPS,
    MAKE,
    Groups,
    Send,
    Tick,
    Tock,
    both,
    drained,
    one_by_one,
    publish,
    together,
)

pytestmark = pytest.mark.anyio

SKIPPED: tuple[tuple[type[Event], ...], ...] = ((), (BatchBegin,), (BatchBegin, EpochBegin))

groups = st.lists(
    st.lists(st.sampled_from([*MAKE]), min_size=1, max_size=6), min_size=1, max_size=4
)
kinds = st.lists(st.sampled_from([Event, Tick, Tock, EpochEnd, BatchEnd]), min_size=1, max_size=2)


@settings(max_examples=40, deadline=None)
@given(
    groups=groups,
    kinds=kinds,
    wants_lagged=st.booleans(),
    overflow=st.sampled_from(["drop_oldest", "drop_newest", "latest", "block"]),
    size=st.integers(1, 5),
    every=st.integers(1, 3),
    odd=st.booleans(),
    skipped=st.sampled_from(SKIPPED),
)
def check_streams(
    backend: Any,
    groups: Groups,
    kinds: list[type[Event]],
    wants_lagged: bool,
    overflow: Overflow,
    size: int,
    every: int,
    odd: bool,
    skipped: tuple[type[Event], ...],
) -> None:
    async def found(send: Send) -> Any:
        bus = Bus()
        publisher = bus.publisher()
        buffer_size = 100 if overflow == "block" else size  # see below for where it has no room
        where = (lambda event: event.seq % 2) if odd else None
        lagged: list[type[Event]] = [Lagged] if wants_lagged else []
        async with (
            bus.subscribe(
                *[*kinds, *lagged],
                overflow=overflow,
                buffer_size=buffer_size,
                every=every,
                where=where,
            ) as stream,
            bus.subscribe(Event, overflow="block") as everything,
        ):
            publish(send, publisher, groups, skipped)
            counts = stream.statistics()
            return (
                (publisher.step, bus.statistics().published),
                (counts.published, counts.queued, counts.dropped),
                await drained(stream),
                await drained(everything),
            )

    one, other = both(found, backend)
    assert one == other


def test_streams_hold_the_same(anyio_backend: Any) -> None:
    """Events, order, `seq`, steps; by each filter and each policy; losses told, and counted."""
    check_streams(anyio_backend)


@settings(max_examples=40, deadline=None)
@given(
    groups=groups,
    kinds=kinds,
    after=st.integers(-1, 20),
    tail_size=st.integers(1, 12),
    skips=st.lists(st.sampled_from(SKIPPED), min_size=4, max_size=4),
)
def check_replays(
    backend: Any,
    groups: Groups,
    kinds: list[type[Event]],
    after: int,
    tail_size: int,
    skips: list[tuple[type[Event], ...]],
) -> None:
    async def found(send: Send) -> Any:
        bus = Bus(tail_size=tail_size)
        publisher = bus.publisher()
        for group, skipped in zip(groups, skips, strict=False):
            publish(send, publisher, [group], skipped)
        async with bus.subscribe(*kinds, BatchBegin, Lagged, after=after) as stream:
            publish(send, publisher, groups[:1])
            return await drained(stream)

    one, other = both(found, backend)
    assert one == other


def test_the_tail_is_the_same(anyio_backend: Any) -> None:
    """What is replayed, and what is told to be missing: skipped, or too old."""
    check_replays(anyio_backend)


@pytest.mark.parametrize("every", [1, 2], ids=["all", "filtered"])
async def test_a_full_lossless_mailbox_takes_all(every: int) -> None:
    """However small it is: of events that come one by one it holds twice its size."""
    bus = Bus()
    publisher = bus.publisher()
    async with bus.subscribe(Event, overflow="block", buffer_size=2, every=every) as stream:
        publish(together, publisher, GROUPS)
        assert stream.statistics().dropped == 0
        found = await drained(stream)
    assert [event["seq"] for event in found] == [*range(every - 1, COUNT, every)]


async def test_a_stream_whose_predicate_raises_ends_there() -> None:
    bus = Bus()
    async with bus.subscribe(Tick, where=lambda event: 1 / (2 - event.seq)) as stream:
        publish(together, bus.publisher(), [["tick"] * 6])
        assert [(await anext(stream)).seq for _ in range(2)] == [0, 1]
        with pytest.raises(ZeroDivisionError):
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_after_the_end_nothing_is_published() -> None:
    bus = Bus()
    publisher = bus.publisher()
    async with bus.subscribe(Event) as stream:
        publish(together, publisher, [["tick"] * 2])
        publisher.close()
        publish(together, publisher, [["tick"] * 3], (BatchBegin,))
        assert len(await drained(stream)) == 2
    assert bus.statistics().published == 2


async def test_a_control_that_a_loop_left_at_is_acknowledged_first() -> None:
    """As by what else it publishes."""
    found: list[Any] = []
    for send in (together, one_by_one):
        bus = Bus()
        publisher = bus.publisher()
        async with bus.subscribe(Event) as stream:
            publisher.post(Pause())
            for _ in publisher.boundary():
                break
            publish(send, publisher, GROUPS[:2])
            found.append(await drained(stream))
    assert found[0] == found[1]
    assert found[0][0]["type"] == "ControlApplied"


async def test_who_subscribes_gets_what_comes_then() -> None:
    """And nothing more once cancelled; of other runs nothing, where it is limited to one."""
    bus = Bus()
    publisher, other = bus.publisher(), bus.publisher()
    publish(together, publisher, GROUPS)
    async with bus.subscribe(Event, overflow="block") as stream:
        publish(together, publisher, GROUPS[:1])
        publish(together, other, GROUPS[:1])
        found = await drained(stream)
        publish(together, publisher, GROUPS[:1])
    assert [(e["run"], e["seq"]) for e in found] == [
        *(("run-1", seq) for seq in range(COUNT, COUNT + 5)),
        *(("run-2", seq) for seq in range(5)),
    ]
    assert bus.statistics().published == COUNT + 15
