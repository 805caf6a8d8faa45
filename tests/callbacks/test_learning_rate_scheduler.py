"""What a schedule by epoch is asked, and what it may answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest

import fitbus
from fitbus.callbacks import Callback, LearningRateScheduler, Logs, ReduceLROnPlateau
from fitbus.errors import InvalidArgumentError
from fitbus.events import ControlApplied
from fitbus.testing import EventRecorder, toy_problem

from ._numbers import singles

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(16, 2)
TRAINER = fitbus.Trainer(PROBLEM.task, PROBLEM.params)


class Begins(Callback):
    """Sets the learning rate with which training begins."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.model.optimizer.learning_rate = self.rate


def fit(callback: Any, *more: Any, epochs: int = 4, rate: float = 0.5, **given: Any) -> Any:
    """Returns the history."""
    return TRAINER.fit_sync(
        PROBLEM.x,
        PROBLEM.y,
        batch_size=16,
        epochs=epochs,
        callbacks=[Begins(rate), callback, *more],
        **given,
    )


def rates(callback: Any, **given: Any) -> list[float]:
    found: list[float] = fit(callback, **given).history["learning_rate"]
    return found


class Method:
    """A schedule as a method, and as an object."""

    def halved(self, epoch: int, rate: float) -> float:
        return rate / 2

    def __call__(self, epoch: int) -> float:
        return 1 / (1 + epoch)


def two(epoch: int, rate: float) -> float:
    return rate / 2


def one(epoch: int) -> float:
    return 0.25 / (1 + epoch)


def with_a_default(epoch: int, rate: float = 8.0) -> float:
    return rate / 2


def starred(*given: Any) -> float:
    return float(given[1]) / 2


def named(epoch: int, *, factor: float = 2.0) -> float:
    return factor * one(epoch)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (two, [0.25, 0.125, 0.0625, 0.03125]),
        (with_a_default, [0.25, 0.125, 0.0625, 0.03125]),
        (starred, [0.25, 0.125, 0.0625, 0.03125]),
        (Method().halved, [0.25, 0.125, 0.0625, 0.03125]),
        (math.hypot, [math.hypot(0, 0.5), *(math.sqrt(x) for x in (1.25, 5.25, 14.25))]),
        (one, [0.25, 0.125, 0.25 / 3, 0.0625]),
        (named, [0.5, 0.25, 0.5 / 3, 0.125]),
        (Method(), [1.0, 0.5, 1 / 3, 0.25]),
    ],
)
def test_its_signature_tells_whether_it_takes_the_learning_rate(
    schedule: Callable[..., Any], expected: list[float]
) -> None:
    """Functions, methods and objects; one that doesn't say, as some written in C, gets both."""
    assert rates(LearningRateScheduler(schedule)) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(
    "schedule",
    [
        optax.exponential_decay(0.5, 1, 0.5),
        optax.cosine_decay_schedule(0.5, 4),
        optax.constant_schedule(0.25),
        optax.piecewise_constant_schedule(0.5, {2: 0.5}),
        optax.join_schedules([optax.linear_schedule(0.0, 0.5, 2), optax.constant_schedule(1)], [3]),
    ],
)
def test_an_optax_schedule_counts_epochs(schedule: Any) -> None:
    assert rates(LearningRateScheduler(schedule)) == singles(*(schedule(e) for e in range(4)))


@pytest.mark.parametrize(
    "value",
    [
        *(0.25, np.float32(0.25), np.float64(0.25), np.float16(0.25), np.asarray(0.25)),
        *(jnp.asarray(0.25), jnp.asarray(0.25, jnp.bfloat16)),
    ],
)
def test_any_float_is_a_learning_rate(value: Any) -> None:
    assert rates(LearningRateScheduler(lambda epoch: value), epochs=1) == [0.25]


