"""Keras objects beside fitbus' own: who sets the rate, what a backup keeps, whose averages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import fitbus
from fitbus import callbacks
from fitbus.errors import InvalidArgumentError
from fitbus.testing import EventRecorder

from ._data import one_layer, sums

X, Y = sums(40)


def trainer(optimizer: Any = None) -> fitbus.Trainer:
    """Of a compiled model, the same one each time."""
    model = one_layer(optimizer or keras.optimizers.SGD(0.05))
    return fitbus.Trainer(fitbus.keras.KerasTask(model))


def fit(made: fitbus.Trainer, *attached: Any, epochs: int = 3, **options: Any) -> fitbus.History:
    return made.fit_sync(X, Y, epochs=epochs, callbacks=list(attached), **options)


def test_two_of_keras_may_set_the_learning_rate_as_they_may_there() -> None:
    found = fit(
        trainer(),
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2),
        keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=1e9, factor=0.1),
    )
    assert np.allclose(found.history["learning_rate"], [0.025, 0.0125, 0.000625])


@pytest.mark.parametrize("first", [True, False])
def test_one_of_keras_and_one_of_fitbus_may_not(first: bool) -> None:
    pair = [
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2),
        callbacks.ReduceLROnPlateau("loss"),
    ]
    with pytest.raises(InvalidArgumentError, match=r"ReduceLROnPlateau.*learning_rate") as caught:
        fit(trainer(), *(pair if first else reversed(pair)))
    assert "keras.callbacks.LearningRateScheduler" in str(caught.value)


class Remembers(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Keeps what is plain, and what isn't."""

    def __init__(self, given: int = 1) -> None:
        super().__init__()
        self.given = given
        self.losses: list[float] = []
        self.weights: list[Any] = []
        self.of_the_process = object()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        shown: Any = self.model
        self.losses.append(logs["loss"])
        self.weights = shown.get_weights()


def test_a_backup_keeps_what_objects_of_keras_remember(tmp_path: Path) -> None:
    """A training that goes on stops where an undisturbed one does, with the same best weights."""

    def attached(given: int) -> list[Any]:
        return [
            keras.callbacks.EarlyStopping(
                "loss", patience=3, mode="max", restore_best_weights=True
            ),
            keras.callbacks.ReduceLROnPlateau("loss", patience=2, min_delta=1e9),
            Remembers(given),
        ]

    def fail(event: fitbus.BatchEnd) -> None:
        if event.epoch == 2:
            raise OSError("the machine died")

    whole, objects = trainer(), attached(1)
    expected = fit(whole, *objects, epochs=9)
    with pytest.raises(OSError, match="died"):
        fit(trainer(), *attached(1), callbacks.BackupAndRestore(tmp_path), fail, epochs=9)
    again, resumed = trainer(), attached(2)
    found = fit(again, *resumed, callbacks.BackupAndRestore(tmp_path), epochs=9)
    assert found.history == expected.history
    assert len(found.epoch) == 4  # patience counted on
    assert np.allclose(found.history["learning_rate"], [0.05, 0.05, 0.05, 0.005])
    assert resumed[2].losses == objects[2].losses == found.history["loss"]
    assert resumed[2].given == 2  # what it was made with is its own
    for one, other in zip(again.state.params, whole.state.params, strict=True):
        np.testing.assert_array_equal(one, other)  # the best ones, of the first epoch


@pytest.mark.parametrize("on_epoch", [True, False])
def test_fitbus_swaps_the_averages_of_a_keras_optimizer(on_epoch: bool) -> None:
    """It validates as `keras.callbacks.SwapEMAWeights` does, and not as without either."""

    def made() -> fitbus.Trainer:
        return trainer(keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.9))

    def losses(*attached: Any) -> list[float]:
        recorder = EventRecorder()
        fit(made(), *attached, recorder, validation_data=(X, Y))
        return [event.logs["val_loss"] for event in recorder.of(fitbus.EpochEnd)]

    found = losses(callbacks.SwapEMAWeights(swap_on_epoch=on_epoch))
    assert np.allclose(found, losses(keras.callbacks.SwapEMAWeights(on_epoch)), rtol=1e-5)
    assert not np.allclose(found, losses())


def test_a_keras_optimizer_without_averages_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="SwapEMAWeights"):
        fit(trainer(), callbacks.SwapEMAWeights())
