"""When the learning rate is lowered, to what, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import keras
import numpy as np
import optax
import pytest

import fitbus
from fitbus.callbacks import Callback, History, Logs, ReduceLROnPlateau
from fitbus.errors import InvalidArgumentError
from fitbus.events import ControlApplied
from fitbus.testing import EventRecorder, toy_problem
from fitbus.train import Batch, TrainState

from ._numbers import singles

pytestmark = pytest.mark.anyio

NAN = math.nan


class Scripted:
    """Its loss is what the data say; its optimizer has a learning rate, and does nothing."""

    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Any]:
        return state, {"loss": batch.x[0], "score": batch.x[0], "accuracy": -batch.x[0]}

    def eval_step(self, state: TrainState, batch: Batch) -> Any:
        return {"loss": batch.x[0]}

    def predict_step(self, state: TrainState, batch: Batch) -> Any:
        return batch.x


TRAINER = fitbus.Trainer(Scripted(), {"w": np.zeros(2, np.float32)})


def set_rate(rate: float) -> None:
    """The learning rate with which the next fit begins."""

    class Sets(Callback):
        def on_train_end(self, logs: Logs | None = None) -> None:
            self.model.optimizer.learning_rate = rate

    TRAINER.fit_sync(np.zeros(1, np.float32), batch_size=1, epochs=1, callbacks=[Sets()])


def fit(losses: Sequence[float], *callbacks: Any, rate: float = 0.1, **more: Any) -> list[float]:
    """An epoch for each loss. Returns the learning rates after each."""
    set_rate(rate)
    rates: list[float] = []

    class Notes(Callback):
        def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
            rates.append(self.model.optimizer.learning_rate)

    TRAINER.fit_sync(
        np.asarray(losses, np.float32),
        batch_size=1,
        steps_per_epoch=1,
        epochs=len(losses),
        shuffle=False,
        callbacks=[*callbacks, Notes()],
        **more,
    )
    return rates


FLAT = [1.0] * 6

# What is given, the losses, and the learning rates after each epoch; the first one is 0.5.
CASES: dict[str, tuple[dict[str, Any], list[float], list[float]]] = {
    "patience": ({"patience": 2}, FLAT, [0.5, 0.5, 0.25, 0.25, 0.125, 0.125]),
    "patience 0 is patience 1": ({"patience": 0}, FLAT[:3], [0.5, 0.25, 0.125]),
    "an improvement": ({"patience": 2}, [3, 3, 2, 2, 1, 1], [0.5] * 6),
    "exactly min_delta": ({"min_delta": 1, "patience": 1}, [4, 3, 1], [0.5, 0.25, 0.25]),
    "a negative min_delta": ({"min_delta": -1, "patience": 1}, [4, 3, 1], [0.5, 0.25, 0.25]),
    "cooldown": (
        {"patience": 1, "cooldown": 2},
        FLAT + FLAT[:2],
        [0.5, 0.25, 0.25, 0.125, 0.125, 0.0625, 0.0625, 0.03125],
    ),
    "an improvement while it cools down": (
        {"patience": 2, "cooldown": 2},
        [3, 3, 3, 2, 2, 2, 2],
        [0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 0.125],
    ),
    "min_lr": ({"patience": 1, "min_lr": 0.2}, FLAT[:4], [0.5, 0.25, 0.2, 0.2]),
    "factor 0": ({"patience": 1, "factor": 0, "min_lr": 0.25}, FLAT[:3], [0.5, 0.25, 0.25]),
    "max": ({"mode": "max", "patience": 1}, [1, 2, 2, 3], [0.5, 0.5, 0.25, 0.25]),
    "a first NaN": ({"patience": 2}, [NAN, 3, 2, 2, 2, 2], [0.5, 0.5, 0.5, 0.5, 0.25, 0.25]),
    "nothing but NaN": ({"patience": 2}, [NAN] * 4, [0.5, 0.25, 0.25, 0.125]),
}


@pytest.mark.parametrize("case", CASES)
def test_it_lowers_the_learning_rate(case: str) -> None:
    """In the epoch that Keras' semantics ask for, to what they ask for."""
    given, losses, rates = CASES[case]
    arguments: dict[str, Any] = {"factor": 0.5, **given}
    found = fit(losses, ReduceLROnPlateau("loss", **arguments), rate=0.5)
    assert found == singles(*rates)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' own
