"""A guard over a Keras model: its variables are named, its optimizer's taken back as well."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import fitbus
from fitbus import StepSkipped
from fitbus.callbacks import Guard
from fitbus.keras import KerasTask
from fitbus.testing import EventRecorder


def model() -> Any:
    keras.utils.set_random_seed(0)
    layers = [keras.Input((3,)), keras.layers.Dense(4, name="one"), keras.layers.Dense(1)]
    made = keras.Sequential(layers)
    made.compile("adam", "mse")
    return made


X = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
Y = X.sum(1, keepdims=True)


@pytest.mark.parametrize("fused", [1, 3])
def test_a_nan_is_left_out(fused: int) -> None:
    """The weights are those of a training without the batch."""
    x = X.copy()
    x[9] = np.nan
    given: dict[str, Any] = {"batch_size": 8, "shuffle": False, "steps_per_execution": fused}
    guarded, plain = model(), model()
    recorder = EventRecorder()
    listening = fitbus.handler(StepSkipped)(recorder)
    history = fitbus.Trainer(KerasTask(guarded)).fit_sync(
        x, Y, callbacks=[Guard(), listening], **given
    )
    (skipped,) = recorder.of(StepSkipped)
    assert (skipped.step, skipped.metric) == (2, "loss")
    assert skipped.leaf == f"params/{guarded.trainable_variables[0].path}"
    left = np.delete(np.arange(32), slice(8, 16))
    expected = fitbus.Trainer(KerasTask(plain)).fit_sync(X[left], Y[left], **given)
    for one, other in zip(guarded.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert int(guarded.optimizer.iterations) == 3
    np.testing.assert_allclose(history.history["loss"], expected.history["loss"], rtol=1e-6)


def test_it_goes_back() -> None:
    """The model has the weights of before, and trains on."""
    x = X.copy()
    x[28] = np.nan
    guarded, begin = model(), model()
    guard = Guard("rollback", scale_learning_rate=0.5)
    fitbus.Trainer(KerasTask(guarded)).fit_sync(
        x, Y, batch_size=8, shuffle=False, callbacks=[guard]
    )
    assert guard.rollbacks == 1
    for one, other in zip(guarded.get_weights(), begin.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert float(guarded.optimizer.learning_rate) == pytest.approx(0.0005)
