"""A Keras model whose steps are fused: what it is told, and what it becomes, is what it was."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import fitbus
from fitbus.keras import KerasTask
from fitbus.testing import EventRecorder

pytestmark = pytest.mark.slow  # compiles the programs of a model twice

RANDOM = np.random.default_rng(5)
X = RANDOM.normal(size=(40, 4)).astype("float32")
Y = (X.sum(1, keepdims=True) > 0).astype("float32")


def made() -> Any:
    """Dropout, batch statistics, an optimizer with moments, and metrics that are no means."""
    layers = keras.layers
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(5, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.3, seed=3),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile("adam", "binary_crossentropy", metrics=["accuracy", "mae", "auc"])
    return model


def test_a_keras_model_trains_by_fused_steps_as_by_single_ones() -> None:
    """Weights, statistics, the logs of each batch; with weights of examples and a short batch."""
    found: list[tuple[list[Any], list[Any]]] = []
    for steps in (1, 3):
        model = made()
        recorder = EventRecorder()
        fitbus.Trainer(KerasTask(model)).fit_sync(
            X,
            Y,
            batch_size=9,
            epochs=2,
            validation_data=(X, Y),
            sample_weight=np.linspace(0.5, 1.5, 40),
            steps_per_execution=steps,
            callbacks=[recorder],
        )
        found.append((recorder.without_time(), model.get_weights()))
    (single, weights), (fused, fused_weights) = found
    for one, other in zip(fused, single, strict=True):
        for name, value in other.items():
            if name in ("logs", "batch_logs"):
                assert one[name] == pytest.approx(value, rel=1e-6)
            else:
                assert one[name] == value
    assert len([event for event in fused if event["type"] == "BatchEnd"]) == 10
    for one, other in zip(fused_weights, weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)
