"""Handlers that hold up the event loop, training or its end are named, with their stacks.

Scenario 33.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

import fitbus
from fitbus import BatchEnd, Bus, Callback, EpochEnd, Event, Publisher, TrainBegin, handler
from fitbus.testing import Gate

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

LONG_S = 1.3  # in which nothing must be said


class Told(logging.Handler):
    """The warnings that come, each with its time; a thread or a task may wait for one.

    Without those of the whole time that handlers took, which come too on a busy machine.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self.times: list[float] = []
        self.came = threading.Event()
        self.gate = Gate()

    def emit(self, record: logging.LogRecord) -> None:
        if "of its time" in record.getMessage():
            return
        self.lines.append(record.getMessage())
        self.times.append(time.monotonic())
        self.came.set()
        self.gate.open()

    @property
    def only(self) -> str:
        (line,) = self.lines
        return line


@pytest.fixture
def told() -> Iterator[Told]:
    logger, mine = logging.getLogger("fitbus"), Told()
    logger.addHandler(mine)
    yield mine
    logger.removeHandler(mine)


def the_slow_part(told: Told) -> None:
    """Blocks its thread until the warning has come."""
    assert told.came.wait(5), "nobody said anything"


async def the_long_wait(told: Told) -> None:
    """Waits in a task until the warning has come."""
    with anyio.fail_after(5):
        await told.gate.pass_async()


def published(bus: Bus, *events: Event) -> Callable[[], None]:
    """A training by hand that publishes events and waits for their handlers."""

    def train() -> None:
        with bus.publisher() as publisher:
            for event in events:
                publisher.barrier(event)

    return train


def functions(line: str) -> list[str]:
    """Those of the stack in a warning, the innermost last."""
    return re.findall(r", in (\w+)$", line, re.MULTILINE)


async def test_an_async_handler_that_blocks_the_loop(told: Told) -> None:
    async def blocks(event: BatchEnd) -> None:
        the_slow_part(told)

    async with Bus() as bus:
        bus.add(blocks, wait=False, name="the culprit")
        with bus.publisher() as publisher:
            publisher.publish(BatchEnd(batch=0, logs={}, batch_logs={}))
            started = time.monotonic()
            await bus.drain(None, 5)
    assert told.only.startswith("the event loop has not run for 0.")
    assert "handler 'the culprit' blocks it" in told.only
    assert functions(told.only)[:2] == ["blocks", "the_slow_part"]
    assert told.times[0] - started < 1


async def test_a_waiting_handler_that_blocks_the_loop_is_named_once(told: Told) -> None:
    """Though training waits for it as well; another one that waits behind it isn't named."""
    go_on = threading.Event()

    async def innocent(event: EpochEnd) -> None:
        await anyio.lowlevel.checkpoint()

    async def blocks(event: EpochEnd) -> None:
        the_slow_part(told)
        go_on.wait(LONG_S)

    async with Bus() as bus:
        bus.add(blocks, name="the culprit")
        bus.add(innocent, name="another")
        await anyio.to_thread.run_sync(published(bus, EpochEnd(logs={})))
    assert "handler 'the culprit' blocks it" in told.lines[0]
    assert [line for line in told.lines if "another" in line] == []


async def test_code_that_is_no_handler_blocks_the_loop(told: Told) -> None:
    async with Bus() as bus:
        with bus.publisher():
            the_slow_part(told)
    assert "by no handler of fitbus" in told.only
    assert functions(told.only)[:2] == [
        "test_code_that_is_no_handler_blocks_the_loop",
        "the_slow_part",
    ]


async def test_without_a_live_run_it_is_nobodys_business(told: Told) -> None:
    async with Bus():
        assert not told.came.wait(LONG_S)


async def test_an_async_handler_that_training_waits_for(told: Told) -> None:
    """The stack shows where it awaits."""

    async def waits(event: EpochEnd) -> None:
        await the_long_wait(told)

    async with Bus() as bus:
        bus.add(waits, name="the culprit")
        bus.add(quick, name="another")
        started = time.monotonic()
        await anyio.to_thread.run_sync(published(bus, EpochEnd(logs={})))
    assert told.only.startswith("run 'run-1' has waited 0.")
    assert "for handler 'the culprit' of EpochEnd, which has not returned" in told.only
    assert functions(told.only)[:2] == ["waits", "the_long_wait"]
    assert told.times[0] - started < 1


