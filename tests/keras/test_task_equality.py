"""A model that fitbus trains comes to what it does under Keras' own `fit`: histories, variables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

from fitbus.callbacks import EarlyStopping, LearningRateScheduler

from ._pairs import Pair

DIGITS: Any = load_digits()
IMAGES = (DIGITS.images[:64, ..., None] / 16).astype("float32")
LABELS = DIGITS.target[:64]
WEIGHTS = np.random.default_rng(3).uniform(0.2, 2, 64).astype("float32")
CLASSES = {digit: 1 + digit / 10 for digit in range(10)}
HELD_OUT = (IMAGES[48:], LABELS[48:], WEIGHTS[48:])

pytestmark = pytest.mark.slow  # programs of three models are compiled twice

layers = keras.layers
Make = Callable[[], Any]


def dense() -> Any:
    """A dense network."""
    return compiled(layers.Flatten(), layers.Dense(12, activation="relu"))


def normalized() -> Any:
    """One with statistics, and with random numbers."""
    return compiled(
        layers.Flatten(),
        *(layers.Dense(12), layers.BatchNormalization(momentum=0.8), layers.ReLU()),
        layers.Dropout(0.3),
    )


def convolution() -> Any:
    """A small convolution."""
    return compiled(layers.Conv2D(4, 3, activation="relu"), layers.MaxPooling2D(), layers.Flatten())


def compiled(*parts: Any) -> Any:
    last = layers.Dense(10, activation="softmax")
    model = keras.Sequential([keras.Input((8, 8, 1)), *parts, last])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.fixture(scope="module", params=[dense, normalized, convolution])
def shared(request: pytest.FixtureRequest) -> Pair:
    make: Make = request.param
    return Pair(make)


@pytest.fixture
def pair(shared: Pair) -> Pair:
    """A model twice, with its first weights."""
    shared.begin_anew()
    return shared


def schedule(epoch: int, rate: float) -> float:
    return rate if epoch < 2 else rate * 0.5


def test_plain_training_with_a_short_last_batch(pair: Pair) -> None:
    history = pair.fit(IMAGES, LABELS, batch_size=24)
    assert history["loss"][-1] < history["loss"][0]


def test_class_weight(pair: Pair) -> None:
    pair.fit(IMAGES, LABELS, class_weight=CLASSES, batch_size=16)


def test_sample_weight(pair: Pair) -> None:
    pair.fit(IMAGES, LABELS, sample_weight=WEIGHTS, batch_size=16)


def test_validation_split_with_sample_weight(pair: Pair) -> None:
    options: dict[str, Any] = {"sample_weight": WEIGHTS, "validation_split": 0.25, "batch_size": 16}
    history = pair.fit(IMAGES, LABELS, **options)
    assert len(history["val_loss"]) == 5


def test_validation_data_with_weights(pair: Pair) -> None:
    pair.fit(IMAGES[:48], LABELS[:48], validation_data=HELD_OUT, batch_size=16)


def test_class_weights_multiply_into_sample_weights(pair: Pair) -> None:
    """Which Keras refuses; so it is given the products."""
    products = WEIGHTS * np.array([CLASSES[label] for label in LABELS], "float32")
    pair.theirs.fit(IMAGES, LABELS, sample_weight=products, shuffle=False, verbose=0)
    pair.trainer.fit_sync(
        IMAGES, LABELS, sample_weight=WEIGHTS, class_weight=CLASSES, shuffle=False
    )
    pair.check_variables()


@pytest.mark.parametrize("library", ["keras", "fitbus"])
def test_a_learning_rate_schedule(pair: Pair, library: str) -> None:
    """Keras' callback, and fitbus' own, against Keras'."""
    theirs = lambda: [keras.callbacks.LearningRateScheduler(schedule)]  # noqa: E731  # as short as it is
    ours = theirs if library == "keras" else lambda: [LearningRateScheduler(schedule)]
    history = pair.fit(IMAGES, LABELS, callbacks=theirs, own=ours, batch_size=16)
    np.testing.assert_allclose(
        history["learning_rate"], 1e-3 * np.array([1, 1, 0.5, 0.25, 0.125]), rtol=1e-6
    )


@pytest.mark.parametrize("library", ["keras", "fitbus"])
def test_early_stopping_puts_the_best_weights_back(pair: Pair, library: str) -> None:
    """Statistics of BatchNorm among them; here the first epoch's, since the highest loss wins."""
    options: dict[str, Any] = {"patience": 2, "mode": "max", "restore_best_weights": True}
    theirs = lambda: [keras.callbacks.EarlyStopping("val_loss", **options)]  # noqa: E731  # likewise
    ours = theirs if library == "keras" else lambda: [EarlyStopping("val_loss", **options)]
    history = pair.fit(
        IMAGES, LABELS, callbacks=theirs, own=ours, batch_size=16, validation_split=0.25
    )
    assert len(history["loss"]) == 3
    after = pair.trainer.evaluate_sync(IMAGES[48:], LABELS[48:], batch_size=16)
    np.testing.assert_allclose(after["loss"], history["val_loss"][0], rtol=1e-5)


def test_evaluate_and_predict_give_what_keras_gives(pair: Pair) -> None:
    found = pair.trainer.evaluate_sync(IMAGES, LABELS, batch_size=24, sample_weight=WEIGHTS)
    expected = pair.theirs.evaluate(
        IMAGES, LABELS, batch_size=24, sample_weight=WEIGHTS, verbose=0, return_dict=True
    )
    assert found == pytest.approx(expected, rel=1e-5)
    outputs = pair.trainer.predict_sync(IMAGES, batch_size=24)
    np.testing.assert_allclose(outputs, pair.theirs.predict(IMAGES, verbose=0), atol=1e-6)
