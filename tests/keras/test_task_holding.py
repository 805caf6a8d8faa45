"""While a run has a Keras model, nobody else trains it or brings old weights back."""
# mypy: allow-subclassing-any

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

import fitbus
from fitbus import EpochBegin, EpochEnd
from fitbus.errors import FitbusError, StateLostError, TrainerBusyError, WrongThreadError
from fitbus.keras import KerasTask
from fitbus.testing import Gate

from ._data import sums

X, Y = sums(32, seed=5)
Base: Any = keras.callbacks.Callback
CALLS: dict[str, Callable[[Any], Any]] = {
    "fit": lambda model: model.fit(X, Y, verbose=0),
    "evaluate": lambda model: model.evaluate(X, Y, verbose=0),
    "predict": lambda model: model.predict(X, verbose=0),
    "train_on_batch": lambda model: model.train_on_batch(X, Y),
    "test_on_batch": lambda model: model.test_on_batch(X, Y),
    "predict_on_batch": lambda model: model.predict_on_batch(X),
}


def make() -> Any:
    keras.utils.set_random_seed(11)
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)], name="inner")
    model = keras.Sequential([keras.Input((4,)), inner, keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.05), "mse")
    return model


@pytest.fixture(scope="module")
def model() -> Any:
    found = make()
    found.first = found.get_weights()
    return found


@pytest.fixture(scope="module")
def trainer(model: Any) -> fitbus.Trainer:
    return fitbus.Trainer(KerasTask(model))


def held(model: Any) -> list[Any]:
    return [np.array(variable.value) for variable in model.trainable_variables]


def check_in_step(model: Any, trainer: fitbus.Trainer) -> None:
    """The model has what was learned, and all its own functions."""
    for found, expected in zip(held(model), trainer.state.params, strict=True):
        np.testing.assert_array_equal(found, expected)
    for part in (model, *model.layers):
        assert not {name for name in vars(part) if name.startswith("make_")}
    for call in CALLS.values():
        call(model)


@pytest.mark.anyio
async def test_calls_of_keras_are_refused_beside_a_run(model: Any, trainer: fitbus.Trainer) -> None:
    """In the loop's thread, and in any other one; those of a model in it too."""
    why: dict[str, str] = {}

    def attempt(name: str, call: Callable[[Any], Any], part: Any) -> None:
        with pytest.raises(WrongThreadError) as caught:
            call(part)
        why[name] = str(caught.value)

    async def others(event: EpochEnd) -> None:
        for name, call in CALLS.items():
            attempt(name, call, model)
            await anyio.to_thread.run_sync(attempt, f"{name} in a thread", call, model)
        attempt("inner", CALLS["predict_on_batch"], model.layers[0])

    await trainer.fit(X, Y, epochs=2, callbacks=[others])
    assert len(why) == 13
    assert all("await run.predict(x)" in text for text in why.values())
    assert "model.evaluate in another thread" in why["test_on_batch"]
    check_in_step(model, trainer)


