"""Averages in place when a training fails, is cancelled, or goes on from a backup."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import fitbus
from fitbus import EpochBegin, EpochEnd, TestBegin
from fitbus.callbacks import BackupAndRestore, Callback, EarlyStopping, Logs
from fitbus.testing import Gate

from ._averaging import TRAINER, X, Y, called, debiased, put, swap, w

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("on_epoch", [False, True])
async def test_after_an_error_the_parameters_are_back(on_epoch: bool) -> None:
    """In a validation, or with averages in place between two epochs."""

    def fail(event: fitbus.Event) -> None:
        raise ValueError("no more")

    handler = fitbus.handler(EpochEnd if on_epoch else fitbus.TestBatchEnd)(fail)
    with pytest.raises(ValueError, match="no more"):
        await TRAINER.fit(
            X,
            Y,
            batch_size=8,
            validation_data=(X, Y),
            callbacks=[swap(swap_on_epoch=on_epoch), handler],
        )
    assert w(TRAINER.state) != debiased(TRAINER.state)


@pytest.mark.parametrize("call", ["evaluate", "predict", "fit"])
async def test_after_an_error_of_the_data_they_are_back(call: str) -> None:
    def batches() -> Any:
        yield (X[:8], Y[:8])
        raise OSError("gone")

    await TRAINER.fit(X, Y, batch_size=8)
    own = w(TRAINER.state)
    with pytest.raises(OSError, match="gone"):
        await called(TRAINER, call, [swap()], batches)
    if call == "fit":
        assert w(TRAINER.state) != debiased(TRAINER.state)
    else:
        assert w(TRAINER.state) == own


@pytest.mark.parametrize("call", ["evaluate", "predict", "fit"])
async def test_after_a_cancellation_they_are_back(call: str) -> None:
    """While the averages are in place, at a batch of the test."""
    gate = Gate()
    kinds = (fitbus.TestBatchEnd, fitbus.PredictBatchEnd)

    @fitbus.handler(*kinds, wait=True)
    async def hold(event: fitbus.Event) -> None:
        await gate.pass_async()

    await TRAINER.fit(X, Y, batch_size=8)
    own = w(TRAINER.state)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(called, TRAINER, call, [swap(), hold])
        await gate.wait_arrived()
        tasks.cancel_scope.cancel()
        gate.open()
    if call == "fit":
        assert w(TRAINER.state) != debiased(TRAINER.state)
    else:
        assert w(TRAINER.state) == own


async def test_what_another_callback_puts_back_at_the_end_of_a_failed_training_stays() -> None:
    """The parameters are back before the end is told, so that best weights aren't overwritten."""
    weights: list[Any] = []

    class Keep(Callback):
        def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
            if epoch == 0:
                weights.append(self.model.get_weights())

    def fail(event: TestBegin) -> None:
        if event.epoch == 1:
            raise ValueError("no more")

    best = EarlyStopping("val_loss", restore_best_weights=True)
    with pytest.raises(ValueError, match="no more"):
        await TRAINER.fit(
            X,
            Y,
            batch_size=8,
            epochs=3,
            validation_data=(X, Y),
            callbacks=[Keep(), best, swap(), fail],
        )
    assert w(TRAINER.state) == weights[0][1].tobytes()


async def test_a_training_goes_on_from_a_backup_with_the_averages_in_place(tmp_path: Any) -> None:
    """The backup at the end of an epoch has the parameters too: the end is the same bit for bit."""

    def fail(event: EpochBegin) -> None:
        if event.epoch == 2:
            raise ValueError("interrupted")

    options: Any = {"batch_size": 8, "epochs": 3}
    begin = TRAINER.state
    await TRAINER.fit(X, Y, callbacks=[swap(swap_on_epoch=True)], **options)
    plain = TRAINER.state
    backup = [BackupAndRestore(tmp_path / "backup"), swap(swap_on_epoch=True)]
    with pytest.raises(ValueError, match="interrupted"):
        await put(TRAINER, begin).fit(X, Y, callbacks=[*backup, fail], **options)
    backup = [swap(swap_on_epoch=True), BackupAndRestore(tmp_path / "backup")]
    await put(TRAINER, begin).fit(X, Y, callbacks=backup, **options)
    assert w(TRAINER.state) == w(plain)
    assert debiased(TRAINER.state) == debiased(plain)
