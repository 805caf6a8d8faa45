"""A live run of a Keras model: asked, steered, and watched; and what is compiled."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import pytest

import fitbus
from fitbus import (
    BatchEnd,
    ControlApplied,
    EpochEnd,
    ScaleLearningRate,
    SetHyperparameter,
    SetLearningRate,
    StopTraining,
    UpdateState,
)
from fitbus.callbacks import ReduceLROnPlateau
from fitbus.errors import ControlRejectedError, InvalidArgumentError
from fitbus.keras import KerasTask
from fitbus.testing import EventRecorder

from ._pairs import check_close

X = np.random.default_rng(5).normal(size=(40, 4)).astype("float32")
Y = (X.sum(1, keepdims=True) > 0).astype("float32")

pytestmark = pytest.mark.slow  # several programs are compiled

traces: list[str] = []


class Noted(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Notes when its code is run: once a trace."""

    def call(self, x: Any, training: bool = False) -> Any:
        traces.append("train" if training else "test")
        return x


def make(optimizer: Any = "sgd") -> Any:
    keras.utils.set_random_seed(11)
    parts = [keras.layers.Dense(3), Noted(), keras.layers.Dense(1, activation="sigmoid")]
    model = keras.Sequential([keras.Input((4,)), *parts])
    metrics = ["accuracy", keras.metrics.AUC(name="auc")]
    model.compile(optimizer, "binary_crossentropy", metrics=metrics)
    return model


@dataclasses.dataclass
class Shared:
    model: Any
    trainer: fitbus.Trainer


@pytest.fixture(scope="module")
def shared() -> Shared:
    model = make()
    return Shared(model, fitbus.Trainer(KerasTask(model)))


@pytest.mark.parametrize(("batch_size", "programs"), [(20, 1), (16, 2)])
def test_a_step_is_compiled_once_for_each_size_of_batches(
    compiled: list[str], batch_size: int, programs: int
) -> None:
    """And a second fit compiles nothing, whatever was written to the model meanwhile."""
    model = make()
    trainer = fitbus.Trainer(KerasTask(model))
    traces.clear()
    options: dict[str, Any] = {"batch_size": batch_size, "validation_data": (X, Y), "epochs": 2}
    trainer.fit_sync(X, Y, **options)
    assert traces == ["test", *["train", "test"] * programs]  # Keras builds metrics first
    assert compiled.count("jit(step)") == 2 * programs
    compiled.clear()
    trainer.fit_sync(X, Y, **options)
    model.set_weights([weight * 0.5 for weight in model.get_weights()])
    model.optimizer.learning_rate = 0.3
    trainer.fit_sync(X, Y, **options)
    assert len(traces) == 1 + 2 * programs
    assert not compiled


def test_batch_logs_are_the_batches_own_values(shared: Shared) -> None:
    """Those that Keras gives for a batch alone, of metrics that are no means too."""
    theirs = make()
    shared.model.set_weights(theirs.get_weights())
    recorder = EventRecorder()
    shared.trainer.fit_sync(X, Y, batch_size=16, shuffle=False, callbacks=[recorder])
    batches = recorder.of(BatchEnd)
    for event, start in zip(batches, (0, 16, 32), strict=True):
        part = slice(start, start + 16)
        expected = theirs.train_on_batch(X[part], Y[part], return_dict=True)
        found = {name: float(value) for name, value in expected.items()}
        assert event.batch_logs == pytest.approx(found, rel=1e-5)
    assert batches[-1].logs != batches[-1].batch_logs


@pytest.mark.anyio
async def test_a_live_run_is_asked_for_its_state(shared: Shared) -> None:
    """`snapshot`, `predict` and `evaluate` are of the boundary where training stands."""
    found: list[Any] = []
    run = shared.trainer.run(X, Y, batch_size=20, epochs=2)

    @run.on(EpochEnd)
    async def ask(event: EpochEnd) -> None:
        found.append((await run.snapshot(), await run.predict(X), await run.evaluate(X, Y)))

    async with run:
        await run.wait()
    state, outputs, logs = found[1]
    for held, expected in zip(shared.model.trainable_variables, state.params, strict=True):
        np.testing.assert_array_equal(held.value, expected)
    assert int(state.step) == int(shared.trainer.state.step) == found[0][0].step + 2
    np.testing.assert_allclose(outputs, shared.model.predict(X, verbose=0), atol=1e-6)
    expected = shared.model.evaluate(X, Y, verbose=0, return_dict=True)
    assert logs == pytest.approx(expected, rel=1e-5)
    assert not np.allclose(found[0][1], outputs)


