"""What `KerasTask` refuses, each time with what to do instead."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import optax
import pytest

import fitbus
from fitbus.errors import DataError, InvalidArgumentError
from fitbus.keras import KerasTask
from fitbus.testing import toy_problem

X = np.zeros((8, 4), "float32")
Y = np.zeros((8, 1), "float32")


def make(units: int = 1, **options: Any) -> Any:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(units)])
    model.compile(options.pop("optimizer", "sgd"), "mse", **options)
    return model


@pytest.mark.parametrize(
    "model", [None, keras.layers.Dense(1), keras.Sequential, toy_problem().task]
)
def test_only_a_keras_model_is_one(model: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"give a keras\.Model"):
        KerasTask(model)


def test_it_must_be_compiled() -> None:
    with pytest.raises(InvalidArgumentError, match=r"model\.compile\(optimizer, loss"):
        KerasTask(keras.Sequential([keras.layers.Dense(1)]))


def test_it_must_not_run_eagerly() -> None:
    with pytest.raises(InvalidArgumentError, match=r"run_eagerly.*jax\.disable_jit"):
        KerasTask(make(run_eagerly=True))


def test_a_model_brings_its_parameters_itself() -> None:
    with pytest.raises(InvalidArgumentError, match=r"Trainer\(KerasTask\(model\)\)"):
        fitbus.Trainer(KerasTask(make()), {"w": np.zeros(3)})


def test_a_task_has_one_trainer() -> None:
    """Two would take each other's weights for what was written by hand."""
    task = KerasTask(make())
    fitbus.Trainer(task)
    with pytest.raises(InvalidArgumentError, match=r"give each a KerasTask\(model\) of its own"):
        fitbus.Trainer(task)


@pytest.mark.parametrize("units", [2, 3])
def test_a_state_of_another_model_is_refused(units: int) -> None:
    other = fitbus.Trainer(KerasTask(make(units))).state
    trainer = fitbus.Trainer(KerasTask(make()), other)
    with pytest.raises(InvalidArgumentError, match="give a state of this model"):
        trainer.evaluate_sync(X, Y)


def test_a_state_of_another_task_is_refused() -> None:
    problem = toy_problem()
    other = fitbus.Trainer(problem.task, problem.params).state
    with pytest.raises(InvalidArgumentError, match="give a state of this model"):
        fitbus.Trainer(KerasTask(make()), other).fit_sync(X, Y)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(7, "float32"), "give one weight for each of 8"),
        ({"a": np.ones((7, 2))}, "weights for 7 examples of 8"),
        (np.full((8, 1), np.nan), "negative, infinite or NaN"),
        ({"a": ["x"] * 8}, "give arrays of numbers"),
    ],
)
def test_weights_of_another_length_or_kind_are_refused(weights: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fitbus.Trainer(KerasTask(make())).fit_sync(X, Y, sample_weight=weights)


def test_class_weights_dont_go_with_weights_by_output() -> None:
    with pytest.raises(InvalidArgumentError, match="class_weight"):
        fitbus.Trainer(KerasTask(make())).fit_sync(
            X, Y, sample_weight=np.ones((8, 1)), class_weight={0: 2.0}
        )


@pytest.mark.parametrize(("pad", "as_given"), [(True, True), (False, "yes")])
def test_weights_as_given_goes_without_padding(pad: bool, as_given: Any) -> None:
    class Task:
        optimizer = optax.sgd(0.1)

        def train_step(self, state: Any, batch: Any) -> Any: ...

        eval_step = predict_step = train_step

    task: Any = Task()
    task.pad, task.weights_as_given = pad, as_given
    with pytest.raises(InvalidArgumentError, match=r"weights_as_given.*pad = False"):
        fitbus.Trainer(task, {"w": X})
