"""A training whose step takes about as long as one asks for, and its times. Internal."""

from __future__ import annotations

import itertools
import math
import time
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fitbus.bus import SubscriberReport
from fitbus.errors import FitbusError
from fitbus.events import EpochBegin, EpochEnd, Event, TestBegin, TrainBegin, TrainEnd
from fitbus.train import Supervised, Trainer

__all__ = ["TimedTraining", "Times", "calibrated"]

FEATURES = 64
BATCHES = 8  # different ones; an epoch goes round them
WIDTHS = (8, 8192)
TRIES = 6


@final
class Times:
    """One fit: the times of its parts, in seconds, and what each subscriber got.

    Attributes:
        step_s: A step: from the first one of an epoch to the last, and what handlers had left to do
            when training was over.
        epoch_s: An epoch's begin and end, with its validation.
        fit_s: Begin and end of the training.
        steps: Steps that it made.
        subscribers: What each subscriber got, in the order of subscribing.
    """

    def __init__(
        self, clock: _Clock, whole_s: float, drain_s: float, found: tuple[SubscriberReport, ...]
    ) -> None:
        if not clock.steps:
            raise FitbusError(
                "the callbacks stopped training before its first step, so that there is nothing to"
                " measure; give ones that let it go on"
            )
        epochs = len(clock.first)
        stepping = sum(clock.last) - sum(clock.first)
        between = clock.end - clock.begin - stepping
        self.step_s = (stepping + drain_s) / clock.steps
        self.epoch_s = between / epochs
        self.fit_s = whole_s - stepping - between - drain_s
        self.steps = clock.steps
        self.subscribers = found


@final
class _Clock:
    """Notes when the parts of a fit begin and end.

    Handlers that take time must not move a mark to the wrong side of it: the beginning of the steps
    is noted after all others were called, and ends are what is stamped before any is.
    """

    name = "fitbus.testing.measure_overhead"

    def __init__(self) -> None:
        self.begin = self.end = 0.0
        self.first: list[float] = []
        self.last: list[float] = []
        self.steps = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, TrainBegin):
            self.steps = -event.step
        elif isinstance(event, EpochBegin):
            self.begin = self.begin or event.time
            self.first.append(time.time())
        elif isinstance(event, TrainEnd):
            self.end = event.time
            self.steps += event.step
        elif len(self.last) < len(self.first):  # validation, or without one the epoch's end
            self.last.append(event.time)


@final
class TimedTraining:
    """A network of two hidden layers, to be fitted again and again; compiled once.

    Args:
        width: Of its layers, and of its batches: a step's work grows with the cube of it.
        epochs: How many epochs a fit has.
    """

    def __init__(self, width: int, epochs: int) -> None:
        random = np.random.default_rng(0)
        self._batch = max(8, width // 2)
        rows = self._batch * BATCHES
        self._x = random.normal(size=(rows, FEATURES)).astype(np.float32)
        self._y = random.integers(0, 10, rows).astype(np.int32)
        sizes = (FEATURES, width, width, 10)
        params = [
            (random.normal(size=shape) / math.sqrt(shape[0])).astype(np.float32)
            for shape in itertools.pairwise(sizes)
        ]
        task = Supervised(
            apply=_apply,
            loss=optax.softmax_cross_entropy_with_integer_labels,
            optimizer=optax.sgd,
            learning_rate=0.001,
            metrics={"accuracy": lambda scores, y: (scores.argmax(-1) == y).astype(jnp.float32)},
        )
        self._epochs = epochs
        self._trainer = Trainer(task, params)

    async def fit(self, callbacks: Any, steps_per_epoch: int, *, validate: bool = True) -> Times:
        """Trains once, validating two batches after each epoch; or not, which compiles less."""
        started = time.perf_counter()
        run = self._trainer.run(
            self._x,
            self._y,
            batch_size=self._batch,
            epochs=self._epochs,
            steps_per_epoch=steps_per_epoch,
            validation_data=(self._x, self._y) if validate else None,
            validation_steps=2 if validate else None,
            shuffle=False,
            callbacks=callbacks,
        )
        clock = _Clock()
        kinds = (TrainBegin, EpochBegin, TestBegin, EpochEnd, TrainEnd)
        run.add(clock, *kinds, name=clock.name, wait=True)
        async with run:
            await run.wait()
        whole_s = time.perf_counter() - started
        report = run.report
        assert report is not None, "it has ended"
        found = tuple(entry for entry in report.subscribers if entry.name != clock.name)
        return Times(clock, whole_s, report.seconds, found)


def _apply(params: Any, x: Any) -> Any:
    first, second, last = params
    return jax.nn.relu(jax.nn.relu(x @ first) @ second) @ last


async def calibrated(wanted_s: float, epochs: int) -> tuple[TimedTraining, float]:
    """A training whose step takes about so many seconds here, without callbacks; and how many."""
    best: tuple[float, TimedTraining, float] | None = None
    tried: list[tuple[int, float]] = []
    width = 64
    while len(tried) < TRIES and width not in dict(tried):
        training = TimedTraining(width, epochs)
        await training.fit([], 1, validate=False)  # compiles
        steps = max(2, min(100, round(0.03 / wanted_s)))
        found_s = (await training.fit([], steps, validate=False)).step_s
        tried.append((width, found_s))
        off = abs(math.log(found_s / wanted_s))
        if best is None or off < best[0]:
            best = off, training, found_s
        if off < 0.2:
            break
        width = _next_width(tried, wanted_s)
    assert best is not None, "there is a first try"
    return best[1], best[2]


def _next_width(tried: list[tuple[int, float]], wanted_s: float) -> int:
    """From the last two tries: time is about a power of the width."""
    (width, found_s), power = tried[-1], 2.0
    if len(tried) > 1:
        before, before_s = tried[-2]
        power = min(4.0, max(1.0, math.log(found_s / before_s) / math.log(width / before)))
    guess: float = width * (wanted_s / found_s) ** (1 / power)
    return 8 * round(min(WIDTHS[1], max(WIDTHS[0], guess)) / 8)
