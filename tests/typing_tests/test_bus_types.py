"""What type checkers infer for subscribing; run, too, so that the values are what was promised.

mypy and pyright check each `assert_type` here, and that each ignored error is one.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, assert_type

import anyio
import pytest

from fitbus import (
    BatchBegin,
    BatchEnd,
    Bus,
    EpochBegin,
    EpochEnd,
    Event,
    StopTraining,
    Subscription,
    handler,
)

pytestmark = pytest.mark.anyio


def publish_all(bus: Bus) -> None:
    publisher = bus.publisher()
    for event in (
        EpochBegin(),
        BatchBegin(batch=0),
        BatchEnd(batch=0, logs={}, batch_logs={}),
        EpochEnd(logs={}),
    ):
        publisher.publish(event)
    publisher.close()


async def test_subscribing_to_one_type_gives_events_of_it() -> None:
    bus = Bus()
    stream = bus.subscribe(EpochEnd)
    assert_type(stream, Subscription[EpochEnd])
    async with bus, stream as events:
        assert_type(events, Subscription[EpochEnd])
        publish_all(bus)
        async for event in events:
            assert_type(event, EpochEnd)
            assert_type(event.logs, dict[str, float])
            assert type(event) is EpochEnd
            break


async def test_subscribing_to_two_types_gives_their_union() -> None:
    bus = Bus()
    stream = bus.subscribe(EpochEnd, BatchEnd, overflow="drop_oldest", buffer_size=8)
    assert_type(stream, Subscription[EpochEnd | BatchEnd])
    seen: list[EpochEnd | BatchEnd] = []
    async with bus, stream as events:
        publish_all(bus)
        async for event in events:
            assert_type(event, EpochEnd | BatchEnd)
            seen.append(event)
            if isinstance(event, BatchEnd):
                assert_type(event.batch, int)
            else:
                assert_type(event, EpochEnd)
                break
    assert [type(event) for event in seen] == [BatchEnd, EpochEnd]


async def test_subscribing_to_three_types_gives_their_union() -> None:
    bus = Bus()
    stream = bus.subscribe(EpochBegin, BatchEnd, EpochEnd, every=1, after=None)
    assert_type(stream, Subscription[EpochBegin | BatchEnd | EpochEnd])
    seen: list[Event] = []
    async with bus, stream as events:
        publish_all(bus)
        async for event in events:
            assert_type(event, EpochBegin | BatchEnd | EpochEnd)
            seen.append(event)
            if isinstance(event, EpochEnd):
                break
    assert [type(event) for event in seen] == [EpochBegin, BatchEnd, EpochEnd]


async def test_subscribing_to_more_types_or_none_gives_events() -> None:
    bus = Bus()
    stream = bus.subscribe(EpochBegin, BatchBegin, BatchEnd, EpochEnd)
    assert_type(stream, Subscription[Event])
    kinds: list[type[Event]] = [EpochBegin, EpochEnd]
    assert_type(bus.subscribe(*kinds), Subscription[Event])
    assert stream.kinds == (EpochBegin, BatchBegin, BatchEnd, EpochEnd)


async def test_a_base_class_gives_the_base() -> None:
    bus = Bus()
    assert_type(bus.subscribe(Event), Subscription[Event])
    bases: Subscription[Event] = bus.subscribe(EpochEnd)  # covariant
    assert bases.kinds == (EpochEnd,)


async def test_a_predicate_is_of_the_types_subscribed_to() -> None:
    bus = Bus()
    good = bus.subscribe(EpochEnd, where=lambda event: event.logs["loss"] < 1)
    assert_type(good, Subscription[EpochEnd])
    either = bus.subscribe(EpochEnd, BatchEnd, where=lambda event: "loss" in event.logs)
    assert_type(either, Subscription[EpochEnd | BatchEnd])

    def of_batches(event: BatchEnd) -> bool:
        return event.batch > 0

    bus.subscribe(BatchEnd, where=of_batches)
    bus.subscribe(EpochEnd, where=of_batches)  # type: ignore[arg-type]  # of another type


async def test_wait_for_gives_an_event_of_the_types() -> None:
    """Of one, of two, of three types, and with a predicate."""
    bus = Bus()

    async def all_kinds() -> None:
        one = await bus.wait_for(EpochEnd, where=lambda event: not event.logs, timeout=30)
        assert_type(one, EpochEnd)
        assert type(one) is EpochEnd

    async def two_kinds() -> None:
        two = await bus.wait_for(EpochEnd, BatchEnd)
        assert_type(two, EpochEnd | BatchEnd)
        assert type(two) is BatchEnd

    async def three_kinds() -> None:
        three = await bus.wait_for(EpochEnd, BatchEnd, EpochBegin)
        assert_type(three, EpochEnd | BatchEnd | EpochBegin)
        assert type(three) is EpochBegin

    async with bus, anyio.create_task_group() as tasks:
        for waiting in (all_kinds, two_kinds, three_kinds):
            tasks.start_soon(waiting)
        await anyio.wait_all_tasks_blocked()
        publish_all(bus)


async def test_decorators_keep_the_type_of_the_function() -> None:
    """`on` and `handler` give back what they got, with its parameters and its result."""
    bus = Bus()

    @bus.on(EpochEnd)
    async def decide(event: EpochEnd) -> StopTraining | None:
        return StopTraining("good enough") if not event.logs else None

    @bus.on(BatchEnd, wait=False, batched=True)
    def gather(events: Sequence[BatchEnd]) -> None:
        del events

    @handler(BatchEnd, every=10, overflow="latest")
    async def plot(event: BatchEnd, *, scale: float = 1.0) -> None:
        del event, scale

    last = BatchEnd(batch=0, logs={}, batch_logs={})
    decision = await decide(event=EpochEnd(logs={}))  # the parameter keeps its name
    assert_type(decision, StopTraining | None)
    assert isinstance(decision, StopTraining)
    gathering: Callable[[Sequence[BatchEnd]], None] = gather
    gathering([last])
    await plot(last, scale=2.0)
    with pytest.raises(TypeError, match="colour"):
        await plot(last, colour="red")  # type: ignore[call-arg]  # it has no such parameter
    with pytest.raises(AttributeError, match="logs"):
        await decide(last.batch)  # type: ignore[arg-type]  # no event of its type


async def test_adding_gives_a_subscription() -> None:
    bus = Bus()

    async def report(event: EpochEnd) -> None:
        del event

    subscription = bus.add(report, EpochEnd, wait=False, name="report")
    assert_type(subscription, Subscription[Any])
    assert subscription.name == "report"
