"""Within an epoch that is gone on with, what its beginning set isn't set a second time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import fitbus
from fitbus import BatchEnd
from fitbus.callbacks import (
    BackupAndRestore,
    Callback,
    LearningRateScheduler,
    Logs,
    ParamScheduler,
)

from ._interrupted import TRAINER, Interrupted, X, Y, fail_after, new_trainer
from ._numbers import bits

pytestmark = pytest.mark.anyio

OPTIONS: Any = {"batch_size": 8, "epochs": 3}


async def fit(*callbacks: Any) -> fitbus.History:
    return await new_trainer().fit(X, Y, callbacks=callbacks, **OPTIONS)


def halving() -> LearningRateScheduler:
    return LearningRateScheduler(lambda epoch, rate: rate / 2)


def by_epoch() -> ParamScheduler:
    return ParamScheduler("learning_rate", {0: 0.1, 1: 0.02}, by="epoch")


def by_step() -> ParamScheduler:
    return ParamScheduler("learning_rate", {0: 0.1, 6: 0.02})


@fitbus.handler(BatchEnd, wait=True)
def steer(event: BatchEnd) -> fitbus.SetHyperparameter | None:
    """Somebody sets the rate by hand, after the scheduler and before the interruption."""
    return fitbus.SetHyperparameter("learning_rate", 0.003) if event.step == 7 else None


@pytest.mark.parametrize("after", [9, 7], ids=["within an epoch", "near its beginning"])
@pytest.mark.parametrize("make", [halving, by_epoch, by_step])
async def test_a_scheduler_that_acts_when_an_epoch_begins_acts_once(
    tmp_path: Path, make: Any, after: int
) -> None:
    """So a training that goes on ends with the same parameters, and tells the same rates."""
    expected = await fit(make(), steer)
    parameters = bits(TRAINER.state)
    with pytest.raises(Interrupted):
        await fit(BackupAndRestore(tmp_path, 1), make(), steer, fail_after(after))
    found = await fit(BackupAndRestore(tmp_path, 1), make(), steer)
    assert found.history == expected.history
    assert bits(TRAINER.state) == parameters


async def test_a_hook_can_ask_whether_its_epoch_began_before(tmp_path: Path) -> None:
    """`on_epoch_begin` itself is called again."""
    asked: list[tuple[int, bool]] = []

    class Asks(Callback):
        def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
            assert self.run is not None
            asked.append((epoch, self.run.preparation.began_before(epoch)))

    with pytest.raises(Interrupted):
        await fit(BackupAndRestore(tmp_path, 1), Asks(), fail_after(8))
    await fit(BackupAndRestore(tmp_path, 1), Asks())
    assert asked == [(0, False), (1, False), (1, True), (2, False)]


def test_keras_own_scheduler_acts_once_too(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    model.compile(keras.optimizers.SGD(0.4), "mse")
    trainer = fitbus.Trainer(fitbus.keras.KerasTask(model))

    def scheduler() -> Any:
        return keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)

    def run(*callbacks: Any) -> list[float]:
        found = trainer.fit_sync(x, x.sum(1, keepdims=True), callbacks=callbacks, **OPTIONS)
        return found.history["learning_rate"]

    with pytest.raises(Interrupted):
        run(BackupAndRestore(tmp_path, 1), scheduler(), fail_after(8))
    assert np.allclose(run(BackupAndRestore(tmp_path, 1), scheduler()), [0.2, 0.1, 0.05])