@pytest.mark.parametrize(
    "value",
    [None, 1, True, "0.1", math.nan, math.inf, -0.1, [0.1], np.asarray([0.1]), jnp.asarray(1), 1j],
)
def test_anything_else_is_refused_by_name(value: Any) -> None:
    """The run fails in the hook, before the epoch's first step, and the rate stays as it was."""
    step = int(TRAINER.state.step)
    with pytest.raises(InvalidArgumentError) as raised:
        fit(LearningRateScheduler(lambda epoch: 0.25 if epoch < 1 else value))
    expected = "the result of LearningRateScheduler.schedule for epoch 1: found "
    assert str(raised.value).startswith(expected)
    assert "return a float" in str(raised.value)
    assert int(TRAINER.state.step) == step + 1
    assert float(TRAINER.state.opt_state.hyperparams["learning_rate"]) == 0.25


def test_a_type_error_within_the_schedule_is_raised_as_itself() -> None:
    """It isn't called again with the epoch alone."""
    calls: list[int] = []

    def schedule(epoch: int, rate: Any = None) -> float:
        calls.append(epoch)
        return 0.1 + rate["nothing"]  # type: ignore[no-any-return]  # it raises

    with pytest.raises(TypeError, match="not subscriptable"):
        fit(LearningRateScheduler(schedule))
    assert calls == [0]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' own
def test_the_rates_are_those_of_keras() -> None:
    """Bit for bit, over epochs, from what a schedule makes of the rate before."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    random = np.random.default_rng(3)
    for _ in range(20):
        factors = random.uniform(0.5, 1.1, 4).tolist()

        def schedule(epoch: int, rate: float, factors: Any = factors) -> float:
            return rate * float(factors[epoch])

        model.compile("sgd", "mse")
        model.optimizer.learning_rate = 0.3
        theirs = keras.callbacks.LearningRateScheduler(schedule)
        theirs.set_model(model)
        expected: list[float] = []
        for epoch in range(4):
            logs = {"loss": 1.0}
            theirs.on_epoch_begin(epoch)
            theirs.on_epoch_end(epoch, logs)
            expected.append(logs["learning_rate"])
        assert rates(LearningRateScheduler(schedule), rate=0.3) == expected


def test_epochs_count_from_initial_epoch() -> None:
    asked: list[int] = []

    def schedule(epoch: int) -> float:
        asked.append(epoch)
        return 0.25

    fit(LearningRateScheduler(schedule), initial_epoch=2, epochs=4)
    assert asked == [2, 3]


def test_verbose_prints_each_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    fit(LearningRateScheduler(one, verbose=1), epochs=2)
    fit(LearningRateScheduler(one), epochs=2)
    assert capsys.readouterr().out.splitlines() == [
        "Epoch 1: LearningRateScheduler sets the learning rate to 0.25.",
        "Epoch 2: LearningRateScheduler sets the learning rate to 0.125.",
    ]


async def test_it_acts_before_the_first_batch_of_the_epoch() -> None:
    """On every loop: the control lies between the begin of the epoch and its first batch."""
    recorder = EventRecorder()
    callback = LearningRateScheduler(one)
    await TRAINER.fit(PROBLEM.x, PROBLEM.y, batch_size=16, epochs=2, callbacks=[callback, recorder])
    names = recorder.names
    begin = ["EpochBegin", "ControlApplied", "BatchBegin", "BatchEnd", "EpochEnd"]
    assert names == ["TrainBegin", *begin, *begin, "TrainEnd"]
    assert [event.source for event in recorder.of(ControlApplied)] == ["LearningRateScheduler"] * 2
    assert callback.state_dict() == {}


async def test_it_is_the_only_owner_of_the_learning_rate() -> None:
    step = int(TRAINER.state.step)
    callbacks = [LearningRateScheduler(one), ReduceLROnPlateau("loss")]
    with pytest.raises(InvalidArgumentError, match="LearningRateScheduler sets 'learning_rate'"):
        await TRAINER.fit(PROBLEM.x, PROBLEM.y, callbacks=callbacks)
    assert int(TRAINER.state.step) == step


@pytest.mark.parametrize("schedule", [None, 0.1, {0: 0.1}, lambda: 0.1, lambda a, b, c: 0.1])
def test_what_is_no_schedule_is_refused(schedule: Any) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        LearningRateScheduler(schedule)
    assert str(raised.value).startswith("LearningRateScheduler.schedule: found ")
    assert "(epoch, learning_rate)" in str(raised.value)
