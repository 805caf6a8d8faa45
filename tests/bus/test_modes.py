"""Where handlers are called, and whether training waits for them: the four modes."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from fitbus import (
    BatchEnd,
    Bus,
    EpochBegin,
    EpochEnd,
    Event,
    HandlerFailed,
    PredictBegin,
    PredictEnd,
    TestBegin,
    TestEnd,
    TrainBegin,
    TrainEnd,
)
from fitbus.bus import HandlerOptions
from fitbus.errors import FitbusError
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


async def test_each_mode_runs_where_the_table_says() -> None:
    """`def`: in the training thread, or in a worker's; `async def`: on the loop."""
    places: dict[str, tuple[int, object]] = {}

    def note(name: str, event: Event) -> None:
        places[name] = threading.get_ident(), loop()

    async def anote(name: str, event: Event) -> None:
        places[name] = threading.get_ident(), loop()

    async with Bus() as bus:
        bus.add(functools.partial(note, "def, waited for"), Tick, wait=True)
        bus.add(functools.partial(note, "def"), Tick, wait=False)
        bus.add(functools.partial(anote, "async def, waited for"), Tick, wait=True)
        bus.add(functools.partial(anote, "async def"), Tick, wait=False)

        def train() -> int:
            bus.publisher().barrier(Tick(number=0))
            return threading.get_ident()

        training = await in_thread(train)
    here = threading.get_ident(), loop()
    assert loop() is not None
    assert places["async def, waited for"] == here
    assert places["async def"] == here
    assert places["def, waited for"] == (training, None)
    worker, worker_loop = places["def"]
    assert worker_loop is None
    assert worker not in (training, here[0])


async def test_training_waits_for_waiting_handlers_only() -> None:
    """It has gone on while a concurrent one is still at the event, and not before a waiting one."""
    events: list[str] = []
    concurrent, waiting, went_on = Gate(), Gate(), Gate()

    async def slow(event: Tick) -> None:
        await concurrent.pass_async()
        events.append("concurrent")

    def slow_thread(event: Tick) -> None:
        concurrent.pass_sync()
        events.append("concurrent")

    async def waited_for(event: Tick) -> None:
        await waiting.pass_async()
        events.append("waiting")

    async with Bus() as bus:
        bus.add(slow, Tick, wait=False)
        bus.add(slow_thread, Tick, wait=False)
        bus.add(waited_for, Tick, wait=True)

        def train() -> None:
            bus.publisher().barrier(Tick(number=0))
            events.append("went on")
            went_on.open()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(in_thread, train)
            await waiting.wait_arrived()
            waiting.open()
            await went_on.pass_async()
            concurrent.open()
    assert events == ["waiting", "went on", "concurrent", "concurrent"]


RARE = [TrainBegin, TrainEnd, EpochBegin, EpochEnd, TestBegin, TestEnd, PredictBegin, PredictEnd]


@pytest.mark.parametrize(
    ("colour", "kinds", "waits"),
    [
        *(("async def", [kind], True) for kind in RARE),
        ("async def", RARE, True),
        ("async def", [BatchEnd], False),
        ("async def", [EpochEnd, BatchEnd], False),
        ("async def", [HandlerFailed], False),
        ("async def", [Event], False),
        ("async def", [Tick], False),
        *(("def", [kind], True) for kind in (EpochEnd, BatchEnd, Event, Tick)),
    ],
)
def test_whether_training_waits_by_default(
    colour: str, kinds: list[type[Event]], waits: bool
) -> None:
    """For each `def`; for an `async def` if all its types are rare. `wait=` has the last word."""

    def call(event: Event) -> None: ...
    async def acall(event: Event) -> None: ...

    handler: Callable[[Event], Any] = call if colour == "def" else acall
    for options, expected in (
        (HandlerOptions(), waits),
        (HandlerOptions(wait=True), True),
        (HandlerOptions(wait=False), False),
    ):
        bus = Bus()
        bus.add(handler, *kinds, **options)
        kind = kinds[0] if kinds[0] is not Event else EpochEnd
        publisher = bus.publisher()
        assert publisher.wanted(kind)
        assert publisher.waits(kind) is expected


def test_a_barrier_that_nobody_could_end_is_refused() -> None:
    """Waiting handlers on a loop, and no loop: the message says what to write."""

    async def decide(event: EpochEnd) -> None: ...

    bus = Bus()
    bus.add(decide)
    with pytest.raises(FitbusError, match="async with bus:"):
        bus.publisher().barrier(EpochEnd())