def test_decisions_are_those_of_keras() -> None:
    """Of walks, plateaus and NaN in the middle: the same rates, bit for bit, and counters."""
    random = np.random.default_rng(7)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    reductions = 0
    for number in range(24):
        length = int(random.integers(3, 16))
        losses = np.round(4 + np.cumsum(random.normal(size=length)), 1).astype(np.float32)
        losses[1:][random.random(length - 1) < 0.1] = NAN
        given: dict[str, Any] = {
            "monitor": "loss",
            "factor": float(random.choice([0.1, 0.3, 0.7])),
            "patience": int(random.integers(0, 4)),
            "mode": ["auto", "min", "max"][number % 3],
            "min_delta": float(random.choice([0.0, 1e-4, 0.5])),
            "cooldown": int(random.integers(0, 4)),
            "min_lr": float(random.choice([0.0, 0.003, 0.05])),
        }
        theirs = keras.callbacks.ReduceLROnPlateau(**given)
        theirs.set_model(model)
        model.optimizer.learning_rate = 0.1
        theirs.on_train_begin()
        expected: list[float] = []
        for epoch, loss in enumerate(losses.tolist()):
            theirs.on_epoch_end(epoch, {"loss": loss})
            expected.append(float(np.asarray(model.optimizer.learning_rate)))
        ours = ReduceLROnPlateau(**given)
        assert fit(losses.tolist(), ours) == expected, (given, losses)
        assert (ours.wait, ours.cooldown_counter) == (theirs.wait, theirs.cooldown_counter)
        assert ours.best == theirs.best
        reductions += expected[-1] < 0.1
    assert reductions > 8


def test_at_min_lr_it_is_neither_lowered_nor_told_of_and_wait_grows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also where float32 can't hold `min_lr`, and has the number below or above it."""
    for least in (0.3, 0.7, 0.1):
        callback = ReduceLROnPlateau("loss", patience=1, min_lr=least, verbose=1, cooldown=0)
        rates = fit([1.0] * 6, callback, rate=0.8)
        assert rates[1:] == singles(least) * 5
        assert callback.wait == 4
        assert capsys.readouterr().out.splitlines() == [
            f"Epoch 2: ReduceLROnPlateau lowers the learning rate to {least}."
        ]


def test_a_rate_of_64_bits_at_min_lr_is_not_lowered_to_itself() -> None:
    """Though the float32 of `min_lr` lies below it."""
    with jax.enable_x64(True):
        trainer = fitbus.Trainer(Scripted(), {"w": np.zeros(2)})
        callback = ReduceLROnPlateau("loss", patience=1, min_lr=0.08)
        x = np.ones(1, np.float32)
        history = trainer.fit_sync(x, batch_size=1, epochs=4, callbacks=[callback])
    assert history.history["learning_rate"][2:] == [0.08, 0.08]
    assert callback.wait == 2


def test_the_logs_get_the_learning_rate_with_which_the_epoch_was_trained() -> None:
    """A record of `fit`, and callbacks that come after it, have it; the event doesn't."""
    history, recorder = History(), EventRecorder()
    fit([1.0, 1.0, 1.0], ReduceLROnPlateau("loss", patience=1), history, recorder)
    assert history.history["learning_rate"] == singles(0.1, 0.1, 0.01)
    assert all("learning_rate" not in event.logs for event in recorder.of(fitbus.EpochEnd))


def test_the_control_tells_who_sent_it() -> None:
    recorder = EventRecorder()
    fit([1.0, 1.0], ReduceLROnPlateau("loss", patience=1), recorder)
    (applied,) = recorder.of(ControlApplied)
    assert applied.source == "ReduceLROnPlateau"


def test_an_epoch_without_the_value_warns_and_is_not_judged() -> None:
    callback = ReduceLROnPlateau(patience=1)
    with pytest.warns(RuntimeWarning, match="no 'val_loss' in the logs of epoch [02]; .*loss"):
        rates = fit(
            [1.0] * 4, callback, validation_data=[np.ones(1, np.float32)], validation_freq=2
        )
    assert rates == singles(0.1, 0.1, 0.1, 0.01)