async def quick(event: EpochEnd) -> None: ...


async def test_a_def_handler_in_the_training_thread(told: Told) -> None:
    def waits(event: BatchEnd) -> None:
        the_slow_part(told)

    async with Bus() as bus:
        bus.add(waits, name="the culprit")
        started = time.monotonic()
        event = BatchEnd(batch=0, logs={}, batch_logs={})
        await anyio.to_thread.run_sync(published(bus, event))
    assert told.only.startswith("run 'run-1' has waited 0.")
    assert "for handler 'the culprit' of BatchEnd, which has not returned" in told.only
    assert functions(told.only)[:2] == ["waits", "the_slow_part"]
    assert told.times[0] - started < 1


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_hooks_of_a_callback(told: Told, kind: str) -> None:
    """Their own lines are shown, and none of those between."""

    class Waits(Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            the_slow_part(told)

    class WaitsOnTheLoop(Callback):
        async def on_train_begin(self, logs: Any = None) -> None:
            await the_long_wait(told)

    problem = fitbus.testing.toy_problem(8, 2)
    trainer = fitbus.Trainer(problem.task, problem.params)
    callback = Waits() if kind == "def" else WaitsOnTheLoop()
    await trainer.fit(problem.x, problem.y, callbacks=[callback])
    assert f"of {TrainBegin.__name__}" in told.only
    assert functions(told.only)[0] == "on_train_begin"


@pytest.mark.parametrize("kind", ["on the loop", "in a thread"])
async def test_a_concurrent_handler_is_named_at_the_end(told: Told, kind: str) -> None:
    """Before, it holds nobody up."""
    begun = Gate()

    async def waits(event: EpochEnd) -> None:
        begun.open()
        await the_long_wait(told)

    def waits_in_thread(event: EpochEnd) -> None:
        begun.open()
        the_slow_part(told)

    async with Bus() as bus:
        bus.add(waits if kind == "on the loop" else waits_in_thread, wait=False, name="the culprit")
        with bus.publisher() as publisher:
            publisher.publish(EpochEnd(logs={}))
            await begun.pass_async()
            started = time.monotonic()
            await bus.drain(publisher.run, 20)
    assert "handler 'the culprit' is waited for, 20 s at most (drain_s)" in told.only
    assert functions(told.only)[0].startswith("waits")
    assert functions(told.only)[1].startswith("the_")
    assert told.times[0] - started < 1


async def test_whoever_gets_on_is_not_named(told: Told) -> None:
    """Idle loops, pauses, handlers that await long beside training, many short ones before it."""
    begun = Gate()
    over = Gate()

    async def long(event: TrainBegin) -> None:
        begun.open()
        await over.pass_async()

    @handler(BatchEnd, wait=True)
    def short(event: BatchEnd) -> None:
        time.sleep(0.001)

    problem = fitbus.testing.toy_problem(8, 2)
    trainer = fitbus.Trainer(problem.task, problem.params)
    beside = handler(TrainBegin, wait=False)(long)
    async with trainer.run(
        problem.x, problem.y, batch_size=8, epochs=300, callbacks=[beside, short]
    ) as run:
        await begun.pass_async()
        run.post(fitbus.Pause())
        await anyio.sleep(LONG_S)
        run.post(fitbus.Resume())
        over.open()
    assert told.lines == []


async def test_it_is_said_again_only_if_it_lasts_much_longer(told: Told) -> None:
    """Not for each of several that are slow, either."""

    def slow(event: BatchEnd) -> None:
        time.sleep(0.8)

    async with Bus() as bus:
        bus.add(slow)
        events = [BatchEnd(batch=i, logs={}, batch_logs={}) for i in range(2)]
        await anyio.to_thread.run_sync(published(bus, *events))
    assert len(told.lines) == 1


async def test_its_thread_ends_with_the_last_host() -> None:
    def watches() -> int:
        return sum(thread.name == "fitbus watch" for thread in threading.enumerate())

    bus = Bus()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(bus.hosted())
            assert watches() == 1
    assert watches() == 0
    publisher: Publisher = bus.publisher()
    publisher.close()
