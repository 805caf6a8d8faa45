"""`fit(controls=...)`: a steered training is repeated bit for bit, with the same events."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
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
    Pause,
    Resume,
    ScaleLearningRate,
    SetLearningRate,
    StopEpoch,
    StopTraining,
    TestBatchBegin,
    TestBatchEnd,
    TestBegin,
    TestEnd,
    TrainBegin,
    TrainEnd,
)
from fitbus.callbacks import Journal
from fitbus.testing import toy_problem

from ._repeated import Repeats, Went, controls

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(640, 3)


@pytest.fixture(scope="module")
def repeats() -> Repeats:
    return Repeats(PROBLEM, batch_size=8, epochs=4, validation_split=0.2)


def a_control(rng: random.Random) -> Control:
    return rng.choice(
        [
            ScaleLearningRate(0.9),
            ScaleLearningRate(1.05),
            SetLearningRate(0.01 + rng.random() / 10),
            StopEpoch(),
            Evaluate(),
            Pause(),
            Resume(),
        ]
    )


async def steered(repeats: Repeats, rng: random.Random, *callbacks: Any, **options: Any) -> Went:
    """A training that a task, a thread and a concurrent handler steer at chance moments."""

    async def decide(event: BatchEnd) -> Control | None:
        return ScaleLearningRate(0.97) if rng.random() < 0.05 else None

    run, recorder = repeats.run(decide, *callbacks, **options)
    over = threading.Event()

    def from_thread() -> None:
        own = random.Random(7)  # noqa: S311  # chance, not secrets
        while not over.wait(own.random() / 200):
            run.post(a_control(own), "a thread")
            run.post(Resume(), "a thread")

    async def from_task() -> None:
        while True:
            await anyio.sleep(rng.random() / 200)
            run.post(a_control(rng), "a task")
            run.post(Resume(), "a task")

    thread = threading.Thread(target=from_thread)
    async with anyio.create_task_group() as tasks, run:
        thread.start()
        tasks.start_soon(from_task)
        try:
            await run.wait()
        finally:
            over.set()
            tasks.cancel_scope.cancel()
    thread.join()
    return repeats.told(recorder.events, await run.wait())


@pytest.mark.parametrize("fused", [1, 3])
async def test_what_came_at_chance_moments_is_repeated(
    repeats: Repeats, tmp_path: Path, fused: int
) -> None:
    """From a task, a thread, and a concurrent handler, which is there or isn't."""
    rng = random.Random(fused)  # noqa: S311  # chance, not secrets

    async def meddles(event: BatchEnd) -> Control | None:
        return SetLearningRate(0.5) if event.step % 7 == 0 else None

    options: dict[str, Any] = {"steps_per_execution": fused}
    first = await steered(repeats, rng, Journal(tmp_path / "journal"), **options)
    assert len(controls(first.recorded)) > 3
    options["controls"] = tmp_path / "journal"
    assert await repeats.went(**options) == first
    assert await repeats.went(meddles, **options) == first
    options["controls"] = first.recorded
    assert await repeats.went(**options) == first


def asynchronous(kind: type[Event], decide: Callable[[Any], Any]) -> Callable[[Any], Any]:
    async def handler(event: Event) -> Any:
        return decide(event)

    return fitbus.handler(kind, wait=True, name="decider")(handler)


def plain(kind: type[Event], decide: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def handler(event: Event) -> Any:
        return decide(event)

    return fitbus.handler(kind, wait=True, name="decider")(handler)


@pytest.mark.parametrize("made", [asynchronous, plain])
@pytest.mark.parametrize("fused", [1, 3])
@pytest.mark.parametrize(
    ("kind", "control"),
    [
        (TrainBegin, StopTraining()),
        (TrainBegin, SetLearningRate(0.05)),
        (EpochBegin, StopEpoch()),
        (EpochBegin, ScaleLearningRate(0.5)),
        (BatchBegin, SetLearningRate(0.05)),
        (BatchBegin, StopEpoch()),
        (BatchBegin, StopTraining()),
        (BatchEnd, ScaleLearningRate(0.5)),
        (BatchEnd, StopEpoch()),
        (BatchEnd, StopTraining(validate=False)),
        (TestBegin, ScaleLearningRate(0.5)),
        (TestBatchBegin, ScaleLearningRate(0.5)),
        (TestBatchEnd, ScaleLearningRate(0.5)),
        (TestBatchEnd, StopTraining(validate=False)),
        (TestEnd, StopTraining(validate=False)),
        (EpochEnd, ScaleLearningRate(0.5)),
        (EpochEnd, StopTraining(validate=False)),
    ],
)
async def test_what_a_waiting_handler_decided_acts_at_its_place(
    repeats: Repeats, tmp_path: Path, made: Any, fused: int, kind: type[Event], control: Control
) -> None:
    """At each kind of event, with the handler in the repetition and without it."""
    asked = (2, 0) if kind in (TestBatchBegin, TestBatchEnd) else (0, 0)

    def decide(event: Any) -> Control | None:
        at = 5 if kind in (BatchBegin, BatchEnd) else asked[0]
        there = event.epoch == (0 if kind is TrainBegin else 1)
        return control if there and getattr(event, "batch", at) == at else None

    options: dict[str, Any] = {"epochs": 3, "steps_per_execution": fused, "batch_size": 32}
    decider = made(kind, decide)
    first = await repeats.went(decider, Journal(tmp_path / "journal"), **options)
    assert controls(first.recorded)
    options["controls"] = tmp_path / "journal"
    again = await repeats.went(decider, **options)
    assert again == first
    assert [source for _, source in controls(again.recorded)] == ["decider"]
    without = await repeats.went(**options)
    assert (without.state, without.history) == (first.state, first.history)
    assert controls(without.recorded) == controls(first.recorded)


async def test_a_stop_from_outside_ends_a_repetition_and_a_handlers_does_not(
    repeats: Repeats, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A pause holds it, too; any other control is refused, and says why."""
    at_end = plain(EpochEnd, lambda event: ScaleLearningRate(0.5))
    await repeats.went(at_end, Journal(tmp_path / "journal"))
    stopper = plain(EpochBegin, lambda event: StopTraining("mine"))
    sent = anyio.Event()

    @fitbus.handler(EpochEnd)
    async def holds(event: EpochEnd) -> None:
        await sent.wait()

    run, _ = repeats.run(stopper, holds, controls=tmp_path / "journal")
    async with run, run.subscribe(EpochEnd) as ends:
        first = await anext(ends)
        refused, paused = run.post(SetLearningRate(0.5)), run.post(Pause())
        sent.set()
        with pytest.raises(fitbus.errors.ControlRejectedError, match="repeats a record"):
            await refused
        await paused
        assert run.status == "paused"
        await run.send(StopTraining("enough"), source="me")
        history = await run.wait()
    assert first.epoch == 0
    assert history.epoch == [0]
    assert "was stopped before all controls of its record acted" in caplog.text


async def test_a_handlers_error_still_stops_a_repetition(repeats: Repeats, tmp_path: Path) -> None:
    """`on_error="stop"` isn't steering."""
    await repeats.went(Journal(tmp_path / "journal"))

    @fitbus.handler(EpochEnd, on_error="stop")
    def fails(event: EpochEnd) -> None:
        raise ValueError("no")

    again = await repeats.went(fails, controls=tmp_path / "journal")
    end = again.recorded[-1]
    assert isinstance(end, TrainEnd)
    assert end.reason == "stopped"
    assert len(again.history["loss"]) < 4