def test_used_again_it_starts_anew() -> None:
    callback = ReduceLROnPlateau("loss", patience=2, factor=0.5)
    assert fit([1.0, 2.0], callback, rate=0.5) == [0.5, 0.5]
    assert callback.wait == 1
    assert fit([3.0, 3.0, 3.0], callback, rate=0.5) == [0.5, 0.5, 0.25]


def test_state_dict_holds_what_it_remembers() -> None:
    """Plain values, taken back by another object, which then decides as the first one would."""
    first, second = (ReduceLROnPlateau("loss", patience=3, cooldown=2) for _ in range(2))
    assert first.state_dict() == {"best": None, "wait": 0, "cooldown_counter": 0}
    fit([1.0] * 6, first)
    kept = first.state_dict()
    assert kept == {"best": 1.0, "wait": 1, "cooldown_counter": 0}
    second.load_state_dict(kept)
    assert second.state_dict() == kept


async def test_what_cannot_work_is_refused_before_the_first_step() -> None:
    """A monitor that never appears, a direction that can't be told, and who owns the rate."""
    step = int(TRAINER.state.step)

    async def refused(*callbacks: Any) -> str:
        with pytest.raises(InvalidArgumentError) as raised:
            await TRAINER.fit(np.zeros(2, np.float32), batch_size=1, callbacks=callbacks)
        return str(raised.value)

    assert "ReduceLROnPlateau.monitor: found 'val_loss'" in await refused(ReduceLROnPlateau())
    assert "mode='min' or mode='max'" in await refused(ReduceLROnPlateau("score"))
    two = [ReduceLROnPlateau("loss"), ReduceLROnPlateau("accuracy")]
    assert "ReduceLROnPlateau sets 'learning_rate' already" in await refused(*two)
    assert int(TRAINER.state.step) == step


@pytest.mark.parametrize(
    ("optimizer", "rate", "why"),
    [
        (optax.sgd, optax.constant_schedule(0.1), "schedule sets 'learning_rate' already"),
        (optax.sgd(0.1), None, "keeps no 'learning_rate' in its state"),
    ],
)
def test_an_optimizer_that_cannot_be_steered_is_refused(
    optimizer: Any, rate: Any, why: str
) -> None:
    problem = toy_problem(8, 2)
    task = fitbus.Supervised(problem.task.apply, problem.task.loss, optimizer, rate)
    trainer = fitbus.Trainer(task, problem.params)
    with pytest.raises(InvalidArgumentError, match=why):
        trainer.fit_sync(problem.x, problem.y, callbacks=[ReduceLROnPlateau("loss")])
    assert int(trainer.state.step) == 0


def test_it_lowers_the_rate_of_a_real_optimizer() -> None:
    """Validated, with the state on the device: what `fit` returns has the rate of each epoch."""
    problem = toy_problem(32, 2)
    task = dataclasses.replace(problem).task
    trainer = fitbus.Trainer(task, jax.tree.map(np.copy, problem.params))
    history = trainer.fit_sync(
        problem.x,
        problem.y,
        epochs=4,
        validation_split=0.5,
        callbacks=[ReduceLROnPlateau(patience=1, min_delta=1e9, factor=0.5)],
    )
    assert history.history["learning_rate"] == singles(0.1, 0.1, 0.05, 0.025)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("monitor", ""),
        ("monitor", None),
        ("factor", 1.0),
        ("factor", 2),
        ("factor", -0.1),
        ("factor", NAN),
        ("factor", "0.1"),
        ("factor", True),
        ("patience", -1),
        ("patience", 1.5),
        ("mode", "lowest"),
        ("min_delta", math.inf),
        ("min_delta", None),
        ("cooldown", -1),
        ("cooldown", None),
        ("min_lr", -1e-9),
        ("min_lr", math.inf),
        ("min_lr", None),
        ("epsilon", 1e-4),
        ("patiense", 3),
    ],
)
def test_an_argument_out_of_range_is_refused_with_its_name(argument: str, value: Any) -> None:
    """So is one that it doesn't have; the one that Keras once called otherwise says its name."""
    with pytest.raises(InvalidArgumentError) as raised:
        ReduceLROnPlateau(**{argument: value})
    assert str(raised.value).startswith(f"ReduceLROnPlateau.{argument}: found {value!r}; ")
    assert ("min_delta" in str(raised.value)) == (argument in ("epsilon", "min_delta", "patiense"))
