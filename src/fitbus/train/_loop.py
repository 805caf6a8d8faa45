"""The loop over the batches of an epoch: what is done once for every step."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from fitbus.events import BatchBegin, BatchEnd
from fitbus.train._context import sent
from fitbus.train._engine import Engine
from fitbus.train._executions import Executions, Gathered, stacked
from fitbus.train._feed import Feed
from fitbus.train._metrics import MetricsLayout
from fitbus.train._pipeline import Pipeline
from fitbus.train._source import HostBatch
from fitbus.train._steps import zeros

__all__ = ["boundary", "train_epoch"]


def boundary(engine: Engine) -> None:
    """The place between two executions where controls act, and callbacks look in."""
    engine.boundary()
    if engine.rewind is not None:
        return  # the state is another place's already
    for visit in engine.preparation.boundaries:
        visit(engine)


def train_epoch(
    engine: Engine,
    feed: Feed,
    layout: MetricsLayout,
    executions: Executions,
    before: Mapping[str, float],
) -> dict[str, float]:
    """Trains on the batches of an epoch.

    Args:
        engine: The live run.
        feed: Where its batches come from.
        layout: How to read the values of a step.
        executions: How many steps are fused.
        before: The logs of batches that were done before.

    Returns:
        The means over all its batches.
    """
    pipeline = engine.pipeline = Pipeline(
        engine.publisher, layout, (BatchBegin, BatchEnd), engine.flight, before
    )
    engine.read = pipeline.logs
    engine.running = zeros(layout, engine.state, engine.running if engine.batch else None)
    executions.pause()
    batches = Gathered(feed)
    step: Any = None
    made_for = 0
    fetch_s = 0.0
    left: Sequence[HostBatch] = ()

    def compute(items: Sequence[HostBatch]) -> Any:
        if made_for == 1:
            vector = engine.advance(step, items[0].batch)
        else:
            batch = stacked([item.batch for item in items], made_for)
            vector = engine.advance(step, batch, sent(np.int32(len(items))), steps=len(items))
        for item in items:
            engine.examples += item.rows
        engine.batch += len(items)
        engine.place = batches.place
        return vector

    while True:
        boundary(engine)
        if engine.epoch_over:
            break
        engine.activity = "waiting for a batch"
        if feed.may_block:
            pipeline.before_fetching(fetch_s)
        started = time.perf_counter()
        size = executions.size(exact=pipeline.exact)
        items = batches.take(size)
        fetch_s = time.perf_counter() - started
        engine.input_s += fetch_s
        if not items or engine.rewind or (len(items) < size and engine.epoch_over):
            left = items  # if there are any, a stop came while more were waited for
            break
        engine.activity = "in the train step (compiling, or running)"
        if made_for != size:
            made_for = engine.fused = size
            step = engine.train_step(items[0].batch, size)
        index, done = engine.batch, engine.updates
        exact = pipeline.exact
        if exact:
            pipeline.around(index, done, partial(compute, items), len(items))
        else:
            pipeline.push(index, done + 1, compute(items), len(items))
        executions.done(len(items), exact=exact)
    batches.leave(left)
    logs = pipeline.logs()
    engine.pipeline = None
    return logs
