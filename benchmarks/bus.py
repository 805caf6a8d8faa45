"""What the bus itself costs: publishing, delivering, waking a loop, waiting for a handler."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import anyio
from _harness import Row, parser, run_on, show

import fitbus
from fitbus import BatchBegin, BatchEnd, Bus
from fitbus._loops import LoopHandle

LOGS = {"accuracy": 0.5, "loss": 0.5}
TOGETHER = 20


def event(batch: int) -> BatchEnd:
    """An event as training makes it."""
    return BatchEnd(batch=batch, logs=LOGS, batch_logs=LOGS)


def per_item(count: int, work: Callable[[], object]) -> float:
    """Microseconds an item."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) / count * 1e6


async def in_thread(work: Callable[[], float]) -> float:
    """Runs a measurement in a thread, while the event loop is free."""
    return await anyio.to_thread.run_sync(work)


async def publish(count: int, *, subscribed: bool) -> float:
    """Publishing a burst of events that exist already, to one stream or to nobody."""
    bus = Bus()
    publisher = bus.publisher(flush_s=1.0)
    events = [event(i) for i in range(count)]

    def burst() -> None:
        for each in events:
            publisher.publish(each)

    if not subscribed:
        return per_item(count, burst)
    async with bus.subscribe(BatchEnd, buffer_size=count):
        return per_item(count, burst)


async def publish_all(count: int) -> float:
    """The same burst, `TOGETHER` events at a time, as training publishes those of fast steps."""
    bus = Bus()
    publisher = bus.publisher(flush_s=1.0)
    events = [event(i) for i in range(count)]

    def burst() -> None:
        for start in range(0, count, TOGETHER):
            few = events[start : start + TOGETHER]
            publisher.publish_all(few, range(start, start + len(few)))

    async with bus.subscribe(BatchEnd, buffer_size=count):
        return per_item(count, burst)


async def skip(count: int) -> float:
    """What training does for fast steps to whose events nobody is subscribed."""
    publisher = Bus().publisher()
    kinds = (BatchBegin, BatchEnd)

    def burst() -> None:
        for _ in range(0, count, 2 * TOGETHER):
            if not (publisher.wanted(BatchEnd) or publisher.wanted(BatchBegin)):
                publisher.skip(kinds, TOGETHER)

    return per_item(count, burst)


async def tell(count: int) -> float:
    """For comparison: a thread tells an idle loop something, without a bus."""
    loop, called = LoopHandle(), threading.Event()

    def work() -> float:
        spent = 0.0
        for _ in range(count):
            called.clear()
            started = time.perf_counter()
            loop.call_soon(called.set)
            spent += time.perf_counter() - started
            called.wait()
        return spent / count * 1e6

    return await in_thread(work)


async def make(count: int) -> float:
    """Making an event, values checked."""
    return per_item(count, lambda: [event(i) for i in range(count)])


async def deliver(count: int) -> float:
    """From mailboxes to the handlers of ten concurrent subscribers, by event and subscriber."""
    async with Bus() as bus:
        for _ in range(10):

            async def handle(event: BatchEnd) -> None:
                pass

            bus.add(handle, BatchEnd, buffer_size=count)
        publisher = bus.publisher(flush_s=60.0)
        for i in range(count):
            publisher.publish(event(i))
        started = time.perf_counter()
        publisher.flush()
        await bus.drain(None, 60)
        return (time.perf_counter() - started) / count / 10 * 1e6


async def wake(count: int) -> float:
    """From a thread to an idle loop: publish, and wait until the handler was called."""
    async with Bus() as bus:
        called = threading.Event()

        async def handle(event: BatchEnd) -> None:
            called.set()

        bus.add(handle, BatchEnd)
        publisher = bus.publisher()
        events = [event(i) for i in range(count)]

        def work() -> float:
            spent = 0.0
            for each in events:
                called.clear()
                started = time.perf_counter()
                publisher.publish(each)
                spent += time.perf_counter() - started
                called.wait()
            return spent / count * 1e6

        return await in_thread(work)


async def barrier(count: int) -> float:
    """Training thread, async handler, training thread."""
    async with Bus() as bus:

        async def handle(event: BatchEnd) -> None:
            pass

        bus.add(handle, BatchEnd, wait=True)
        publisher = bus.publisher()

        def work() -> float:
            return per_item(count, lambda: [publisher.barrier(event(i)) for i in range(count)])

        return await in_thread(work)


async def append(count: int) -> float:
    """For comparison: a deque."""
    queue: deque[Any] = deque()

    def burst() -> None:
        for i in range(count):
            queue.append(i)

    return per_item(count, burst)


def main() -> None:
    """Measures all of them, interleaved."""
    options = parser(__doc__).parse_args()
    if options.smoke:
        options.pairs = 1
    many, few = (500, 20) if options.smoke else (20_000, 500)
    cases: dict[str, tuple[Callable[[], Any], float | None]] = {
        "deque.append, for comparison": (lambda: append(many), None),
        "make an event": (lambda: make(many), None),
        "publish, a burst to one subscriber": (lambda: publish_all(many), 0.3),
        "publish, one by one": (lambda: publish(many, subscribed=True), None),
        "publish, one by one, nobody subscribed": (lambda: publish(many, subscribed=False), None),
        "nobody subscribed": (lambda: skip(many), 0.1),
        "publish, waking an idle loop": (lambda: wake(few), 6.0),
        "waking an idle loop without a bus, for comparison": (lambda: tell(few), None),
        "deliver, by event and subscriber": (lambda: deliver(many // 10), 0.5),
        "wait for an async handler and back": (lambda: barrier(few), 150.0),
    }
    found: dict[str, list[float]] = {name: [] for name in cases}
    for counted in range(-1, options.pairs):
        for name, (case, _) in cases.items():
            value = float(run_on(options.loop, case))
            if counted >= 0:
                found[name].append(value)
    rows = [Row.of(name, found[name], "us", cases[name][1]) for name in cases]
    show(f"the bus of fitbus {fitbus.__version__}", rows, options)


if __name__ == "__main__":
    main()
