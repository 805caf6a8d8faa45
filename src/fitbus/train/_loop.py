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
from fitbus.train._guarding import GuardedLayout, Layout
from fitbus.train._pipeline import Pipeline
from fitbus.train._source import HostBatch
from fitbus.train._steps import zeros
from fitbus.train._watch import Watch

__all__ = ["boundary", "train_epoch"]


def boundary(engine: Engine, watch: Watch | None = None) -> None:
    """The place between two executions where controls act, and callbacks and a guard look in."""
    engine.boundary()
    if engine.rewind is not None:
        return  # the state is another place's already
    for visit in engine.preparation.boundaries:
        visit(engine)
    if watch is not None:
        watch.act()


def train_epoch(
    engine: Engine,
    feed: Feed,
    layout: Layout,
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
    pipeline, batches, watch = _begun(engine, feed, layout, before)
    engine.read = pipeline.logs
    engine.running = zeros(layout, engine.state, engine.running if engine.batch else None)
    executions.pause()
    record = engine.record
    step: Any = None
    made_for = 0
    fetch_s = 0.0
    left: Sequence[HostBatch] = ()

    while True:
        boundary(engine, watch)
        if engine.epoch_over:
            if engine.stop_epoch and engine.batch and not made_for:
                # It goes on where it was to end: for the data, as if it had been gone through.
                left = batches.take(1)
            break
        engine.activity = "waiting for a batch"
        if feed.may_block:
            pipeline.before_fetching(fetch_s)
        started = time.perf_counter()
        size = executions.size(exact=pipeline.exact)
        items = batches.take(size if record is None else record.most(size))
        fetch_s = time.perf_counter() - started
        engine.input_s += fetch_s
        if watch is not None and watch.goes_back(pipeline, waits=pipeline.exact or not items):
            continue
        if not items or engine.rewind or (len(items) < size and engine.epoch_over):
            left = items  # if there are any, a stop came while more were waited for
            break
        engine.activity = "in the train step (compiling, or running)"
        if made_for != size:
            made_for = engine.fused = size
            step = engine.train_step(items[0].batch, size)
        index, done = engine.batch, engine.updates
        exact = pipeline.exact
        if record is not None:
            exact = record.begin(exact=exact, batches=len(items))
        if exact:
            compute = partial(_computed, engine, step, items, size, batches.place)
            pipeline.around(index, done, compute, len(items))
        else:
            vector = _computed(engine, step, items, size, batches.place)
            pipeline.push(index, done + 1, vector, len(items))
        executions.done(len(items), exact=exact)
    batches.leave(left)
    logs = pipeline.logs()
    engine.pipeline = None
    return logs


def _computed(
    engine: Engine, step: Any, items: Sequence[HostBatch], size: int, place: tuple[int, int]
) -> Any:
    """Dispatches an execution of batches that reach to a place; returns its values."""
    if engine.record is not None:
        engine.record.compute(engine, len(items))
    if size == 1:
        vector = engine.advance(step, items[0].batch)
    else:
        batch = stacked([item.batch for item in items], size)
        vector = engine.advance(step, batch, sent(np.int32(len(items))), steps=len(items))
    for item in items:
        engine.examples += item.rows
    engine.batch += len(items)
    engine.place = place
    return vector


def _begun(
    engine: Engine, feed: Feed, layout: Layout, before: Mapping[str, float]
) -> tuple[Pipeline, Gathered, Watch | None]:
    """What carries the steps of an epoch, its batches, and who looks at what guarded steps say."""
    guard, watch = engine.preparation.guard, None
    keeps = guard is not None and guard.guarding.halts_after is not None
    batches = Gathered(feed, engine.batch if keeps else None)
    if guard is not None and isinstance(layout, GuardedLayout):
        watch = Watch(engine, guard, layout, batches)
        engine.preparation.acts = watch.act_on_all
    kinds = (BatchBegin, BatchEnd)
    pipeline = Pipeline(engine.publisher, layout, kinds, engine.flight, before, watch)
    engine.pipeline = pipeline
    return pipeline, batches, watch