@pytest.mark.anyio
async def test_controls_act_on_the_optimizer_and_on_the_weights(shared: Shared) -> None:
    async def steer(event: EpochEnd) -> Any:
        def zero(state: Any) -> Any:
            params = [value * 0 for value in state.params]
            return dataclasses.replace(state, params=params)

        return [
            [SetLearningRate(0.2), ScaleLearningRate(0.5)],
            [StopTraining("enough"), SetLearningRate(0.0), UpdateState(zero)],
        ][event.epoch]

    recorder = EventRecorder()
    history = await shared.trainer.fit(X, Y, batch_size=20, epochs=9, callbacks=[steer, recorder])
    assert history.epoch == [0, 1]
    assert len(recorder.of(ControlApplied)) == 5
    assert float(shared.model.optimizer.learning_rate) == 0.0
    assert not any(weight.any() for weight in shared.model.get_weights())
    shared.model.optimizer.learning_rate = 0.01
    shared.model.set_weights(make().get_weights())


def test_a_set_learning_rate_trains_as_keras_does_with_it(shared: Shared) -> None:
    theirs = make(keras.optimizers.SGD(0.5))
    shared.model.set_weights(theirs.get_weights())
    theirs.fit(X, Y, batch_size=20, shuffle=False, verbose=0)

    def louder(event: fitbus.TrainBegin) -> SetLearningRate:
        return SetLearningRate(0.5)

    shared.trainer.fit_sync(X, Y, batch_size=20, shuffle=False, callbacks=[louder])
    for found, expected in zip(shared.model.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    shared.model.optimizer.learning_rate = 0.01


DECAY: Any = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)


@pytest.mark.anyio
async def test_a_schedule_refuses_controls_and_other_owners() -> None:
    """The control is rejected when it comes; the callback before the first step."""
    model = make(keras.optimizers.SGD(DECAY))
    trainer = fitbus.Trainer(KerasTask(model))
    first = model.get_weights()
    for owner in (ReduceLROnPlateau("loss"), keras.callbacks.ReduceLROnPlateau("loss")):
        with pytest.raises(InvalidArgumentError, match=r"ReduceLROnPlateau.*schedule.*learning_r"):
            await trainer.fit(X, Y, callbacks=[owner])
    for found, expected in zip(model.get_weights(), first, strict=True):
        np.testing.assert_array_equal(found, expected)
    run = trainer.run(X, Y, batch_size=20)
    why: list[str] = []

    @run.on(EpochEnd)
    async def slow_down(event: EpochEnd) -> None:
        with pytest.raises(ControlRejectedError, match="driven by a schedule") as raised:
            await run.send(SetLearningRate(0.5))
        why.append(str(raised.value))

    async with run:
        await run.wait()
    assert len(why) == 1
    assert float(trainer.state.opt_state.hyperparams["learning_rate"]) == pytest.approx(0.05)


def test_each_of_several_optimizers_is_steered_by_its_name() -> None:
    by_path = keras.optimizers.OptimizerMap(
        keras.optimizers.SGD(0.1, name="rest"),
        {".*dense.*bias": keras.optimizers.SGD(0.0, name="biases")},
    )
    model = make(keras.optimizers.MultiOptimizer(by_path))

    def steer(event: EpochEnd) -> SetHyperparameter:
        return SetHyperparameter("learning_rate_biases", 0.25)

    trainer = fitbus.Trainer(KerasTask(model))
    trainer.fit_sync(X, Y, batch_size=20, callbacks=[steer])
    rates = [float(part.learning_rate) for part in model.optimizer.optimizers]
    assert sorted(rates) == pytest.approx([0.1, 0.25])


def test_optimizers_of_one_name_are_told_apart() -> None:
    by_path = keras.optimizers.OptimizerMap(
        keras.optimizers.SGD(0.1, name="same"),
        {".*dense.*bias": keras.optimizers.SGD(0.2, name="same")},
    )
    trainer = fitbus.Trainer(KerasTask(make(keras.optimizers.MultiOptimizer(by_path))))
    rates = trainer.state.opt_state.hyperparams
    assert sorted(rates) == ["learning_rate_same", "learning_rate_same_1"]
    assert sorted(float(rate) for rate in rates.values()) == pytest.approx([0.1, 0.2])


def test_a_trainer_of_a_clone_is_independent(shared: Shared) -> None:
    clone = keras.models.clone_model(shared.model)
    clone.compile("sgd", "binary_crossentropy", metrics=["accuracy"])
    other = fitbus.Trainer(KerasTask(clone))
    clone.set_weights(shared.model.get_weights())
    before, step = shared.model.get_weights(), int(shared.trainer.state.step)
    other.fit_sync(X, Y, batch_size=20)
    assert int(other.state.step) == 2
    assert int(shared.trainer.state.step) == step
    for found, expected in zip(shared.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(clone.get_weights()[0], before[0])


def test_a_snapshot_is_gone_on_with_by_another_model(shared: Shared) -> None:
    """A whole state may be given in place of the model's own."""
    shared.trainer.fit_sync(X, Y, batch_size=20)
    copy, state = make(), shared.trainer.state
    trainer = fitbus.Trainer(KerasTask(copy), state)
    assert trainer.predict_sync(X).shape == (40, 1)
    check_close(copy, shared.model)
    assert int(copy.optimizer.iterations) == int(state.step) > 0
