"""Of a task that says what its weights are, those are saved, by whichever way."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fitbus
from fitbus.callbacks import Callback, Logs, ModelCheckpoint, OrbaxCheckpoint
from fitbus.checkpoints import NumberedStates, load_weights
from fitbus.errors import InvalidArgumentError
from fitbus.train import Batch, TrainState


class WithStatistics:
    """Keeps a running mean of its data in `extra`, which belongs to its weights."""

    def init(self, params: Any, key: Any) -> TrainState:
        step, mean = np.zeros((), np.int32), np.zeros(2, np.float32)
        return TrainState(step=step, params=params, opt_state=(), key=key, extra={"mean": mean})

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Any]:
        extra = {"mean": 0.5 * state.extra["mean"] + 0.5 * batch.x.mean(0)}
        return dataclasses.replace(state, extra=extra), {"loss": batch.x[0, 0]}

    def eval_step(self, state: TrainState, batch: Batch) -> Any:
        return {"loss": batch.x[0, 0]}

    def predict_step(self, state: TrainState, batch: Batch) -> Any:
        return batch.x

    def weights(self, state: TrainState) -> Any:
        return {"params": state.params, "mean": state.extra["mean"]}

    def with_weights(self, state: TrainState, weights: Any) -> TrainState:
        extra = {"mean": weights["mean"]}
        return dataclasses.replace(state, params=weights["params"], extra=extra)


TASK = WithStatistics()
TRAINER = fitbus.Trainer(TASK, {"w": np.arange(3, dtype=np.float32)})
ROWS = np.array([[1, 2], [3, 4]], np.float32)


class AtEpochEnd(Callback):
    """Does something with `self.model`."""

    def __init__(self, does: Any) -> None:
        self.does = does

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.does(self.model)


def test_the_callbacks_save_them(tmp_path: Path) -> None:
    file, folder = tmp_path / "w.safetensors", tmp_path / "numbered"
    callbacks = [
        ModelCheckpoint(file, save_weights_only=True),
        OrbaxCheckpoint(folder, save_weights_only=True),
    ]
    TRAINER.fit_sync(ROWS, batch_size=2, callbacks=callbacks)
    like = TASK.weights(TRAINER.state)
    with NumberedStates(folder) as states:
        found = [load_weights(file, like), states.load(like)]
    for weights in found:
        assert weights["mean"].tolist() == like["mean"].tolist() != [0, 0]
        assert weights["params"]["w"].tolist() == [0, 1, 2]


def test_so_does_the_view_of_the_model_and_it_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "w.npz"
    save = AtEpochEnd(lambda model: model.save_weights(file))
    TRAINER.fit_sync(ROWS, batch_size=2, callbacks=[save])
    mean = TRAINER.state.extra["mean"].tolist()
    TRAINER.fit_sync(2 * ROWS, batch_size=2)
    assert TRAINER.state.extra["mean"].tolist() != mean
    load = AtEpochEnd(lambda model: model.load_weights(file))
    TRAINER.fit_sync(ROWS, batch_size=2, callbacks=[load])
    assert TRAINER.state.extra["mean"].tolist() == mean


def test_the_view_overwrites_a_file_unless_it_is_told_not_to(tmp_path: Path) -> None:
    file = tmp_path / "w.npz"

    def save(model: Any) -> None:
        model.save_weights(file, overwrite=False)
        written = file.read_bytes()
        with pytest.raises(InvalidArgumentError, match=r"filepath: found .*; it exists; give a"):
            model.save_weights(file, overwrite=False)
        assert file.read_bytes() == written
        file.write_text("old")
        model.save_weights(file)
        assert file.read_bytes() == written

    TRAINER.fit_sync(ROWS, batch_size=2, callbacks=[AtEpochEnd(save)])
    assert file.exists()
