"""Classes of `keras.callbacks` on a task that isn't Keras'."""

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np
import pytest

import fitbus
from fitbus.testing import toy_problem

from ._builtin import ENTRIES
from ._unmodified import close

K: Any = keras.callbacks


# On a task that isn't Keras'.

ELSEWHERE = {
    "BackupAndRestore": "use fitbus.callbacks.BackupAndRestore",
    "ModelCheckpoint": "use fitbus.callbacks.ModelCheckpoint",
    "OrbaxCheckpoint": "use fitbus.callbacks.OrbaxCheckpoint",
    "SwapEMAWeights": "use fitbus.callbacks.SwapEMAWeights",
}


@pytest.fixture(scope="module")
def toy() -> Any:
    """A trainer of a task of fitbus' own."""
    problem = toy_problem()
    return problem, fitbus.Trainer(problem.task, problem.params)


@pytest.mark.parametrize("name", [name for name, made in ENTRIES.items() if made])
def test_on_another_task_it_works_or_says_what_to_do(
    name: str, toy: Any, tmp_path: pathlib.Path
) -> None:
    """Before the first step."""
    problem, trainer = toy
    make, _ = ENTRIES[name][0]
    callback = make(tmp_path)
    if name in ELSEWHERE:
        with pytest.raises(fitbus.errors.InvalidArgumentError, match=ELSEWHERE[name]):
            trainer.run(problem.x, problem.y, callbacks=[callback])
        return
    history = trainer.fit_sync(
        problem.x, problem.y, epochs=4, validation_split=0.5, callbacks=[callback]
    )
    epochs = 2 if name == "EarlyStopping" else 4
    assert len(history.epoch) == epochs
    rates = history.history.get("learning_rate")
    assert (rates is not None) == (name in ("ReduceLROnPlateau", "LearningRateScheduler"))
    assert rates is None or rates[-1] < 0.1


def test_on_another_task_a_direction_has_to_be_told(toy: Any) -> None:
    """Keras looks for the model's metric objects, and says so."""
    problem, trainer = toy
    monitor = "val_mean_absolute_error"
    with pytest.raises(ValueError, match="mode"):
        trainer.fit_sync(
            problem.x, problem.y, validation_split=0.5, callbacks=[K.EarlyStopping(monitor)]
        )
    stops = K.EarlyStopping(
        monitor, min_delta=100, mode="max", patience=1, restore_best_weights=True
    )
    history = trainer.fit_sync(
        problem.x, problem.y, epochs=9, validation_split=0.5, callbacks=[stops]
    )
    assert len(history.epoch) == 2
    assert close(stops.best_weights, [np.asarray(trainer.state.params[name]) for name in "bw"])
