"""What it costs a training to lose nothing: backups, the journal, JSON lines.

Each ratio is to the same `fit` without them, from the beginning of its epoch to the end of it; what
is still to be written then, before `fit` returns, has a row of its own. Backups are taken every
1,000 steps. `a handler that keeps nothing` is a `batched` one in a thread that gets every event, as
the journal does, and writes none: what is left between the two is the writing. The last table is of
a state of 48 MB, most of which the steps only hand on, so that they are as short as before.

*held by a backup* is how long the training thread is in a backup, which is looked at from the
boundaries right before and right after it. *by hand* is the least that there is to wait for: the
steps in flight, and a copy of the state to the host.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from _harness import Row, check, interleaved, parser, ratios, run_on, show
from _model import SIZES, build

import fitbus
from fitbus import Callback
from fitbus.callbacks import BackupAndRestore, Journal, JSONLogger
from fitbus.train import Engine, TrainState, on_host

NONE = "no callback"
EVERY = 1000  # steps
STEPS = {"0.1 ms": 6_300, "1 ms": 2_300}  # the last backup is written within the epoch, too
MB = 48
# By case, how much it may be at steps of 1 ms and more.
RATIOS: dict[str, float | None] = {
    "backup": 1.02,
    "a handler that keeps nothing": None,
    "journal": 1.05,
    "journal and backup": 1.05,
    "JSONLogger": None,
    "JSONLogger, each 100th batch": None,
}
AT_MOST_HELD = 1.1

Made = Callable[[], list[Any]]


class Looking(Callback):
    """Notes the time at each boundary: one before the others, and one after them."""

    adds_logs: ClassVar[bool | frozenset[str]] = False

    def __init__(self) -> None:
        self.times: list[tuple[int, float]] = []

    def attach(self, run: Any) -> None:
        """Asks to be called there."""
        super().attach(run)
        run.preparation.boundaries.append(self._note)

    def _note(self, engine: Engine) -> None:
        self.times.append((engine.updates, time.perf_counter()))


class ByHand(Callback):
    """Copies the state to the host, and keeps the copy until the next one."""

    adds_logs: ClassVar[bool | frozenset[str]] = False

    def __init__(self, every: int) -> None:
        self._every = every
        self._begin: int | None = None
        self._kept: TrainState | None = None

    def attach(self, run: Any) -> None:
        """Asks to be called at boundaries."""
        super().attach(run)
        run.preparation.boundaries.append(self._copy)

    def _copy(self, engine: Engine) -> None:
        if self._begin is None:
            self._begin = engine.updates
        elif engine.updates > self._begin and not (engine.updates - self._begin) % self._every:
            engine.settle()
            self._kept = on_host(engine.state)


class Measured:
    """Trains with what is given, and takes the time.

    Args:
        trainer: The trainer, and
        data: the arguments of its `fit`.
        every: How many steps lie between two backups.
        loop: The event loop.

    Attributes:
        held: By name, seconds of each copy or backup, the last one of a training left out.
        after: By name, seconds from the end of the epoch until `fit` returned.
    """

    def __init__(self, trainer: fitbus.Trainer, data: Any, every: int, loop: str) -> None:
        self._trainer = trainer
        self._data = data
        self._every = every
        self._loop = loop
        self.held: dict[str, list[float]] = {}
        self.after: dict[str, list[float]] = {}

    def case(self, name: str, make: Made) -> Callable[[], float]:
        """A training of one epoch; gives its seconds."""
        return lambda: float(run_on(self._loop, lambda: self._run(name, make())))

    def holding(self, name: str, make: Made) -> Callable[[], float]:
        """The same, and looks at what it is held by."""

        async def main() -> float:
            before, after = Looking(), Looking()
            seconds = await self._run(name, [before, *make(), after])
            steps = [
                end - begin
                for (update, begin), (_, end) in zip(before.times, after.times, strict=True)
                if update > before.times[0][0] and not (update - before.times[0][0]) % self._every
            ]
            self.held.setdefault(name, []).append(statistics.median(steps))
            return seconds

        return lambda: float(run_on(self._loop, main))

    async def _run(self, name: str, callbacks: Sequence[Any]) -> float:
        times: list[float] = []
        run = self._trainer.run(**self._data, callbacks=callbacks)
        run.add(lambda event: times.append(time.perf_counter()), fitbus.EpochBegin)
        run.add(lambda event: times.append(time.perf_counter()), fitbus.EpochEnd)
        async with run:
            await run.wait()
        self.after.setdefault(name, []).append(time.perf_counter() - times[1])
        return times[1] - times[0]


def nothing() -> Any:
    """A handler that gets every event in a thread, and keeps none."""

    @fitbus.handler(fitbus.Event, wait=False, batched=True)
    def keep(events: Sequence[fitbus.Event]) -> None:
        pass

    return keep


def cases(directory: Path, every: int) -> dict[str, Made]:
    """Which callbacks each row has."""

    def backup() -> BackupAndRestore:
        return BackupAndRestore(directory / "backups", every)

    def journal() -> Journal:
        return Journal(directory / "journal")

    lines = directory / "lines.jsonl"
    return {
        NONE: list,
        "backup": lambda: [backup()],
        "a handler that keeps nothing": lambda: [nothing()],
        "journal": lambda: [journal()],
        "journal and backup": lambda: [journal(), backup()],
        "JSONLogger": lambda: [JSONLogger(lines)],
        "JSONLogger, each 100th batch": lambda: [JSONLogger(lines, every=100)],
    }


def with_more(state: TrainState, megabytes: int) -> TrainState:
    """The state with so much more in it, in leaves of 4 MB."""
    leaf = np.zeros((1024, 1024), np.float32)
    return TrainState(
        state.step,
        state.params,
        state.opt_state,
        state.key,
        [leaf + i for i in range(megabytes // 4)],
    )


def measure(size: str, megabytes: int, directory: Path, options: argparse.Namespace) -> None:
    """Prints the table of a size of step, and of a state with so much more in it."""
    width, batch, _ = SIZES[size]
    steps, every = (100, 40) if options.smoke else (STEPS[size], EVERY)
    built = build(width, batch, steps)
    trainer = fitbus.Trainer(built.task, built.params)
    if megabytes:
        trainer = fitbus.Trainer(built.task, with_more(trainer.state, megabytes))
    data = {"x": built.x, "y": built.y, "batch_size": batch, "shuffle": False}
    measured = Measured(trainer, {**data, "steps_per_epoch": steps}, every, options.loop)
    made = cases(directory, every)
    chosen = [n for n in made if n in (NONE, "backup") or not megabytes]
    seconds = interleaved({name: measured.case(name, made[name]) for name in chosen}, options.pairs)
    rows = [Row.of(f"{NONE}, a step", [s / steps * 1e3 for s in seconds[NONE]], "ms")]
    for name in chosen[1:]:
        budget = None if size == "0.1 ms" or megabytes else RATIOS[name]
        rows.append(Row.of(f"{name} / {NONE}", ratios(seconds, name, NONE), "x", budget))
    for name in chosen:
        after = [s * 1e3 for s in measured.after[name][1:]]
        rows.append(Row.of(f"{name}, from the epoch's end to that of fit", after, "ms"))

    found = interleaved(
        {
            "by hand": measured.holding("by hand", lambda: [ByHand(every)]),
            "backup": measured.holding("backup", made["backup"]),
        },
        options.pairs,
    )
    assert found
    by_hand, backup = (measured.held[name][1:] for name in ("by hand", "backup"))
    rows += [
        Row.of("held by a copy by hand", [s * 1e3 for s in by_hand], "ms"),
        Row.of("held by a backup", [s * 1e3 for s in backup], "ms"),
        Row.of(
            "held by a backup / by hand",
            [a / b for a, b in zip(backup, by_hand, strict=True)],
            "x",
            AT_MOST_HELD if megabytes else None,
        ),
    ]
    more = f", {megabytes} MB more" if megabytes else ""
    show(f"durability at steps of about {size}{more} on {_device()}", rows, options)
    if options.smoke:
        check(rows)


def _device() -> str:
    return str(jax.devices()[0].device_kind)


def main() -> None:
    """Measures all sizes."""
    arguments = parser(__doc__)
    arguments.add_argument("--size", choices=list(STEPS), action="append")
    arguments.add_argument("--directory", type=Path, help="where to write: on which disk")
    arguments.add_argument("--more", type=int, action="append", help="megabytes more of state")
    options = arguments.parse_args()
    sizes = options.size or list(STEPS)
    if options.smoke:
        options.pairs, sizes = 1, ["0.1 ms"]
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        for size in sizes:
            for megabytes in options.more or ([0, MB] if size == sizes[-1] else [0]):
                measure(size, megabytes, Path(directory), options)


if __name__ == "__main__":
    main()
