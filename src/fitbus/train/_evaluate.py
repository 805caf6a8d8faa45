"""Evaluation: inside `fit`, on its own, or quietly on a given state."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any, final

import jax

from fitbus.control import Evaluate
from fitbus.errors import ControlRejectedError, DataError
from fitbus.events import TestBatchBegin, TestBatchEnd, TestBegin, TestEnd
from fitbus.train._engine import Engine
from fitbus.train._feed import Feed
from fitbus.train._metrics import MetricsLayout
from fitbus.train._pipeline import Pipeline
from fitbus.train._source import HostBatch
from fitbus.train._state import TrainState
from fitbus.train._steps import Steps, zeros
from fitbus.train._task import Batch

__all__ = ["CalledOff", "EvaluateJob", "all_of", "evaluate", "evaluate_quietly"]

_KINDS = (TestBatchBegin, TestBatchEnd)
_IN_FLIGHT = 16
_PATIENCE_S = 2.0


@final
class CalledOff:
    """Whether a batch of an evaluation isn't waited for any more, because of a stop.

    A stop ends an evaluation `alone` at once. Inside `fit` it lets the validation finish with
    batches at hand, and calls off the wait for one that doesn't come: at once if it leaves out
    validation, and else after two seconds, in case a source is slow.
    """

    def __init__(self, engine: Engine, *, alone: bool) -> None:
        self._engine = engine
        self._alone = alone
        self._since: float | None = None

    def begin(self) -> None:
        """Notes that another wait begins."""
        self._since = None

    def __call__(self) -> bool:
        """Looked at again and again during a wait."""
        stops = self._engine.stops
        if not stops:
            return False
        if self._alone or not all(stop.validate for stop in stops):
            return True
        if self._since is None:
            self._since = time.monotonic()
        return time.monotonic() - self._since > _PATIENCE_S


def evaluate(engine: Engine, feed: Feed, *, alone: bool) -> dict[str, float]:
    """Evaluates the engine's state, with all events.

    Args:
        engine: The live run.
        feed: The data.
        alone: Whether a stop ends it; inside `fit` validation is finished first, unless its
            source stalls (see `CalledOff`).

    Returns:
        The means over all examples; none of a validation that was called off.
    """
    publisher = engine.publisher
    engine.stop_evaluation = False
    engine.called_off = called_off = CalledOff(engine, alone=alone)
    engine.activity = "in a handler of TestBegin"
    engine.barrier(TestBegin())
    engine.boundary()
    logs: dict[str, float] = {}
    pipeline: Pipeline | None = None
    running: Any = None
    step: Any = None
    record = engine.record

    def compute(batch: Batch) -> Any:
        nonlocal running
        if record is not None:
            record.compute(engine, 1)
        running, vector = step(engine.state, running, batch)
        return vector

    batches = feed.epoch()
    index = 0
    while not (alone and engine.stopping):
        called_off.begin()
        engine.activity = "waiting for a batch to evaluate"
        item = next(batches, None)
        if item is None:
            break
        engine.activity = "in the eval step (compiling, or running)"
        if pipeline is None:
            layout = engine.steps.eval_layout(engine.state, item.batch)
            pipeline = engine.pipeline = Pipeline(publisher, layout, _KINDS, engine.flight)
            running = zeros(layout, engine.state)
            step = engine.steps.evaluate(engine.state, item.batch)
        exact = pipeline.exact if record is None else record.begin(exact=pipeline.exact)
        if exact:
            pipeline.around(index, engine.updates, partial(compute, item.batch))
        else:
            pipeline.push(index, engine.updates, compute(item.batch))
        index += 1
        engine.boundary()
        if engine.stop_evaluation:
            break
    if pipeline is not None:
        logs = pipeline.logs()
        engine.pipeline = None
    if feed.called_off and not alone:
        logs = {}
    engine.activity = "in a handler of TestEnd"
    engine.barrier(TestEnd(logs=logs))
    return logs


def evaluate_quietly(
    steps: Steps, state: TrainState, batches: Iterator[HostBatch]
) -> dict[str, float]:
    """Evaluates a state without an event. Any thread that may use the state."""
    layout: MetricsLayout | None = None
    running: Any = None
    vector: Any = None
    for index, item in enumerate(batches):
        step = steps.evaluate(state, item.batch)
        if layout is None:
            layout = steps.eval_layout(state, item.batch)
            running = zeros(layout, state)
        running, vector = step(state, running, item.batch)
        if index % _IN_FLIGHT == _IN_FLIGHT - 1:
            jax.block_until_ready(vector)
    if layout is None:
        raise DataError("x", "it gave no batch to evaluate")
    return layout.read(vector)[0]


def all_of(feed: Feed) -> Iterator[HostBatch]:
    """The batches of a validation that is asked for; raises if a stop calls it off."""
    yield from feed.epoch()
    if feed.called_off:
        raise ControlRejectedError(Evaluate(), "a stop came while the validation data stalled")


@final
class EvaluateJob:
    """`Trainer.evaluate`: a run of its own.

    Args:
        feed: The data.
    """

    kind = "evaluate"

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self.feeds = (feed,)
        self.steps = feed.steps

    def main(self, engine: Engine) -> dict[str, float]:
        """Does it, in the training thread."""
        engine.boundary()
        if engine.stopping:
            return {}
        return evaluate(engine, self._feed, alone=True)

    def end(self, engine: Engine, reason: str, detail: str) -> None:
        """Publishes nothing more: `TestEnd` belongs to evaluations that ended well."""
