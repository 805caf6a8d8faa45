"""Trainings that callbacks steer, repeated with these callbacks and without them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fitbus
from fitbus import (
    BatchEnd,
    Control,
    ControlApplied,
    EpochEnd,
    Event,
    RestoreCheckpoint,
    SaveCheckpoint,
    ScaleLearningRate,
    SetLearningRate,
    StopTraining,
    TestBatchEnd,
    UpdateState,
)
from fitbus.callbacks import (
    BackupAndRestore,
    EarlyStopping,
    Guard,
    Journal,
    LearningRateScheduler,
    ReduceLROnPlateau,
)
from fitbus.errors import ControlRejectedError, FitbusError
from fitbus.testing import toy_problem

from ._repeated import Repeats, controls

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(128, 3)
OPTIONS: dict[str, Any] = {"batch_size": 16, "epochs": 6, "validation_split": 0.25}


@pytest.fixture
def anyio_backend() -> str:
    """One loop is enough: all of it is decided in the training thread."""
    return "asyncio"


@pytest.fixture(scope="module")
def repeats() -> Repeats:
    return Repeats(PROBLEM, **OPTIONS)


def stopping() -> list[Any]:
    return [EarlyStopping(patience=1, min_delta=0.05)]


def plateau() -> list[Any]:
    return [ReduceLROnPlateau(patience=1, min_delta=0.05, factor=0.5), *stopping()]


def schedule() -> list[Any]:
    return [LearningRateScheduler(lambda epoch, rate: rate * 0.7)]


@pytest.mark.parametrize("callbacks", [stopping, plateau, schedule])
async def test_what_callbacks_decided_is_repeated_without_them(
    repeats: Repeats, tmp_path: Path, callbacks: Callable[[], list[Any]]
) -> None:
    first = await repeats.went(*callbacks(), Journal(tmp_path / "journal"))
    assert controls(first.recorded)
    for again in ([], callbacks()):
        found = await repeats.went(*again, controls=tmp_path / "journal")
        assert found.state == first.state
        assert controls(found.recorded) == controls(first.recorded)
        assert found.history["loss"] == first.history["loss"]
        assert not again or found == first


def best_weights() -> list[Any]:
    return [EarlyStopping(patience=2, min_delta=0.05, restore_best_weights=True)]


def own_weights() -> list[Any]:
    class Halves(fitbus.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.set_weights([0.5 * weight for weight in self.model.get_weights()])

    return [Halves()]


@pytest.mark.parametrize("callbacks", [best_weights, own_weights])
async def test_a_change_that_no_file_can_hold_needs_the_callback_that_made_it(
    repeats: Repeats, tmp_path: Path, callbacks: Callable[[], list[Any]]
) -> None:
    """With it, it is repeated; from events in memory, without it, too."""
    first = await repeats.went(*callbacks(), Journal(tmp_path / "journal"))
    assert any(
        isinstance(event, ControlApplied) and isinstance(event.control, UpdateState)
        for event in first.recorded
    )
    again = await repeats.went(*callbacks(), controls=tmp_path / "journal")
    assert (again.state, again.history) == (first.state, first.history)
    with pytest.raises(FitbusError, match=r"UpdateState .*give `fit` the same callback"):
        await repeats.went(controls=tmp_path / "journal")


async def test_events_in_memory_hold_what_no_file_can(repeats: Repeats) -> None:
    def double(state: fitbus.TrainState) -> fitbus.TrainState:
        params = {name: 2 * leaf for name, leaf in state.params.items()}
        return dataclasses.replace(state, params=params)

    @fitbus.handler(BatchEnd, every=5)
    def doubles(event: BatchEnd) -> Control:
        return UpdateState(double)

    first = await repeats.went(doubles)
    again = await repeats.went(controls=first.recorded)
    assert (again.state, again.history) == (first.state, first.history)


@pytest.mark.parametrize("fused", [1, 3])
@pytest.mark.parametrize("kind", [BatchEnd, TestBatchEnd, EpochEnd])
async def test_going_back_to_a_checkpoint_is_repeated(
    repeats: Repeats, tmp_path: Path, fused: int, kind: type[Event]
) -> None:
    """From the middle of an epoch or a validation, or its end; the steps come again."""
    went_back = False

    @fitbus.handler(BatchEnd, wait=True, name="steers")
    def steers(event: BatchEnd) -> Control | None:
        if event.step == 3:
            return SaveCheckpoint("early")
        return ScaleLearningRate(0.5) if event.step == 9 else None

    @fitbus.handler(kind, wait=True, name="back")
    def back(event: Any) -> list[Control]:
        nonlocal went_back
        if went_back or event.epoch != 2 or getattr(event, "batch", 1) != 1:
            return []
        went_back = True
        return [RestoreCheckpoint("early"), SetLearningRate(0.02)]

    options: dict[str, Any] = {"steps_per_execution": fused}
    first = await repeats.went(
        *(BackupAndRestore(tmp_path / "one"), steers, back),
        Journal(tmp_path / "journal"),
        **options,
    )
    acted = [e.control for e in first.recorded if isinstance(e, ControlApplied)]
    assert [type(control) for control in acted] == [
        *(SaveCheckpoint, ScaleLearningRate, RestoreCheckpoint, SetLearningRate),
        ScaleLearningRate,
    ]
    again = await repeats.went(
        BackupAndRestore(tmp_path / "two"), controls=tmp_path / "journal", **options
    )
    assert (again.state, again.history) == (first.state, first.history)
    assert controls(again.recorded) == controls(first.recorded)


@pytest.mark.parametrize("fused", [1, 3])
@pytest.mark.parametrize("limit", [1, 5])
async def test_a_guard_goes_back_where_it_did(
    repeats: Repeats, tmp_path: Path, fused: int, limit: int
) -> None:
    x = PROBLEM.x.copy()
    x[40, 1] = x[70, 0] = np.nan

    def guard() -> Guard:
        return Guard(
            "rollback", snapshot_every=2, scale_learning_rate=0.5, limit=limit, metrics=["loss"]
        )

    def slower(event: BatchEnd) -> Control | None:
        return ScaleLearningRate(0.9) if event.batch == 2 else None

    async def concurrently(event: BatchEnd) -> Control | None:
        return slower(event)

    options: dict[str, Any] = {
        "steps_per_execution": fused,
        "data": (x, PROBLEM.y),
        "shuffle": False,
        "validation_split": 0.0,
        "epochs": 3,
    }
    first = await repeats.went(guard(), concurrently, Journal(tmp_path / "journal"), **options)
    assert "Guard" in {source for _, source in controls(first.recorded)}
    again = await repeats.went(guard(), controls=tmp_path / "journal", **options)
    assert again == first


async def test_what_was_interrupted_and_went_on_is_repeated_as_one(
    repeats: Repeats, tmp_path: Path
) -> None:
    """The stop that interrupted it is none of the training's."""

    @fitbus.handler(EpochEnd)
    def slower(event: EpochEnd) -> Control:
        return ScaleLearningRate(0.8)

    @fitbus.handler(BatchEnd, wait=True)
    def interrupts(event: BatchEnd) -> Control | None:
        return StopTraining("for now", resumable=True) if event.step == 20 else None

    def kept() -> list[Any]:
        return [BackupAndRestore(tmp_path / "backup"), slower, Journal(tmp_path / "journal")]

    await repeats.went(*kept(), interrupts)
    first = await repeats.went(*kept())
    again = await repeats.went(controls=tmp_path / "journal")
    assert (again.state, again.history) == (first.state, first.history)
    undisturbed = await repeats.went(slower)
    assert again == undisturbed


async def test_a_repetition_goes_on_from_no_backup(repeats: Repeats, tmp_path: Path) -> None:
    """What acted before it would act twice, or never."""
    await repeats.went(Journal(tmp_path / "journal"))

    @fitbus.handler(BatchEnd, wait=True)
    def interrupts(event: BatchEnd) -> Control | None:
        return StopTraining("for now", resumable=True) if event.step == 20 else None

    await repeats.went(BackupAndRestore(tmp_path / "backup"), interrupts)
    with pytest.raises(FitbusError, match="begins at its beginning, and a callback found a backup"):
        await repeats.went(BackupAndRestore(tmp_path / "backup"), controls=tmp_path / "journal")


async def test_a_callback_that_has_to_act_and_isnt_in_the_record_says_so(
    repeats: Repeats, tmp_path: Path
) -> None:
    await repeats.went(Journal(tmp_path / "journal"))
    with pytest.raises(ControlRejectedError, match=re.escape("`controls=` of fit")):
        await repeats.went(*schedule(), controls=tmp_path / "journal")
