"""Which events a handler takes, and how many at once: filters, batches and other options."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

import fitbus
from fitbus import (
    Bus,
    EpochEnd,
    Event,
    Lagged,
)
from fitbus.bus import HandlerOptions
from fitbus.errors import InvalidArgumentError
from fitbus.testing import Gate

pytestmark = pytest.mark.anyio

T = TypeVar("T")


class Tick(Event):
    """What these tests publish."""

    number: int


async def in_thread(function: Callable[[], T]) -> T:
    """Runs a training loop by hand in a thread."""
    with anyio.fail_after(30):
        return await anyio.to_thread.run_sync(function, abandon_on_cancel=True)


def loop() -> object | None:
    """The event loop that the caller runs in, or None."""
    try:
        return anyio.lowlevel.current_token().native_token
    except RuntimeError:
        return None


@pytest.mark.parametrize("wait", [True, False])
async def test_every_takes_each_nth_event_that_matches(wait: bool) -> None:
    """The n-th, the 2n-th, ...; those that a predicate keeps out aren't counted."""
    taken: dict[str, list[int]] = {"every": [], "both": []}
    async with Bus() as bus:
        bus.add(lambda event: taken["every"].append(event.number), Tick, every=3, wait=wait)
        bus.add(
            lambda event: taken["both"].append(event.number),
            Tick,
            every=4,
            where=lambda event: event.number > 10,
            wait=wait,
        )
        publisher = bus.publisher()
        await in_thread(lambda: [publisher.barrier(Tick(number=i)) for i in range(1, 31)])
    assert taken == {"every": list(range(3, 31, 3)), "both": [14, 18, 22, 26, 30]}


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("colour", ["def", "async def"])
async def test_a_predicate_runs_in_the_publishing_thread(colour: str, wait: bool) -> None:
    """For each mode; what it holds back isn't published to that subscriber."""
    threads: set[int] = set()
    taken: list[int] = []

    def is_even(event: Tick) -> bool:
        threads.add(threading.get_ident())
        return event.number % 2 == 0

    def call(event: Tick) -> None:
        taken.append(event.number)

    async def acall(event: Tick) -> None:
        taken.append(event.number)

    async with Bus() as bus:
        handler: Callable[[Tick], Any] = call if colour == "def" else acall
        subscription = bus.add(handler, Tick, where=is_even, wait=wait)

        def train() -> int:
            publisher = bus.publisher()
            for number in range(6):
                publisher.barrier(Tick(number=number))
            return threading.get_ident()

        training = await in_thread(train)
        await bus.drain(None, 30)
        assert subscription.statistics().published == 3
    assert threads == {training}
    assert taken == [0, 2, 4]


async def test_every_s_takes_one_event_in_so_many_seconds() -> None:
    """An hour: the first only. Less than the clock can tell: all. The first of each."""
    taken: dict[float, list[int]] = {3600: [], 1e-12: []}
    async with Bus() as bus:
        for seconds, numbers in taken.items():
            handler = functools.partial(lambda into, event: into.append(event.number), numbers)
            bus.add(handler, Tick, every_s=seconds, wait=False)
        publisher = bus.publisher()
        for number in range(50):
            publisher.publish(Tick(number=number))
    assert taken[3600] == [0]
    assert taken[1e-12][0] == 0
    assert len(taken[1e-12]) > 40


@pytest.mark.parametrize("colour", ["def", "async def"])
async def test_a_batch_is_all_that_has_gathered(colour: str) -> None:
    """A handler that lags catches up with one call; its batches hold each event once, in order."""
    batches: list[Sequence[Tick]] = []
    gate = Gate()

    def call(events: Sequence[Tick]) -> None:
        batches.append(events)
        gate.pass_sync()

    async def acall(events: Sequence[Tick]) -> None:
        batches.append(events)
        await gate.pass_async()

    async with Bus() as bus:
        handler = call if colour == "def" else acall
        subscription = bus.add(handler, Tick, wait=False, batched=True)
        publisher = bus.publisher()
        publisher.publish(Tick(number=0))
        await gate.wait_arrived()
        for number in range(1, 200):
            publisher.publish(Tick(number=number))
        assert subscription.statistics().queued == 199
        gate.open()
    assert [[event.number for event in batch] for batch in batches] == [[0], [*range(1, 200)]]
    assert subscription.statistics().delivered == 200


async def test_a_batch_holds_a_loss_in_its_place() -> None:
    """A `Lagged` stands before what came after it, and counts as no event."""
    batches: list[Sequence[Event]] = []
    gate = Gate()

    async def gather(events: Sequence[Event]) -> None:
        batches.append(events)
        await gate.pass_async()

    async with Bus() as bus:
        subscription = bus.add(
            gather, Tick, Lagged, wait=False, batched=True, buffer_size=2, overflow="drop_oldest"
        )
        publisher = bus.publisher()
        publisher.publish(Tick(number=0))
        await gate.wait_arrived()
        for number in range(1, 6):
            publisher.publish(Tick(number=number))
        gate.open()
    lagged, *others = batches[1]
    assert isinstance(lagged, Lagged)
    assert (lagged.count, lagged.first_seq, lagged.last_seq) == (3, 1, 3)
    assert [event.seq for event in others] == [4, 5]
    counts = subscription.statistics()
    assert (counts.published, counts.delivered, counts.dropped) == (6, 3, 3)


def test_pairs_of_options_that_make_no_sense_are_refused() -> None:
    """The message names the option, the handler and the way out."""

    def call(event: Tick) -> None: ...
    async def acall(event: EpochEnd) -> None: ...

    bus = Bus()
    refused: list[tuple[Callable[[Any], Any], HandlerOptions, str]] = [
        (call, {"every_s": 1.0}, "every_s"),
        (call, {"batched": True}, "batched"),
        (call, {"overflow": "latest"}, "overflow"),
        (acall, {"buffer_size": 5}, "buffer_size"),
        (acall, {"wait": True, "overflow": "block"}, "overflow"),
        (call, {"timeout": 1.0}, "timeout"),
        (call, {"timeout": 1.0, "wait": False}, "timeout"),
        (acall, {"timeout": 0.0}, "timeout"),
        (acall, {"every": 0}, "every"),
        (acall, {"where": acall}, "where"),
        (acall, {"name": ""}, "name"),
    ]
    for handler, options, at_fault in refused:
        with pytest.raises(InvalidArgumentError, match=f"^{at_fault}: ") as caught:
            bus.add(handler, **options)
        assert caught.value.argument == at_fault
    assert bus.statistics().subscriptions == ()


def test_options_declared_on_a_function_hold_until_add_says_otherwise() -> None:
    numbers: list[int] = []

    @fitbus.handler(Tick, every=2, name="declared")
    def note(event: Tick) -> None:
        numbers.append(event.number)

    bus = Bus()
    assert bus.add(note).name == "declared"
    assert bus.add(note, every=3, name="given").options.every == 3
    publisher = bus.publisher()
    for number in range(1, 7):
        publisher.barrier(Tick(number=number))
    assert numbers == [2, 3, 4, 6, 6]
