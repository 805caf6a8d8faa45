"""Optimizers, losses and metrics of all kinds come to the same under fitbus and under Keras."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import fitbus
from fitbus.keras import KerasTask

from ._pairs import Pair

pytestmark = pytest.mark.slow  # each compiles the programs of a model twice

RANDOM = np.random.default_rng(5)
X = RANDOM.normal(size=(40, 4)).astype("float32")
Y = X.sum(1, keepdims=True)
SERIES = RANDOM.normal(size=(40, 6, 4)).astype("float32")
TOKENS = np.concatenate([RANDOM.integers(1, 9, (40, 3)), RANDOM.integers(0, 2, (40, 3))], 1)
BY_TIME = RANDOM.uniform(0.2, 2, (40, 6)).astype("float32")
WEIGHTS = BY_TIME[:, 0]
CLASSES = np.eye(3, dtype="float32")[RANDOM.integers(0, 3, 40)]

layers, optimizers = keras.layers, keras.optimizers
DECAY = optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)


def dense(optimizer: Any = "adam", **options: Any) -> Any:
    hidden = layers.Dense(5, activation="relu", name="hidden")
    model = keras.Sequential([keras.Input((4,)), hidden, layers.Dense(1, name="last")])
    model.compile(optimizer, "mse", metrics=["mae"], **options)
    return model


def several() -> Any:
    """SGD that averages for one layer, Adam for the rest."""
    averaging = optimizers.SGD(0.01, use_ema=True, ema_momentum=0.5)
    by_path = optimizers.OptimizerMap(optimizers.Adam(0.01), {".*hidden.*": averaging})
    return optimizers.MultiOptimizer(by_path)


OPTIMIZERS: dict[str, Any] = {
    "a schedule": lambda: optimizers.Adam(DECAY),
    "a function": lambda: optimizers.SGD(lambda: 0.01),
    "averages": lambda: optimizers.SGD(0.05, momentum=0.9, use_ema=True, ema_momentum=0.5),
    "averages put back": lambda: optimizers.SGD(
        0.05, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3
    ),
    "accumulation": lambda: optimizers.SGD(0.05, gradient_accumulation_steps=2),
    "several": several,
    "clipping and decay": lambda: optimizers.AdamW(0.01, weight_decay=0.1, clipnorm=0.1),
}


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_optimizers(optimizer: str) -> None:
    """Their variables too, with a short last batch, over two calls of `fit`.

    Keras 3.15 itself fails in a second one where averages have taken the weights' place: it donates
    one buffer twice.
    """
    pair = Pair(lambda: dense(OPTIMIZERS[optimizer]()))
    pair.fit(X, Y, batch_size=16, epochs=2)
    if optimizer in ("averages", "averages put back", "several"):
        assert pair.trainer.fit_sync(X, Y, batch_size=16).epoch == [0]
    else:
        pair.fit(X, Y, batch_size=16, epochs=1)


def test_the_scale_of_the_loss_follows_as_in_keras() -> None:
    """Its first steps overflow; their batches are left out, and the scale falls."""

    def make() -> Any:
        keras.config.set_dtype_policy("mixed_float16")
        try:
            inner = optimizers.SGD(0.01)
            return dense(optimizers.LossScaleOptimizer(inner, initial_scale=2.0**20))
        finally:
            keras.config.set_dtype_policy("float32")

    pair = Pair(make)
    pair.trainer.fit_sync(X, Y, batch_size=16, epochs=2, shuffle=False)
    pair.theirs.fit(X, Y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    scale = float(pair.ours.optimizer.dynamic_scale.value)
    assert scale == float(pair.theirs.optimizer.dynamic_scale.value) < 2.0**20
    assert int(pair.ours.optimizer.iterations) == int(pair.theirs.optimizer.iterations) < 6
    assert int(pair.trainer.state.step) == 6
    for found, expected in zip(pair.ours.get_weights(), pair.theirs.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_policy_and_distribution_of_the_calling_thread_hold() -> None:
    """Keras keeps them by thread, and a layer may make others when it is built."""
    seen: set[Any] = set()

    class Block(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
        def build(self, input_shape: Any) -> None:
            self.inner = layers.Dense(1)
            self.inner.build(input_shape)

        def call(self, x: Any) -> Any:
            seen.add(keras.distribution.distribution())
            return self.inner(x)

    here = keras.distribution.DataParallel(devices=["cpu:0"])
    keras.config.set_dtype_policy("mixed_bfloat16")
    keras.distribution.set_distribution(here)
    try:
        model = keras.Sequential([Block()])
        model.compile("sgd", "mse")
        fitbus.Trainer(KerasTask(model)).fit_sync(X, Y)
    finally:
        keras.distribution.set_distribution(None)
        keras.config.set_dtype_policy("float32")
    assert model.layers[0].inner.compute_dtype == "bfloat16"
    assert seen == {here}


def two_outputs(kind: type) -> Any:
    """A functional model of two inputs and two outputs, as dicts or as lists."""
    inputs = {"one": keras.Input((4,), name="one"), "two": keras.Input((4,), name="two")}
    hidden = layers.Dense(3)(layers.Concatenate()(list(inputs.values())))
    outputs = {name: layers.Dense(1, name=name)(hidden) for name in "ab"}
    if kind is dict:
        model = keras.Model(inputs, outputs)
        model.compile(
            "adam",
            {"a": "mse", "b": "mae"},
            loss_weights={"a": 1.0, "b": 0.5},
            metrics={"a": ["mae"]},
            weighted_metrics={"b": ["mse"]},
        )
        return model
    model = keras.Model(list(inputs.values()), list(outputs.values()))
    model.compile("adam", ["mse", "mae"], metrics=[["mae"], ["mse"]])
    return model


def test_dicts_of_inputs_and_of_outputs_with_weights_of_each() -> None:
    pair = Pair(lambda: two_outputs(dict))
    x, y = {"one": X, "two": -X}, {"a": Y, "b": 2 * Y}
    weights = {"a": WEIGHTS, "b": WEIGHTS[::-1].copy()}
    history = pair.fit(x, y, sample_weight=weights, validation_split=0.3, epochs=2)
    assert {"a_loss", "b_loss", "val_a_loss", "a_mae", "b_mse"} <= set(history)


def test_tuples_of_inputs_and_of_outputs() -> None:
    Pair(lambda: two_outputs(list)).fit((X, X + 1), (Y, 2 * Y), batch_size=16, epochs=2)


def test_losses_of_layers_and_of_weights() -> None:
    """Regularizers, and `add_loss`, in the logs of training and of validation."""

    class Sparse(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
        def call(self, x: Any) -> Any:
            size: Any = keras.ops.mean(keras.ops.abs(x))
            self.add_loss(0.1 * size)
            return x

    def make() -> Any:
        hidden = layers.Dense(5, kernel_regularizer="l2", activity_regularizer="l1")
        model = keras.Sequential([keras.Input((4,)), hidden, Sparse(), layers.Dense(1)])
        model.compile("rmsprop", "mse", weighted_metrics=["mae"])
        return model

    Pair(make).fit(X, Y, sample_weight=WEIGHTS, validation_split=0.3, epochs=2)


def test_metrics_that_are_no_means() -> None:
    def make() -> Any:
        model = keras.Sequential([keras.Input((4,)), layers.Dense(1, activation="sigmoid")])
        metrics = [
            keras.metrics.AUC(name="auc"),
            keras.metrics.F1Score(average="micro", name="f1"),
            keras.metrics.Precision(name="precision"),
            keras.metrics.RootMeanSquaredError(name="rmse"),
        ]
        model.compile("adam", "binary_crossentropy", metrics=metrics)
        return model

    Pair(make).fit(X, (Y > 0).astype("float32"), batch_size=16, epochs=2, validation_split=0.2)


def test_a_metric_whose_result_is_an_array_has_a_name_for_each_number() -> None:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="softmax")])
    model.compile("sgd", "categorical_crossentropy", metrics=[keras.metrics.F1Score(name="f1")])
    logs = fitbus.Trainer(KerasTask(model)).evaluate_sync(X, CLASSES)
    evaluate: Any = model.evaluate
    expected = evaluate(X, CLASSES, verbose=0, return_dict=True)["f1"]
    assert [logs["f1_0"], logs["f1_1"], logs["f1_2"]] == pytest.approx(list(expected), rel=1e-5)


def test_recurrence_with_dropout() -> None:
    def make() -> Any:
        recurrent = layers.LSTM(3, dropout=0.2, recurrent_dropout=0.1)
        model = keras.Sequential([keras.Input((6, 4)), recurrent, layers.Dense(1)])
        model.compile("adam", "mse")
        return model

    Pair(make).fit(SERIES, Y, batch_size=16, epochs=2)


@pytest.mark.parametrize("weights", [None, BY_TIME], ids=["unweighted", "by time"])
def test_outputs_by_time_with_masks(weights: Any) -> None:
    """The mask counts in losses, and in the metrics of a validation."""

    def make() -> Any:
        parts = [layers.Embedding(9, 4, mask_zero=True), layers.GRU(3, return_sequences=True)]
        model = keras.Sequential([keras.Input((6,)), *parts, layers.Dense(1)])
        model.compile("adam", "mse", metrics=["mae"], weighted_metrics=["mse"])
        return model

    y = SERIES[:, :, :1]
    Pair(make).fit(TOKENS, y, sample_weight=weights, validation_split=0.3, epochs=2)


def test_images_as_targets() -> None:
    def make() -> Any:
        model = keras.Sequential([keras.Input((6, 4, 1)), layers.Conv2D(1, 3, padding="same")])
        model.compile("adam", "mse", metrics=["mae"])
        return model

    Pair(make).fit(SERIES[..., None], SERIES[..., None], batch_size=16, epochs=2)
