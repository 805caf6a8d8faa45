"""Does the event loop stay responsive while a model trains, compiles, or is checkpointed?

A heartbeat sleeps for a millisecond again and again on the event loop; its lag is how much later
than that it wakes up. Each case is measured in turn, round after round, with `idle` among them:
the same heartbeat while nothing else goes on, which is what the machine itself is late by. Of each
round, the median, the 99th percentile and the worst lag are taken; a row has the median of these
over all rounds, and the quartiles. `by hand` is a plain loop over the same step in a thread: what
training does to an event loop in any case.

The training thread and the event loop share one GIL. A jitted step gives it up while it computes;
tracing and lowering a large model hold it for tens of milliseconds: see `compiling`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
from _harness import Row, check, parser, quantile, run_on, show
from _model import SIZES, bare, build

import fitbus
from fitbus.callbacks import BackupAndRestore

BEAT_S = 0.001
DEEP = 24


async def lags(work: Callable[[], Awaitable[object]]) -> list[float]:
    """Milliseconds by which a heartbeat was late while something was awaited.

    A stall counts for every beat that should have come in it, or it would weigh as little as one.
    """
    late: list[float] = []

    async def beat() -> None:
        while True:
            started = time.perf_counter()
            await anyio.sleep(BEAT_S)
            lag = time.perf_counter() - started - BEAT_S
            while lag > 0:
                late.append(lag * 1e3)
                lag -= BEAT_S

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(beat)
        await work()
        tasks.cancel_scope.cancel()
    return late


def readers(count: int) -> list[Any]:
    """Concurrent subscribers that look at every batch."""
    total = [0.0]

    def reader() -> Any:
        async def read(event: fitbus.BatchEnd) -> None:
            total[0] += event.logs["loss"]

        return read

    return [reader() for _ in range(count)]


def training(size: str, subscribers: int, smoke: bool) -> Callable[[], Awaitable[object]]:
    """Training at a size of step, compiled before."""
    width, batch, steps = SIZES[size]
    built = build(width, batch, 20 if smoke else steps)
    trainer = fitbus.Trainer(built.task, built.params)

    async def fit() -> None:
        callbacks = readers(subscribers)
        await trainer.fit(built.x, built.y, batch_size=batch, epochs=1, callbacks=callbacks)

    return fit


def by_hand(size: str, smoke: bool) -> Callable[[], Awaitable[object]]:
    """A plain loop in a thread, at a size of step, compiled before."""
    width, batch, steps = SIZES[size]
    steps = 20 if smoke else steps
    epoch = bare(build(width, batch, steps), batch, steps)

    async def fit() -> None:
        await anyio.to_thread.run_sync(epoch)

    return fit


def compiling(smoke: bool) -> Callable[[], Awaitable[object]]:
    """The first steps of a deep model, traced and compiled anew each time."""
    built = build(64, 32, 2, layers=2 if smoke else DEEP)

    async def fit() -> None:
        trainer = fitbus.Trainer(built.task, built.params)
        await trainer.fit(built.x, built.y, batch_size=32, epochs=1)

    return fit


def checkpointing(smoke: bool) -> Callable[[], Awaitable[object]]:
    """Training a model of millions of parameters, with a backup every tenth step."""
    built = build(64 if smoke else 1024, 32, 50, layers=3)
    trainer = fitbus.Trainer(built.task, built.params)

    async def fit() -> None:
        with tempfile.TemporaryDirectory() as folder:
            backup = BackupAndRestore(folder, save_freq=10)
            await trainer.fit(built.x, built.y, batch_size=32, epochs=1, callbacks=[backup])

    return fit


async def idle() -> None:
    """Nothing."""
    await anyio.sleep(0.2)


def main() -> None:
    """Measures all cases, interleaved."""
    options = parser(__doc__).parse_args()
    if options.smoke:
        options.pairs = 1
    cases: dict[str, Callable[[], Awaitable[object]]] = {
        "idle": idle,
        "by hand, 0.1 ms": by_hand("0.1 ms", options.smoke),
        "training, 0.1 ms, no subscriber": training("0.1 ms", 0, options.smoke),
        "training, 0.1 ms, 10 concurrent": training("0.1 ms", 10, options.smoke),
        "by hand, 1 ms": by_hand("1 ms", options.smoke),
        "training, 1 ms, no subscriber": training("1 ms", 0, options.smoke),
        "training, 1 ms, 10 concurrent": training("1 ms", 10, options.smoke),
        "compiling": compiling(options.smoke),
        "checkpointing": checkpointing(options.smoke),
    }
    found: dict[str, list[list[float]]] = {name: [] for name in cases}
    for counted in range(-1, options.pairs):
        for name, work in cases.items():
            late: list[float] = run_on(options.loop, partial(lags, work))
            if counted >= 0:
                found[name].append(late)
    rows: list[Row] = []
    for name, rounds in found.items():
        budget = 2.0 if name.startswith("training") else None
        rows += [
            Row.of(f"{name}: median", [quantile(late, 0.5) for late in rounds], "ms"),
            Row.of(f"{name}: 99 %", [quantile(late, 0.99) for late in rounds], "ms", budget),
            Row.of(f"{name}: worst", [max(late) for late in rounds], "ms"),
        ]
    show("lag of the event loop", rows, options)
    if options.smoke:
        check(rows)


if __name__ == "__main__":
    main()
