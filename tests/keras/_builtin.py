"""Every class of `keras.callbacks`, made with arguments that let it act."""
# ruff: noqa: T201  # callbacks that print
# callbacks that print

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from ._unmodified import x, y

__all__ = ["ENTRIES", "NAN_LATER"]

Made = Callable[[pathlib.Path], Any]
K: Any = keras.callbacks

NAN_LATER = np.where(np.arange(48)[:, None] < 20, y, np.nan).astype(np.float32)

# Each class, made with arguments that let it act; and the options of the fit.
ENTRIES: dict[str, list[tuple[Made, dict[str, Any]]]] = {
    "BackupAndRestore": [
        (lambda folder: K.BackupAndRestore(folder / "b", delete_checkpoint=False), {}),
        (lambda folder: K.BackupAndRestore(folder / "b", 2, delete_checkpoint=False), {}),
        (lambda folder: K.BackupAndRestore(folder / "b"), {}),
    ],
    "CSVLogger": [
        (lambda folder: K.CSVLogger(folder / "log.csv"), {}),
        (lambda folder: K.CSVLogger(folder / "log.csv", ";", append=True), {"validation_freq": 2}),
    ],
    "EarlyStopping": [
        (lambda _: K.EarlyStopping("val_loss", min_delta=100, verbose=1), {}),
        (
            lambda _: K.EarlyStopping(
                "val_mae", min_delta=100, verbose=1, patience=2, restore_best_weights=True
            ),
            {},
        ),
        (lambda _: K.EarlyStopping("nothing", mode="min"), {}),
    ],
    "History": [(lambda _: K.History(), {})],
    "LambdaCallback": [
        (lambda _: K.LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, list(logs))), {}),
        (lambda _: K.LambdaCallback(on_test_begin=lambda logs: print("tested", logs)), {}),
    ],
    "LearningRateScheduler": [
        (lambda _: K.LearningRateScheduler(lambda epoch, rate: rate * 0.5, verbose=1), {}),
        (lambda _: K.LearningRateScheduler(lambda epoch: 0.01 / (epoch + 1)), {}),
    ],
    "ModelCheckpoint": [
        (lambda folder: K.ModelCheckpoint(folder / "{epoch}-{val_loss:.2f}.keras", verbose=1), {}),
        (
            lambda folder: K.ModelCheckpoint(
                folder / "{epoch}.weights.h5", save_weights_only=True, save_best_only=True
            ),
            {},
        ),
        (lambda folder: K.ModelCheckpoint(folder / "{epoch}-{batch}.keras", save_freq=2), {}),
    ],
    "OrbaxCheckpoint": [
        (lambda folder: K.OrbaxCheckpoint(folder / "o", save_weights_only=True, max_to_keep=2), {}),
    ],
    "ProgbarLogger": [
        (lambda _: K.ProgbarLogger(), {"verbose": 2}),
        (lambda _: K.ProgbarLogger(), {"verbose": 1}),
        (lambda _: K.ProgbarLogger(), {"verbose": 0}),
    ],
    "ReduceLROnPlateau": [
        (
            lambda _: K.ReduceLROnPlateau(
                "val_loss", 0.5, patience=1, verbose=1, min_delta=100, min_lr=0.02
            ),
            {},
        )
    ],
    "SwapEMAWeights": [
        (lambda _: K.SwapEMAWeights(), {}),
        (lambda _: K.SwapEMAWeights(swap_on_epoch=True), {}),
    ],
    "TerminateOnNaN": [
        (lambda _: K.TerminateOnNaN(), {}),
        (lambda _: K.TerminateOnNaN(), {"data": (x, NAN_LATER)}),
    ],
    # Of these, `test_backend.py` shows what they say where what they need isn't installed.
    "RemoteMonitor": [],
    "TensorBoard": [],
    # No callbacks by themselves.
    "Callback": [],
    "CallbackList": [],
}
