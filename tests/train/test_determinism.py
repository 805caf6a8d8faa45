"""One program, one sequence of events and one result, however fast its subscribers are."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import anyio.lowlevel
import jax
import numpy as np
import pytest

import fitbus
from fitbus import (
    BatchBegin,
    BatchEnd,
    Control,
    EpochBegin,
    EpochEnd,
    Evaluate,
    Event,
    ScaleLearningRate,
    SetHyperparameter,
    SetLearningRate,
    StopEpoch,
    StopTraining,
    TestBatchEnd,
    TestEnd,
    UpdateState,
)
from fitbus.testing import EventRecorder, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(100, 4)
X, Y = PROBLEM.x, PROBLEM.y
Slow = Callable[[], int]


def assert_same_bits(one: Any, other: Any) -> None:
    leaves = jax.tree.leaves(one)
    assert len(leaves) > 2
    for a, b in zip(leaves, jax.tree.leaves(other), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def burning(seed: int | None) -> Slow:
    """Burns the processor for a random while, up to about a millisecond; or not at all."""
    source = np.random.default_rng(seed)
    most = 0 if seed is None else 50_000
    return lambda: sum(range(source.integers(most + 1)))


def steering_by_epoch(slow: Slow) -> list[Any]:
    """Handlers that training waits for at rare events. Some of them disagree."""

    async def first(event: EpochEnd) -> list[Control]:
        slow()
        return [SetLearningRate(0.2 / (1 + event.epoch)), Evaluate()]

    async def second(event: EpochEnd) -> Control | None:
        for _ in range(slow() % 7):
            await anyio.lowlevel.checkpoint()
        return ScaleLearningRate(0.5) if event.logs["loss"] < 100 else None

    def third(event: EpochEnd) -> Control | None:
        slow()
        if event.epoch == 2:
            return StopTraining(f"loss {event.logs['val_loss']}")
        return SetHyperparameter("learning_rate", 0.05) if event.epoch == 1 else None

    async def fourth(event: TestEnd | EpochBegin) -> Control:
        slow()
        return ScaleLearningRate(0.9)

    return [first, second, third, fourth]


def steering_by_batch(slow: Slow) -> list[Any]:
    """Handlers that training waits for at each batch."""

    def shrink(event: BatchEnd) -> Control | None:
        slow()
        if event.batch == 3 and event.epoch == 1:
            return StopEpoch("enough")
        return ScaleLearningRate(0.95) if event.batch_logs["loss"] > 1 else None

    @fitbus.handler(BatchBegin, wait=True, every=3)
    async def scale(event: BatchBegin) -> Control:
        slow()
        await anyio.lowlevel.checkpoint()
        return ScaleLearningRate(1.01)

    return [shrink, scale, *steering_by_epoch(slow)]


def watching(slow: Slow) -> list[Any]:
    """Handlers that training doesn't wait for; of each way to overflow, with little room."""

    @fitbus.handler(BatchEnd, TestBatchEnd, buffer_size=2)
    async def lossless(event: BatchEnd | TestBatchEnd) -> None:
        slow()

    @fitbus.handler(Event, wait=False, overflow="drop_oldest", buffer_size=3)
    def worker(event: Event) -> None:
        slow()

    @fitbus.handler(Event, wait=False, overflow="latest")
    async def newest(event: Event) -> None:
        for _ in range(slow() % 5):
            await anyio.lowlevel.checkpoint()

    @fitbus.handler(EpochEnd, wait=False, overflow="drop_newest", buffer_size=1)
    async def rarely(event: EpochEnd) -> None:
        slow()

    return [lossless, worker, newest, rarely]


def keeping(recorder: EventRecorder, *kinds: type[Event], **options: Any) -> Any:
    """A handler that records, with options."""

    def keep(event: Event) -> None:
        recorder(event)

    return fitbus.handler(*kinds, **options)(keep)


SHARED = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
OPTIMIZER_STATE = PROBLEM.task.optimizer.init(PROBLEM.params)


def begin_anew(state: fitbus.TrainState) -> fitbus.TrainState:
    return dataclasses.replace(state, params=PROBLEM.params, opt_state=OPTIMIZER_STATE)


async def outcome(recorder: EventRecorder, *callbacks: Any) -> tuple[list[dict[str, Any]], Any]:
    """The program, from the same parameters each time.

    Returns the recorder's events without `time`, their steps counted from the first one's; and
    what was trained.
    """
    before = int(SHARED.state.step)
    run = SHARED.run(
        X,
        Y,
        batch_size=16,
        epochs=4,
        shuffle=False,  # that order depends on the step at which a fit begins
        validation_split=0.2,
        callbacks=callbacks,
        run_id="the program",
    )
    run.post(UpdateState(begin_anew))
    async with run:
        await run.wait()
    events = [{**e, "step": e["step"] - before} for e in recorder.without_time()]
    return events, (SHARED.state.params, SHARED.state.opt_state)