def test_hooks_use_the_model_as_they_like(model: Any, trainer: fitbus.Trainer) -> None:
    found: list[Any] = []

    class Uses(Base):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            found.extend(CALLS[name](self.model) for name in CALLS if name != "fit")

    class Closes(fitbus.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            found.append(CALLS["predict"](model))

    trainer.fit_sync(X, Y, callbacks=[Uses(), Closes()])
    assert len(found) == 6
    check_in_step(model, trainer)


class Holds(Base):
    """Holds a call of Keras' own between two of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.go_on = threading.Event(), threading.Event()

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        self.inside.set()
        assert self.go_on.wait(20)


def begun(model: Any, holds: Holds, errors: list[Exception], **options: Any) -> threading.Thread:
    """A prediction that stands in a thread."""

    def predict() -> None:
        try:
            model.predict(X, verbose=0, callbacks=[holds], **options)
        except WrongThreadError as error:
            errors.append(error)

    thread = threading.Thread(target=predict)
    thread.start()
    assert holds.inside.wait(20)
    return thread


def test_a_run_is_refused_while_a_call_has_the_arrays(model: Any, trainer: fitbus.Trainer) -> None:
    """Keras has taken them out of the variables; afterwards the run begins with them."""
    trainer.fit_sync(X, Y)
    learned, holds = held(model), Holds()
    thread = begun(model, holds, [])
    with pytest.raises(FitbusError, match=r"model\.fit, evaluate or predict is under way"):
        trainer.fit_sync(X, Y)
    holds.go_on.set()
    thread.join()
    for found, expected in zip(held(model), learned, strict=True):
        np.testing.assert_array_equal(found, expected)
    trainer.fit_sync(X, Y)
    check_in_step(model, trainer)


class Syncs(Holds):
    """Has the arrays put back while it holds."""

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        assert self.model is not None
        if batch == 0:
            super().on_predict_batch_end(batch, logs)


def test_a_call_from_before_the_run_ends_at_its_next_batch(
    model: Any, trainer: fitbus.Trainer
) -> None:
    holds, errors = Syncs(), list[Exception]()
    thread = begun(model, holds, errors, batch_size=8)

    def let_go(event: EpochBegin) -> None:
        holds.go_on.set()
        thread.join(20)

    trainer.fit_sync(X, Y, callbacks=[fitbus.handler(EpochBegin, wait=True)(let_go)])
    assert not thread.is_alive()
    assert len(errors) == 1
    check_in_step(model, trainer)


def test_a_call_on_a_model_that_shares_layers_is_warned_of(
    model: Any, trainer: fitbus.Trainer
) -> None:
    """It isn't part of the trained one, and so isn't held; what was learned is in the trainer."""
    sibling = keras.Sequential([keras.Input((4,)), *model.layers, keras.layers.Activation("relu")])
    holds, threads = Holds(), list[threading.Thread]()

    def other(event: EpochBegin) -> None:
        threads.append(begun(sibling, holds, []))

    with pytest.warns(RuntimeWarning, match=r"may still write old ones back; `trainer\.state` has"):
        trainer.fit_sync(X, Y, callbacks=[fitbus.handler(EpochBegin, wait=True)(other)])
    learned = [np.array(value) for value in trainer.state.params]
    holds.go_on.set()
    threads[0].join()
    assert not np.array_equal(held(model)[0], learned[0])


@pytest.mark.anyio
@pytest.mark.parametrize("call", ["fit", "evaluate"])
async def test_a_second_run_of_the_model_is_refused(
    model: Any, trainer: fitbus.Trainer, call: str
) -> None:
    """And of one that has a layer of it; the first one isn't disturbed."""
    sharing = keras.Sequential([keras.Input((4,)), *model.layers, keras.layers.Dense(1)])
    sharing.compile("sgd", "mse")
    gate = Gate()

    async def hold(event: EpochEnd) -> None:
        await gate.pass_async()

    async with trainer.run(X, Y, callbacks=[hold]) as run:
        await gate.wait_arrived()
        for second in (model, sharing):
            other = fitbus.Trainer(KerasTask(second))
            with pytest.raises(TrainerBusyError, match=r"another run has.*clone_model\(model\)"):
                await getattr(other, call)(X, Y)
        gate.open()
        await run.wait()
    check_in_step(model, trainer)
    await getattr(fitbus.Trainer(KerasTask(sharing)), call)(X, Y)


def test_a_failed_call_in_a_hook_changes_nothing(model: Any, trainer: fitbus.Trainer) -> None:
    """Keras leaves the model without arrays; the run goes on with its own."""
    before: list[Any] = []

    class Fails(Base):
        def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
            raise OSError("broken")

    class Tries(Base):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            shown: Any = self.model
            before.extend(held(shown))
            with pytest.raises(OSError, match="broken"):
                shown.predict(X, verbose=0, callbacks=[Fails()])

    trainer.fit_sync(X, Y, callbacks=[Tries()])
    for found, expected in zip(trainer.state.params, before, strict=True):
        np.testing.assert_array_equal(found, expected)
    check_in_step(model, trainer)


class Crashes(keras.layers.Layer):
    """Fails while a step runs, when its state is donated already."""

    def call(self, x: Any) -> Any:
        def crash(value: Any) -> Any:
            raise ValueError("in the step")

        value = jax.lax.stop_gradient(x[0, 0])
        return x + jax.pure_callback(crash, jax.ShapeDtypeStruct((), jnp.float32), value)


def test_the_model_is_free_after_its_state_was_lost() -> None:
    crashing = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    crashing.compile("sgd", lambda y, y_pred: Crashes()(y_pred) - y)
    lost = fitbus.Trainer(KerasTask(crashing))
    with pytest.raises(Exception, match="in the step"):
        lost.fit_sync(X, Y)
    with pytest.raises(StateLostError):
        _ = lost.state
    predict: Any = crashing.predict  # Keras annotates `verbose` as a string
    assert predict(X, verbose=0).shape == (32, 1)
    assert not {name for name in vars(crashing) if name.startswith("make_")}
