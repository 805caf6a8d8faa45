"""Leaving a bus: handlers get through what is there, whatever the reason, and are reported."""

from __future__ import annotations

import asyncio

import anyio
import anyio.lowlevel
import pytest

from fitbus import Bus, EpochEnd, Event
from fitbus.testing import Gate

pytestmark = pytest.mark.anyio


class Tick(Event):
    """What these tests publish."""

    number: int


class Recorder:
    """A concurrent handler that notes numbers."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    async def __call__(self, event: Tick) -> None:
        self.numbers.append(event.number)


async def test_leaving_the_block_delivers_what_is_there() -> None:
    """Whether the body ended or raised; its error leaves as itself, in no group."""
    for error in (None, KeyError("body")):
        recorder = Recorder()
        bus = Bus()
        bus.add(recorder, Tick)

        async def body(bus: Bus = bus, error: Exception | None = error) -> None:
            async with bus:
                for number in range(100):
                    bus.publisher().publish(Tick(number=number))
                if error is not None:
                    raise error

        if error is None:
            await body()
        else:
            with pytest.raises(KeyError, match="body") as caught:
                await body()
            assert caught.value is error
        assert recorder.numbers == list(range(100))


async def test_leaving_by_cancellation_delivers_what_is_there() -> None:
    """Handlers are shielded from it, and the cancellation isn't swallowed."""
    recorder = Recorder()
    after: list[str] = []
    with anyio.CancelScope() as scope:
        async with Bus() as bus:

            async def slow(event: Tick) -> None:
                await anyio.lowlevel.checkpoint()
                await recorder(event)

            bus.add(slow, Tick)
            for number in range(10):
                bus.publisher().publish(Tick(number=number))
            scope.cancel()
            await anyio.lowlevel.checkpoint()
            after.append("body")
    assert scope.cancelled_caught
    assert recorder.numbers == list(range(10))
    assert after == []


@pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)
async def test_native_cancellations_get_through_to_a_handler_that_hangs() -> None:
    """One ends the body, the next ones the waits for the handler; nothing is left running."""
    gate, ended = Gate(), list[str]()

    async def hang(event: Tick) -> None:
        try:
            await gate.pass_async()
        finally:
            ended.append("handler")

    async def serve() -> None:
        async with Bus() as bus:
            bus.add(hang, Tick)
            bus.publisher().publish(Tick(number=0))
            await anyio.sleep_forever()

    before = asyncio.all_tasks()
    task = asyncio.create_task(serve())
    await gate.wait_arrived()
    for _ in range(3):
        assert ended == []
        task.cancel()
        await anyio.wait_all_tasks_blocked()
    assert task.cancelled()
    assert ended == ["handler"]
    assert asyncio.all_tasks() == before


async def test_closing_reports_what_each_got() -> None:
    """Those that have ended before among them, in the order of subscribing."""
    async with Bus() as bus:
        publisher = bus.publisher()
        for name in ("first", "second", "third"):
            bus.add(Recorder(), Tick, name=name)
        gone = bus.add(Recorder(), Tick, name="gone")
        publisher.publish(Tick(number=0))
        await bus.drain(None, 30)
        gone.cancel()
        await anyio.wait_all_tasks_blocked()
        publisher.publish(Tick(number=1))
        publisher.publish(EpochEnd())
        report = await bus.aclose()
    assert [(entry.name, entry.delivered) for entry in report.subscribers] == [
        ("first", 2),
        ("second", 2),
        ("third", 2),
        ("gone", 1),
    ]
    assert report.complete
