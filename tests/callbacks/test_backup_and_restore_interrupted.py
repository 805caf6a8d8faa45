"""`StopTraining(resumable=True)`: training stops where it is told to, and goes on from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fitbus
from fitbus import StopTraining
from fitbus.callbacks import BackupAndRestore, History
from fitbus.testing import EventRecorder, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(72, 5)


@pytest.fixture
def anyio_backend() -> str:
    """One loop is enough: all of it is decided in the training thread."""
    return "asyncio"


class Trained:
    """A training of three epochs of nine batches, from the beginning or from a backup."""

    def __init__(self) -> None:
        self.trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params, seed=3)
        self.history = History()
        self.recorder = EventRecorder()
        self.reason = ""

    async def fit(self, *callbacks: Any, fused: int = 1) -> Trained:
        def note(event: fitbus.TrainEnd) -> None:
            self.reason = event.reason

        await self.trainer.fit(
            *(PROBLEM.x, PROBLEM.y),
            batch_size=8,
            epochs=3,
            validation_split=0.1,
            steps_per_epoch=8,
            steps_per_execution=fused,
            callbacks=[*callbacks, self.history, self.recorder, note],
        )
        return self

    @property
    def seqs(self) -> dict[Any, int]:
        """The `seq` of what isn't told again."""
        kinds = (fitbus.BatchEnd, fitbus.EpochEnd, fitbus.TrainEnd)
        told = [event for event in self.recorder.events if isinstance(event, kinds)]
        return {(type(event), event.step): event.seq for event in told}

    @property
    def step(self) -> int:
        return int(self.trainer.state.step)

    def same_as(self, other: Trained) -> bool:
        mine, others = self.trainer.state.params, other.trainer.state.params
        same = all(np.array_equal(mine[name], others[name]) for name in others)
        return same and self.history.history == other.history.history


def stop_at(kind: type[fitbus.Event], time: int, **options: Any) -> Any:
    """Interrupts at the n-th event of a type."""
    seen = 0

    @fitbus.handler(kind, wait=True)
    def stop(event: fitbus.Event) -> StopTraining | None:
        nonlocal seen
        seen += 1
        return StopTraining("maintenance", resumable=True, **options) if seen == time else None

    return stop


PLACES = [
    (fitbus.BatchEnd, 1),
    (fitbus.BatchEnd, 13),
    (fitbus.BatchEnd, 16),
    (fitbus.EpochBegin, 2),
    (fitbus.TestBatchEnd, 2),
    (fitbus.EpochEnd, 2),
]


@pytest.mark.parametrize(("kind", "time"), PLACES)
@pytest.mark.parametrize("fused", [1, 3])
@pytest.mark.parametrize("save_freq", ["epoch", 5])
async def test_it_ends_as_one_that_was_never_interrupted(
    tmp_path: Path, kind: type[fitbus.Event], time: int, fused: int, save_freq: Any
) -> None:
    """Wherever it stopped: no batch comes twice, and the metrics of the epoch are of all of it."""
    whole = await Trained().fit(fused=fused)
    backup = BackupAndRestore(tmp_path / "b", save_freq)
    first = await Trained().fit(backup, stop_at(kind, time), fused=fused)
    assert first.reason == "stopped"
    assert first.step < whole.step
    begins: list[int] = []

    def begin(event: fitbus.BatchBegin) -> None:
        begins.append(event.step)

    rest = await Trained().fit(BackupAndRestore(tmp_path / "b", save_freq), begin, fused=fused)
    assert begins == list(range(first.step, whole.step))
    assert rest.same_as(whole)
    # One more was told: that the interruption acted.
    assert {seq - whole.seqs[event] for event, seq in rest.seqs.items()} == {1}
    assert rest.reason == "completed"
    assert not (tmp_path / "b").exists()


async def test_a_stop_that_means_an_end_counts_more(tmp_path: Path) -> None:
    """Whoever asks first: the training is over, and the backups go."""
    backup = BackupAndRestore(tmp_path / "b", 2)

    @fitbus.handler(fitbus.BatchEnd, wait=True)
    def also(event: fitbus.BatchEnd) -> StopTraining | None:
        return StopTraining("good enough") if event.step == 5 else None

    trained = await Trained().fit(backup, stop_at(fitbus.BatchEnd, 5), also)
    assert trained.reason == "stopped"
    assert not (tmp_path / "b").exists()


async def test_nothing_is_validated_then(tmp_path: Path) -> None:
    """It is in a hurry, and what goes on validates the whole epoch."""
    tests: list[fitbus.TestBegin] = []

    def note(event: fitbus.TestBegin) -> None:
        tests.append(event)

    await Trained().fit(stop_at(fitbus.BatchEnd, 5, validate=True), note)
    assert tests == []
