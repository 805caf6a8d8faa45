"""What a backup keeps of Keras objects: of each its own, and what it has come to remember."""
# mypy: allow-subclassing-any

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import fitbus
from fitbus.callbacks import BackupAndRestore

X = np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32)
Y = X.sum(1, keepdims=True)
Base: Any = keras.callbacks.Callback


def trainer() -> fitbus.Trainer:
    """Of a compiled model, the same one each time."""
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    model.compile("sgd", "mse")
    return fitbus.Trainer(fitbus.keras.KerasTask(model))


def fit(*callbacks: Any, epochs: int = 4) -> fitbus.History:
    return trainer().fit_sync(X, Y, epochs=epochs, callbacks=list(callbacks))


def broken(path: Path, *callbacks: Any) -> None:
    """A training that breaks off in its third epoch, with a backup."""

    def fail(event: fitbus.EpochBegin) -> None:
        if event.epoch == 2:
            raise OSError("the machine died")

    with pytest.raises(OSError, match="died"):
        fit(BackupAndRestore(path), *callbacks, fitbus.handler(fitbus.EpochBegin, wait=True)(fail))


class Best(Base):
    """Has attributes of the names that `EarlyStopping` has too."""

    def __init__(self) -> None:
        super().__init__()
        self.best = 0.99
        self.wait = 7

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.best -= 0.01


@pytest.mark.parametrize("turned", [False, True])
def test_an_object_gets_what_one_of_its_own_class_remembered(tmp_path: Path, turned: bool) -> None:
    """In whatever order the objects are given now."""

    def attached() -> list[Any]:
        return [Best(), keras.callbacks.EarlyStopping("loss", patience=9, min_delta=10)]

    whole, again = attached(), attached()
    fit(*whole)
    broken(tmp_path, *attached())
    fit(BackupAndRestore(tmp_path), *(reversed(again) if turned else again))
    assert again[0].best == whole[0].best == pytest.approx(0.95)
    assert again[0].wait == 7
    assert again[1].best == whole[1].best > 1
    assert again[1].wait == whole[1].wait == 3


def test_an_object_that_is_left_out_gives_another_class_nothing(tmp_path: Path) -> None:
    """It is warned of."""
    broken(tmp_path, Best(), keras.callbacks.EarlyStopping("loss", patience=9, min_delta=10))
    stopping = keras.callbacks.EarlyStopping("loss", patience=9, min_delta=10)
    with pytest.warns(RuntimeWarning, match=r"1 \S*test_unmodified_kept\.Best of the backup"):
        fit(BackupAndRestore(tmp_path), stopping)
    assert stopping.best > 1
