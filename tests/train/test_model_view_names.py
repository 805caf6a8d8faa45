"""`self.model` has what it lists: other names are refused; a learning rate that is set acts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import optax
import pytest

import fitbus
from fitbus import Callback, ControlApplied, Supervised
from fitbus.errors import ControlRejectedError, InvalidArgumentError, WrongThreadError
from fitbus.testing import EventRecorder, toy_problem

from ._at import At

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(64, 4)
X, Y = PROBLEM.x, PROBLEM.y
SHARED = fitbus.Trainer(PROBLEM.task, PROBLEM.params)


def message_of(action: Callable[[], object]) -> str:
    with pytest.raises(AttributeError) as caught:
        action()
    return str(caught.value)


SETTABLE = "what can be set is stop_evaluating, stop_predicting, stop_training"
READABLE = (
    "it has evaluate, get_weights, history, load_weights, optimizer, predict, save_weights,"
    " set_weights, state, stop_evaluating, stop_predicting, stop_training"
)
RATES = "what can be set is learning_rate, lr"


async def test_a_name_that_does_not_exist_is_refused_with_those_that_do(
    trainer: fitbus.Trainer,
) -> None:
    """Of the model and of its optimizer; set or read; also what can be read only."""
    found: list[str] = []

    def try_them(model: Any) -> None:
        optimizer = model.optimizer
        for target, name in (
            (model, "stop_trainning"),
            (model, "loss"),
            (model, "optimizer"),
            (model, "predict"),
            (model, "called"),
            (optimizer, "learningrate"),
            (optimizer, "iterations"),
        ):
            found.append(message_of(partial(setattr, target, name, True)))
        for target, name in ((model, "layers"), (model, "save"), (optimizer, "beta_1")):
            found.append(message_of(partial(getattr, target, name)))
        assert not hasattr(model, "layers")
        assert not hasattr(model, "__dict__")

    history = await trainer.fit(
        X, Y, batch_size=32, epochs=2, callbacks=[At("on_train_begin", try_them)]
    )
    assert found == [
        f"model.stop_trainning: did you mean 'stop_training'? {SETTABLE}",
        f"model.loss: {SETTABLE}",
        f"model.optimizer: {SETTABLE}",
        f"model.predict: {SETTABLE}",
        f"model.called: {SETTABLE}",
        f"model.optimizer.learningrate: did you mean 'learning_rate'? {RATES}",
        f"model.optimizer.iterations: {RATES}",
        f"model.layers: {READABLE}",
        f"model.save: {READABLE}",
        "model.optimizer.beta_1: it has iterations, learning_rate, lr",
    ]
    assert history.epoch == [0, 1]  # nothing of it stopped the training


@pytest.mark.parametrize("name", ["learning_rate", "lr"])
async def test_a_learning_rate_that_is_set_acts_on_the_next_step(
    trainer: fitbus.Trainer, name: str
) -> None:
    """Zero holds the parameters, another moves them; both names read it back."""
    params: list[Any] = []
    read: list[float] = []

    class Steers(Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            setattr(self.model.optimizer, name, [9, 0, np.float64(0.125)][batch])
            read.extend((self.model.optimizer.lr, self.model.optimizer.learning_rate))
            params.append(np.asarray(self.model.state.params["w"]))

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            params.append(np.asarray(self.model.state.params["w"]))

    await trainer.fit(X, Y, batch_size=16, steps_per_epoch=3, callbacks=[Steers()])
    assert read == [9.0, 9.0, 0.0, 0.0, 0.125, 0.125]
    moved = [not np.array_equal(a, b) for a, b in itertools.pairwise(params)]
    assert moved == [True, False, True]
    assert float(trainer.state.opt_state.hyperparams["learning_rate"]) == 0.125


@pytest.mark.parametrize("name", ["learning_rate", "lr"])
async def test_an_async_hook_is_told_to_send_a_control(trainer: fitbus.Trainer, name: str) -> None:
    """Elsewhere the state is out of reach, to be set as to be read; nothing is sent in silence."""
    recorder, refused = EventRecorder(), 0

    class Steers(Callback):
        async def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            nonlocal refused
            with pytest.raises(WrongThreadError, match=r"controls .* such as SetLearningRate"):
                setattr(self.model.optimizer, name, 0.0)
            refused += 1

    await trainer.fit(X, Y, batch_size=32, callbacks=[Steers(), recorder])
    assert refused == 1
    assert recorder.of(ControlApplied) == []


@pytest.mark.parametrize("name", ["learning_rate", "lr"])
async def test_no_learning_rate_raises_at_the_assignment_and_changes_nothing(
    trainer: fitbus.Trainer, name: str
) -> None:
    refused: list[object] = []

    def try_them(model: Any) -> None:
        before = model.optimizer.lr
        for wrong in ("fast", math.nan, math.inf, -1, None, True, [0.1], np.ones(2)):
            with pytest.raises(InvalidArgumentError, match="give a finite number of at least 0"):
                setattr(model.optimizer, name, wrong)
            refused.append(wrong)
        assert model.optimizer.lr == before

    await trainer.fit(X, Y, batch_size=32, callbacks=[At("on_train_batch_end", try_them)])
    assert len(refused) == 16


async def test_an_optimizer_without_a_rate_still_says_how_to_have_one() -> None:
    """By both names: not that there is no such attribute."""
    task = Supervised(PROBLEM.task.apply, PROBLEM.task.loss, optimizer=optax.sgd(0.1))
    found: list[str] = []

    def ask(model: Any) -> None:
        for name in ("learning_rate", "lr"):
            found.append(message_of(partial(getattr, model.optimizer, name)))
            with pytest.raises(ControlRejectedError, match="inject_hyperparams"):
                setattr(model.optimizer, name, 0.1)

    trainer = fitbus.Trainer(task, PROBLEM.params)
    await trainer.fit(X, Y, batch_size=64, callbacks=[At("on_train_begin", ask)])
    assert len(found) == 2
    for text in found:
        assert text.startswith("learning_rate: the optimizer keeps none in its state; give")
