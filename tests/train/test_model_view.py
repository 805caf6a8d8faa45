"""What callbacks do with `self.model`, in Keras' words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitbus
from fitbus import (
    BatchEnd,
    ControlApplied,
    PredictBatchEnd,
    PredictEnd,
    TestBatchEnd,
    TestEnd,
    TrainEnd,
)
from fitbus.errors import (
    ControlRejectedError,
    InvalidArgumentError,
)
from fitbus.testing import EventRecorder, toy_problem

from ._at import At

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(64, 4)
X, Y = PROBLEM.x, PROBLEM.y
FOREVER = 10**6
SHARED = fitbus.Trainer(PROBLEM.task, PROBLEM.params)


# Stops.


async def test_stop_training_ends_the_epoch_at_its_batch(trainer: fitbus.Trainer) -> None:
    """It is True from then on, whoever asks; False is nothing, and takes no stop back."""
    asked: list[bool] = []

    def stop(model: Any) -> None:
        model.stop_training = False
        asked.append(model.stop_training)
        model.stop_training = True
        asked.append(model.stop_training)
        model.stop_training = False
        asked.append(model.stop_training)

    later = At("on_epoch_end", lambda model: asked.append(model.stop_training))
    recorder = EventRecorder()
    await trainer.fit(
        X,
        Y,
        batch_size=16,
        epochs=FOREVER,
        callbacks=[At("on_train_batch_end", stop), later, recorder],
    )
    assert asked == [False, True, True, True]
    assert len(recorder.of(BatchEnd)) == 1
    (end,) = recorder.of(TrainEnd)
    assert (end.reason, end.detail, end.source) == ("stopped", "stop_training was set by At", "At")


async def test_stop_evaluating_ends_the_evaluation_at_its_batch(trainer: fitbus.Trainer) -> None:
    """One of its own, and each validation in `fit`, which goes on; the means are of the part."""
    flags: list[bool] = []

    def stop(model: Any) -> None:
        flags.append(model.stop_evaluating)
        model.stop_evaluating = True
        flags.append(model.stop_evaluating)

    recorder = EventRecorder()
    callbacks = [At("on_test_batch_end", stop), recorder]
    logs = await trainer.evaluate(X, Y, batch_size=16, callbacks=callbacks)
    assert len(recorder.of(TestBatchEnd)) == len(recorder.of(TestEnd)) == 1
    assert logs == await trainer.evaluate(X[:16], Y[:16], batch_size=16)
    history = await trainer.fit(
        X, Y, batch_size=16, epochs=2, validation_data=(X, Y), callbacks=callbacks
    )
    assert len(recorder.of(TestBatchEnd)) == len(recorder.of(TestEnd)) == 3
    assert history.epoch == [0, 1]
    assert flags == [False, True] * 3


async def test_stop_predicting_ends_the_prediction_at_its_batch(trainer: fitbus.Trainer) -> None:
    flags: list[bool] = []

    def stop(model: Any) -> None:
        flags.append(model.stop_predicting)
        model.stop_predicting = len(flags) == 2

    recorder = EventRecorder()
    callbacks = [At("on_predict_batch_end", stop), recorder]
    outputs = await trainer.predict(X, batch_size=16, callbacks=callbacks)
    assert (flags, len(outputs)) == ([False, False], 32)
    assert len(recorder.of(PredictBatchEnd)) == 2
    assert len(recorder.of(PredictEnd)) == 1


# The optimizer.


async def test_the_learning_rate_is_read_and_set_by_both_names(trainer: fitbus.Trainer) -> None:
    """In the optimizer's own state, at once; told as a control of the callback."""
    found: list[float] = []
    recorder = EventRecorder()

    def change(model: Any) -> None:
        model.optimizer.learning_rate = 0.5
        found.append(model.optimizer.lr)
        model.optimizer.lr = np.float32(0.25)
        found.append(model.optimizer.learning_rate)
        found.append(float(model.state.opt_state.hyperparams["learning_rate"]))
        with pytest.raises(InvalidArgumentError, match="at least 0"):
            model.optimizer.learning_rate = -1
        assert type(model.optimizer.learning_rate) is float
        assert model.optimizer.iterations == int(model.state.step)

    await trainer.fit(X, Y, batch_size=64, callbacks=[At("on_epoch_begin", change), recorder])
    assert found == [0.5, 0.25, 0.25]
    applied = recorder.of(ControlApplied)
    assert [event.control for event in applied] == [
        fitbus.SetLearningRate(0.5),
        fitbus.SetLearningRate(0.25),
    ]
    assert {event.source for event in applied} == {"At"}
    assert float(trainer.state.opt_state.hyperparams["learning_rate"]) == 0.25


async def test_an_optimizer_without_a_rate_says_how_to_have_one() -> None:
    task = fitbus.Supervised(PROBLEM.task.apply, PROBLEM.task.loss, optimizer=optax.sgd(0.1))
    trainer = fitbus.Trainer(task, PROBLEM.params)
    evaluated: list[Any] = []

    def ask(model: Any) -> None:
        with pytest.raises(AttributeError, match=r"optimizer=optax\.adam, learning_rate"):
            _ = model.optimizer.learning_rate
        with pytest.raises(ControlRejectedError, match="inject_hyperparams"):
            model.optimizer.learning_rate = 0.1
        evaluated.append(model.evaluate(X, Y))

    await trainer.fit(X, Y, batch_size=64, callbacks=[At("on_epoch_end", ask)])
    assert evaluated == [pytest.approx((await trainer.evaluate(X, Y))["loss"], rel=1e-6)]