@pytest.mark.parametrize("steering", [steering_by_batch, steering_by_epoch], ids=["batch", "epoch"])
async def test_slow_subscribers_change_nothing(steering: Callable[[Slow], list[Any]]) -> None:
    """Neither an event, in any field but `time`, nor a bit of the parameters.

    Handlers that training waits for steer it; where they wait for epochs only, it runs ahead.
    """
    found: list[tuple[Any, Any]] = []
    for seed in (None, 1, 2):
        recorder = EventRecorder()
        keep = keeping(recorder, Event, wait=False)
        slow = burning(seed)
        found.append(await outcome(recorder, keep, *steering(slow), *watching(slow)))
    (events, trained), *others = found
    kinds = {event["type"] for event in events}
    assert {"ControlApplied", "BatchEnd", "TestBatchEnd", "TrainEnd"} <= kinds
    assert [event["seq"] for event in events] == list(range(len(events)))
    assert events[-1]["reason"] == "stopped"
    for other_events, other_trained in others:
        assert other_events == events
        assert_same_bits(other_trained, trained)


async def test_who_listens_changes_nothing() -> None:
    """The same parameters, and the same events, with their `seq`, for those who see them."""
    exact = EventRecorder()
    everything, trained = await outcome(exact, exact)
    assert [event["seq"] for event in everything] == list(range(len(everything)))
    cases: list[tuple[tuple[type[Event], ...], bool]] = [
        ((Event,), False),
        ((EpochEnd,), True),
        ((BatchEnd,), False),
        ((BatchBegin, TestBatchEnd), False),
        ((TestBatchEnd,), True),
        ((), False),
    ]
    for kinds, wait in cases:
        recorder = EventRecorder()
        listening = [keeping(recorder, *kinds, wait=wait)] if kinds else []
        events, also = await outcome(recorder, *listening)
        assert events == [everything[e.seq] for e in exact.events if isinstance(e, kinds)]
        assert_same_bits(also, trained)


async def test_other_control_is_another_result() -> None:
    """Else the tests here would prove little."""
    recorder = EventRecorder()
    first = await outcome(recorder, recorder)
    other = EventRecorder()
    second = await outcome(other, other, *steering_by_epoch(burning(None)))
    assert first[0] != second[0]
    assert first[1][0]["w"].tobytes() != second[1][0]["w"].tobytes()


PROGRAM = """
    import hashlib, warnings
    warnings.simplefilter("error")
    import anyio, jax, numpy as np, fitbus
    from fitbus import BatchEnd, EpochEnd, ScaleLearningRate, SetLearningRate
    from fitbus.testing import EventRecorder, toy_problem

    problem = toy_problem(100, 4)
    task = fitbus.Supervised(
        problem.task.apply, problem.task.loss, problem.task.optimizer,
        metrics={name: lambda p, y, n=n: (p - y) ** n for n, name in enumerate("cabed")},
    )
    recorder = EventRecorder()
    classes = {label: label + 0.5 for label in {"3": 3, "0": 0, "2": 2}.values()}

    async def watch(event: BatchEnd):
        sum(range(hash("fitbus") % 50_000))

    def steer(event: EpochEnd):
        return [SetLearningRate(0.2), ScaleLearningRate(0.5)]

    async def main():
        trainer = fitbus.Trainer(task, problem.params, seed=3)
        await trainer.fit(
            problem.x, problem.y.round(), batch_size=16, epochs=3, validation_split=0.2,
            class_weight=classes, callbacks=[recorder, watch, steer],
        )
        return trainer.state

    state = anyio.run(main)
    print("".join(str(hash(word) % 10) for word in "fitbus"))
    print(len(recorder.events), hashlib.sha256(repr(recorder.without_time()).encode()).hexdigest())
    for path, leaf in jax.tree_util.tree_leaves_with_path((state.params, state.opt_state)):
        print(jax.tree_util.keystr(path), np.asarray(leaf).tobytes().hex())
"""


@pytest.mark.slow
def test_fresh_processes_agree() -> None:
    """Whatever order sets have in them, and however slow a subscriber is; data are shuffled."""
    lines: list[list[str]] = []
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(PROGRAM)],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        lines.append(done.stdout.splitlines())
    first, second = lines
    assert first[0] != second[0]  # the seeds were heard
    assert len(first) >= 5
    assert first[1:] == second[1:]
