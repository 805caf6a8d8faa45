"""A stop is decided about again: what goes on ends where an undisturbed training is stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fitbus
from fitbus import BatchEnd, TestBegin, TrainEnd
from fitbus.callbacks import BackupAndRestore, EarlyStopping, Timer

from ._interrupted import TRAINER, Interrupted, X, Y, names, new_trainer
from ._numbers import bits

pytestmark = pytest.mark.anyio

OPTIONS: Any = {"batch_size": 8, "epochs": 6, "validation_data": (X[:9], Y[:9])}


async def fit(*callbacks: Any) -> tuple[fitbus.History, list[bytes]]:
    history = await new_trainer().fit(X, Y, callbacks=callbacks, **OPTIONS)
    return history, bits(TRAINER.state)


def fail_at(kind: Any, step: int) -> Any:
    """Fails once: at the first event of a kind at a step or later."""

    @fitbus.handler(kind, wait=True)
    def fail(event: Any) -> None:
        if event.step >= step:
            raise Interrupted

    return fail


def early() -> EarlyStopping:
    return EarlyStopping("loss", patience=2, min_delta=1e9)


def at_end() -> Timer:
    return Timer(max_steps=10)


@pytest.mark.parametrize("save_freq", ["epoch", 1, 4])
@pytest.mark.parametrize("make", [early, at_end])
async def test_a_training_that_was_stopped_when_its_end_failed(
    tmp_path: Path, make: Any, save_freq: Any
) -> None:
    """No epoch is trained beyond the one that early stopping ended with."""
    expected, parameters = await fit(make())
    assert len(expected.epoch) in (2, 3)
    with pytest.raises(Interrupted):
        await fit(BackupAndRestore(tmp_path, save_freq), make(), fail_at(TrainEnd, 0))
    found, again = await fit(BackupAndRestore(tmp_path, save_freq), make())
    assert (found.epoch, found.history) == (expected.epoch, expected.history)
    assert again == parameters


@pytest.mark.parametrize("control", [fitbus.StopTraining("enough"), fitbus.StopEpoch("enough")])
@pytest.mark.parametrize("save_freq", ["epoch", 1, 4])
async def test_a_stop_within_an_epoch_when_the_validation_after_it_failed(
    tmp_path: Path, control: fitbus.Control, save_freq: Any
) -> None:
    """The epoch ends at the same batch as before."""

    @fitbus.handler(BatchEnd, wait=True)
    def stop(event: BatchEnd) -> fitbus.Control | None:
        return control if event.step == 7 else None

    expected, parameters = await fit(stop)
    with pytest.raises(Interrupted):
        await fit(BackupAndRestore(tmp_path, save_freq), stop, fail_at(TestBegin, 7))
    found, again = await fit(BackupAndRestore(tmp_path, save_freq), stop)
    assert (found.epoch, found.history) == (expected.epoch, expected.history)
    assert again == parameters


async def test_after_an_epoch_that_was_stopped_backups_are_taken_again(tmp_path: Path) -> None:
    """At its end already."""

    @fitbus.handler(BatchEnd, wait=True)
    def stop(event: BatchEnd) -> fitbus.StopEpoch | None:
        return fitbus.StopEpoch("enough") if event.step == 2 else None

    with pytest.raises(Interrupted):
        await fit(BackupAndRestore(tmp_path), stop, fail_at(BatchEnd, 3))
    assert names(tmp_path) == ["backup-1"]


async def test_the_same_fit_again_trains_no_further(tmp_path: Path) -> None:
    """Kept backups don't let a training creep past its stop, an epoch at each call."""
    for _ in range(3):
        backup = BackupAndRestore(tmp_path, delete_checkpoint=False)
        history, _ = await fit(backup, early())
        assert history.epoch == [0, 1, 2]
