"""Keras' learning-rate callbacks on an optimizer that has several learning rates."""

from __future__ import annotations

from typing import Any

import keras
import pytest

import fitbus
from fitbus import callbacks
from fitbus.errors import InvalidArgumentError

from ._data import sums

X, Y = sums(32)
K: Any = keras.callbacks
OPTIONS: Any = {"epochs": 3, "batch_size": 16, "shuffle": False}


def made(rate: Any = 0.1) -> Any:
    """A model with one optimizer for its bias, and another for the rest."""
    keras.utils.set_random_seed(1)
    by_path = keras.optimizers.OptimizerMap(
        keras.optimizers.SGD(rate, name="a"), {".*bias": keras.optimizers.SGD(0.2, name="b")}
    )
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.MultiOptimizer(by_path), "mse")
    return model


CALLBACKS: dict[str, Any] = {
    "plateau": lambda: [K.ReduceLROnPlateau("loss", patience=1, min_delta=10, factor=0.5)],
    "scheduler": lambda: [K.LearningRateScheduler(lambda epoch, rate: rate * 0.5)],
    "both": lambda: [
        K.LearningRateScheduler(lambda epoch, rate: rate * 0.5),
        K.ReduceLROnPlateau("loss", patience=1, min_delta=10, factor=0.5),
    ],
}


@pytest.mark.parametrize("kind", CALLBACKS)
def test_they_set_all_of_them_as_in_keras(kind: str) -> None:
    """And log each."""
    theirs = made().fit(X, Y, verbose=0, callbacks=CALLBACKS[kind](), **OPTIONS).history
    trainer = fitbus.Trainer(fitbus.keras.KerasTask(made()))
    ours = trainer.fit_sync(X, Y, callbacks=CALLBACKS[kind](), **OPTIONS).history
    assert sorted(ours) == sorted(theirs) == ["learning_rate_a", "learning_rate_b", "loss"]
    for name, values in theirs.items():
        assert ours[name] == pytest.approx(values, rel=1e-5)
    assert ours["learning_rate_b"][-1] < 0.2


@pytest.mark.parametrize("kind", ["plateau", "scheduler"])
def test_a_schedule_of_one_of_them_refuses_them(kind: str) -> None:
    decay: Any = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
    trainer = fitbus.Trainer(fitbus.keras.KerasTask(made(decay)))
    with pytest.raises(InvalidArgumentError, match="own schedule sets 'learning_rate_a'"):
        trainer.fit_sync(X, Y, callbacks=CALLBACKS[kind](), **OPTIONS)
    assert int(trainer.state.step) == 0


@pytest.mark.parametrize(
    "ours",
    [callbacks.ReduceLROnPlateau("loss"), callbacks.LearningRateScheduler(lambda epoch: 0.1)],
)
def test_ours_are_refused_with_what_to_do(ours: Any) -> None:
    """They set one learning rate, of which this optimizer has none by that name."""
    trainer = fitbus.Trainer(fitbus.keras.KerasTask(made()))
    with pytest.raises(InvalidArgumentError, match=r"learning_rate_b.*keras\.callbacks\.") as found:
        trainer.fit_sync(X, Y, callbacks=[ours], **OPTIONS)
    assert "Supervised" not in str(found.value)


def test_one_of_several_may_have_a_schedule() -> None:
    """It drives that one only; the state has what it gives now."""
    decay: Any = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
    model = made(decay)
    trainer = fitbus.Trainer(fitbus.keras.KerasTask(model))
    found = trainer.fit_sync(X, Y, **OPTIONS).history["loss"]
    theirs = made(decay).fit(X, Y, verbose=0, **OPTIONS).history["loss"]
    assert found == pytest.approx(theirs, rel=1e-5)
    rates = trainer.state.opt_state.hyperparams
    assert float(rates["learning_rate_a"]) == pytest.approx(0.1 * 0.5 ** (6 / 2))
    assert float(rates["learning_rate_b"]) == pytest.approx(0.2)
