"""The model has its weights, and its optimizer's variables, back, whatever ended a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import anyio
import keras
import numpy as np
import pytest

import fitbus
from fitbus import BatchEnd, EpochEnd
from fitbus.errors import InvalidArgumentError
from fitbus.keras import KerasTask

from ._data import sums
from ._pairs import check_close, variables

X, Y = sums(48, seed=5)


def make(optimizer: Any = "adam") -> Any:
    keras.utils.set_random_seed(11)
    parts = [keras.layers.Dense(3), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((4,)), *parts])
    model.compile(optimizer, "mse")
    return model


class Trained:
    """A model, its trainer, and the variables that it begins with."""

    def __init__(self) -> None:
        self.model = make()
        self.trainer = fitbus.Trainer(KerasTask(self.model))
        self.first = [np.array(variable.value) for variable in variables(self.model)]

    def check_in_step(self, steps: int) -> None:
        """Model, optimizer and trainer are where so many updates have brought them."""
        state = self.trainer.state
        assert int(state.step) == int(self.model.optimizer.iterations) == steps
        held = [variable.value for variable in variables(self.model)]
        task: Any = self.trainer.steps.task
        for variable, value in zip(held, task.variables.values(state), strict=True):
            np.testing.assert_array_equal(variable, value)
        assert (steps > 0) == any(
            not np.array_equal(new, old) for new, old in zip(held, self.first, strict=True)
        )


@pytest.fixture(scope="module")
def shared() -> Trained:
    return Trained()


@pytest.fixture
def trained(shared: Trained) -> Trained:
    """With its first variables, of which its trainer learns when it is used."""
    for variable, value in zip(variables(shared.model), shared.first, strict=True):
        variable.assign(value)
    return shared


def breaking(after: int) -> Callable[[], Iterator[Any]]:
    def batches() -> Iterator[Any]:
        for index in range(after):
            yield X[16 * index : 16 * index + 16], Y[16 * index : 16 * index + 16]
        raise OSError("the disk is gone")

    return batches


@pytest.mark.anyio
async def test_after_success(trained: Trained) -> None:
    await trained.trainer.fit(X, Y, batch_size=16, epochs=2)
    trained.check_in_step(6)


@pytest.mark.anyio
async def test_after_an_error_of_a_handler(trained: Trained) -> None:
    @fitbus.handler(EpochEnd)
    async def failing(event: EpochEnd) -> None:
        if event.epoch == 1:
            raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        await trained.trainer.fit(X, Y, batch_size=16, epochs=5, callbacks=[failing])
    trained.check_in_step(6)


@pytest.mark.anyio
async def test_after_an_error_in_a_hook(trained: Trained) -> None:
    class Failing(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 1:
                raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        await trained.trainer.fit(X, Y, batch_size=16, epochs=5, callbacks=[Failing()])
    trained.check_in_step(2)


@pytest.mark.anyio
async def test_after_an_error_in_the_data(trained: Trained) -> None:
    with pytest.raises(OSError, match="the disk is gone"):
        await trained.trainer.fit(breaking(2))
    trained.check_in_step(2)


@pytest.mark.anyio
async def test_after_a_cancellation(trained: Trained) -> None:
    scope = anyio.CancelScope()

    @fitbus.handler(BatchEnd, wait=True)
    async def cancel(event: BatchEnd) -> None:
        if event.step == 4:
            scope.cancel()

    with scope:
        await trained.trainer.fit(X, Y, batch_size=16, epochs=50, callbacks=[cancel])
    assert scope.cancelled_caught
    steps = int(trained.trainer.state.step)
    assert 4 <= steps < 150  # a batch may begin before the loop has delivered the cancellation
    trained.check_in_step(steps)


# What was written to the model meanwhile.


def test_written_weights_count_in_the_next_fit_as_in_keras(trained: Trained) -> None:
    theirs = make()
    for model in (theirs, trained.model):
        model.set_weights([weight * 0.5 + 0.1 for weight in model.get_weights()])
        model.optimizer.learning_rate = 0.02
    theirs.fit(X, Y, batch_size=16, epochs=1, shuffle=False, verbose=0)
    trained.trainer.fit_sync(X, Y, batch_size=16, epochs=1, shuffle=False)
    check_close(trained.model, theirs)


def test_written_weights_stay_when_the_data_break_before_the_first_batch(trained: Trained) -> None:
    """The trainer hasn't seen them by then; what it has is older."""
    trained.trainer.fit_sync(X, Y, batch_size=16)
    written = [np.full_like(weight, 0.25) for weight in trained.model.get_weights()]
    trained.model.set_weights(written)
    with pytest.raises(OSError, match="the disk is gone"):
        trained.trainer.fit_sync(breaking(0))
    for found, expected in zip(trained.model.get_weights(), written, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert trained.trainer.predict_sync(X[:16])[0, 0] == pytest.approx(
        float(trained.model.predict(X[:1], verbose=0)[0, 0]), rel=1e-5
    )


def test_keras_own_fit_and_evaluate_between_two_of_ours(trained: Trained) -> None:
    """Keras donates what the model holds; the trainer goes on from what it left."""
    theirs = make()
    trained.trainer.fit_sync(X, Y, batch_size=16, shuffle=False)
    for model in (theirs, trained.model):
        model.fit(X, Y, batch_size=16, shuffle=False, verbose=0)
    theirs.fit(X, Y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    logs = trained.model.evaluate(X, Y, batch_size=16, verbose=0, return_dict=True)
    assert trained.trainer.evaluate_sync(X, Y, batch_size=16) == pytest.approx(logs, rel=1e-5)
    trained.trainer.fit_sync(X, Y, batch_size=16, shuffle=False)
    check_close(trained.model, theirs)
    assert int(trained.trainer.state.step) == int(trained.model.optimizer.iterations) == 9


def test_a_recompiled_model_is_refused_and_keeps_what_was_written_to_it() -> None:
    model = make()
    trainer = fitbus.Trainer(KerasTask(model))
    trainer.fit_sync(X, Y, batch_size=16)
    written = [np.full_like(weight, 0.25) for weight in model.get_weights()]
    model.set_weights(written)
    model.compile(model.optimizer, "mse", metrics=["mae"])
    for call in (trainer.fit_sync, trainer.evaluate_sync):
        with pytest.raises(InvalidArgumentError, match=r"make a new Trainer\(KerasTask\(model\)\)"):
            call(X, Y, batch_size=16)
    for found, expected in zip(model.get_weights(), written, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert "mae" in fitbus.Trainer(KerasTask(model)).evaluate_sync(X, Y, batch_size=16)


def test_averages_take_the_weights_place_only_after_an_update_and_a_good_end() -> None:
    """Before the first one they are zeros; after a failure the weights are the last step's."""
    model = make(keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.5))
    first = model.get_weights()
    trainer = fitbus.Trainer(KerasTask(model))
    with pytest.raises(OSError, match="the disk is gone"):
        trainer.fit_sync(breaking(0))
    trainer.fit_sync(X, Y, epochs=0)
    for found, expected in zip(model.get_weights(), first, strict=True):
        np.testing.assert_array_equal(found, expected)
    averages: list[list[np.ndarray]] = []

    class Kept(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            found: Any = self.model
            self.weights = found.get_weights()
            held = found.optimizer._model_variables_moving_average
            averages.append([np.array(average.value) for average in held])

    kept = Kept()
    with pytest.raises(OSError, match="the disk is gone"):
        trainer.fit_sync(breaking(2), callbacks=[kept])
    for found, expected in zip(model.get_weights(), kept.weights, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(averages[-1][0], model.trainable_variables[0].value)
    trainer.fit_sync(X, Y, batch_size=48, callbacks=[kept])
    for variable, average in zip(model.trainable_variables, averages[-1], strict=True):
        np.testing.assert_array_equal(variable.value, average)
