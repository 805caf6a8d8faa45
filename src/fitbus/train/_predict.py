"""Prediction: on its own, or quietly on a given state."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, final

import jax
import numpy as np

from fitbus.errors import InvalidArgumentError
from fitbus.events import PredictBatchBegin, PredictBatchEnd, PredictBegin, PredictEnd
from fitbus.train._context import fetched
from fitbus.train._engine import Engine
from fitbus.train._feed import Feed
from fitbus.train._source import HostBatch
from fitbus.train._state import TrainState
from fitbus.train._steps import Steps

__all__ = ["PredictJob", "predict_quietly"]

_IN_FLIGHT = 2


def predict_quietly(steps: Steps, state: TrainState, batches: Iterator[HostBatch]) -> Any:
    """Predicts with a state without an event. Any thread that may use the state."""
    outputs: list[Any] = []
    out: deque[tuple[Any, int]] = deque()
    for item in batches:
        out.append((steps.predict(state, item.batch), item.rows))
        if len(out) > _IN_FLIGHT:
            outputs.append(_fetch(*out.popleft()))
    outputs += [_fetch(*entry) for entry in out]
    return _joined(outputs)


@final
class PredictJob:
    """`Trainer.predict`: a run of its own.

    Args:
        feed: The data.
    """

    kind = "predict"

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self.feeds = (feed,)
        self.steps = feed.steps

    def main(self, engine: Engine) -> Any:
        """Does it, in the training thread."""
        publisher = engine.publisher
        engine.boundary()
        if engine.stopping:
            return None
        engine.stop_evaluation = False
        engine.activity = "in a handler of PredictBegin"
        publisher.barrier(PredictBegin())
        engine.boundary()
        pipeline = _Outputs(engine)
        engine.pipeline = pipeline
        batches = self._feed.epoch()
        index = 0
        while not engine.stopping:
            engine.activity = "waiting for a batch to predict"
            item = next(batches, None)
            if item is None:
                break
            engine.activity = "in the predict step (compiling, or running)"
            if publisher.waits(PredictBatchBegin) or publisher.waits(PredictBatchEnd):
                pipeline.around(index, item)
            else:
                pipeline.push(index, item)
            index += 1
            engine.boundary()
            if engine.stop_evaluation:
                break
        pipeline.settle()
        engine.pipeline = None
        publisher.barrier(PredictEnd())
        return _joined(pipeline.outputs)

    def end(self, engine: Engine, reason: str, detail: str) -> None:
        """Publishes nothing more: `PredictEnd` belongs to predictions that ended well."""


@final
class _Outputs:
    """The batches of a prediction, a few of them in flight."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._publisher = engine.publisher
        self._out: deque[tuple[int, Any, int]] = deque()
        self.outputs: list[Any] = []

    def push(self, index: int, item: HostBatch) -> None:
        self._out.append((index, self._compute(item), item.rows))
        if len(self._out) > _IN_FLIGHT:
            self._land()

    def around(self, index: int, item: HostBatch) -> None:
        self.settle()
        self._publisher.barrier(PredictBatchBegin(batch=index))
        self.outputs.append(_fetch(self._compute(item), item.rows))
        self._publisher.barrier(PredictBatchEnd(batch=index, outputs=self.outputs[-1]))

    def settle(self) -> None:
        while self._out:
            self._land()

    def _compute(self, item: HostBatch) -> Any:
        return self._engine.steps.predict(self._engine.state, item.batch)

    def _land(self) -> None:
        index, device, real = self._out.popleft()
        self.outputs.append(_fetch(device, real))
        self._publisher.publish(PredictBatchBegin(batch=index))
        self._publisher.publish(PredictBatchEnd(batch=index, outputs=self.outputs[-1]))


def _fetch(outputs: Any, real: int) -> Any:
    def fetch(leaf: Any) -> Any:
        array = fetched(leaf)
        if not array.shape or len(array) < real:
            raise InvalidArgumentError(
                "predict_step",
                array.shape,
                f"return arrays with a row for each example, of shape ({real}, ...)",
            )
        return array[:real]

    return jax.tree.map(fetch, outputs)


def _joined(outputs: list[Any]) -> Any:
    if not outputs:
        return None
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *outputs)