# Weights.


async def test_weights_are_copies_and_what_is_set_is_trained_on(trainer: fitbus.Trainer) -> None:
    """In the order of the leaves; the optimizer's state stays as it is."""
    kept: list[Any] = []

    def exchange(model: Any) -> None:
        before = model.get_weights()
        kept.append([weight.copy() for weight in before])
        model.set_weights([weight.astype(np.float64) + 1 for weight in before])
        kept.append(model.get_weights())
        for weight in (*before, *model.get_weights()):
            weight[...] = 99  # a copy's

    opt_state = jax.tree.map(np.asarray, trainer.state.opt_state)
    start = trainer.state.params
    step = int(trainer.state.step)
    await trainer.fit(X, Y, epochs=1, steps_per_epoch=1, callbacks=[At("on_train_begin", exchange)])
    first, second = kept
    for found, expected in zip(first, (start["b"], start["w"]), strict=True):
        np.testing.assert_array_equal(found, expected)
    for found, expected in zip(second, first, strict=True):
        np.testing.assert_array_equal(found, expected + 1)
        assert found.dtype == np.float32
    assert int(trainer.state.step) == step + 1
    assert np.abs(trainer.state.params["b"] - second[0]) < 10  # not the 99 of a copy
    jax.tree.map(
        np.testing.assert_array_equal,
        opt_state.hyperparams,
        jax.tree.map(np.asarray, trainer.state.opt_state.hyperparams),
    )


async def test_weights_that_do_not_fit_are_refused_and_nothing_is_changed(
    trainer: fitbus.Trainer,
) -> None:
    refused: list[str] = []

    def try_them(model: Any) -> None:
        before = model.get_weights()
        b, w = before
        for wrong in ([b], [w, b], [b, w[:2]], [b, w, w]):
            with pytest.raises(
                InvalidArgumentError, match=r"weights: .*\[\(\), \(4,\)\]"
            ) as caught:
                model.set_weights(wrong)
            refused.append(str(caught.value))
        for found, expected in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(found, expected)

    await trainer.fit(X, Y, batch_size=64, callbacks=[At("on_epoch_begin", try_them)])
    assert len(refused) == 4


PARAMS: dict[str, Any] = {
    "a dict": {"w": np.arange(4, dtype=np.float32), "b": np.float32(2)},
    "a tree": [np.arange(4, dtype=np.float32), ({"a/b": np.float32(1), "file": np.ones((2, 3))},)],
    "one array": np.arange(4, dtype=np.float32),
    "bfloat16": {"w": jnp.arange(4, dtype=jnp.bfloat16) / 3},
}


class Adds:
    """Adds 1 to all parameters at each step."""

    def train_step(self, state: fitbus.TrainState, batch: fitbus.Batch) -> Any:
        params = jax.tree.map(lambda leaf: leaf + 1, state.params)
        return state.__class__(state.step, params, state.opt_state, state.key), {"loss": 0.0}

    def eval_step(self, state: fitbus.TrainState, batch: fitbus.Batch) -> Any:
        return {"loss": 0.0}

    def predict_step(self, state: fitbus.TrainState, batch: fitbus.Batch) -> Any:
        return batch.x


@pytest.mark.parametrize("kind", PARAMS)
async def test_saved_weights_are_loaded_bit_for_bit(kind: str, tmp_path: Path) -> None:
    """Of any pytree, under a file of any name, in a directory that is made."""
    trainer = fitbus.Trainer(Adds(), PARAMS[kind])
    path = tmp_path / "made" / "first.weights"
    save = At("on_epoch_begin", lambda model: model.save_weights(path))
    await trainer.fit(X, batch_size=64, callbacks=[save])
    changed = jax.tree.leaves(trainer.state.params)
    originals = [jnp.asarray(leaf) for leaf in jax.tree.leaves(PARAMS[kind])]
    for found, original in zip(changed, originals, strict=True):
        assert not np.array_equal(found, original)
    load = At("on_train_end", lambda model: model.load_weights(str(path)))
    await trainer.fit(X, batch_size=64, callbacks=[load])
    for found, original in zip(jax.tree.leaves(trainer.state.params), originals, strict=True):
        assert found.dtype == original.dtype
        np.testing.assert_array_equal(found, original)
    assert [file.name for file in path.parent.iterdir()] == ["first.weights"]


async def test_a_file_of_another_model_is_refused(trainer: fitbus.Trainer, tmp_path: Path) -> None:
    """Naming the file, what it holds and what was expected."""
    other = fitbus.Trainer(Adds(), PARAMS["a tree"])
    path = tmp_path / "other.weights"
    save = At("on_epoch_begin", lambda model: model.save_weights(path))
    await other.fit(X, batch_size=64, callbacks=[save])

    def load(model: Any) -> None:
        before = model.get_weights()
        with pytest.raises(InvalidArgumentError, match=r"other\.weights.*file.*expected.*'w'"):
            model.load_weights(path)
        with pytest.raises(FileNotFoundError, match="none such"):
            model.load_weights(tmp_path / "none such")
        assert all(map(np.array_equal, before, model.get_weights()))
        refused.append(model)

    refused: list[Any] = []
    await trainer.fit(X, Y, batch_size=64, callbacks=[At("on_epoch_end", load)])
    assert len(refused) == 1
