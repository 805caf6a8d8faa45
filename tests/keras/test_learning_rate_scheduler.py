"""`LearningRateScheduler` of Keras and of fitbus set the same learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fitbus.callbacks import LearningRateScheduler

from ._differential import Script, Twins, check_same
from ._values import Values


def schedule(values: Values) -> Callable[..., Any]:
    """A drawn schedule: of the epoch, or of epoch and learning rate; one may fail in some epoch."""
    kind = values.one_of(float, float, np.float32, np.float64)
    factor, first = float(values.random.uniform(0.1, 2)), float(values.random.uniform(0, 1))
    every = values.count(1, 4)
    table = [float(rate) for rate in values.random.uniform(0, 1, 40)]
    fails = values.one_of(*[None] * 6, 3, "text", ValueError, KeyError)
    at = values.count(0, 8)

    def told(epoch: int, rate: float) -> Any:
        if fails is not None and epoch == at:
            if isinstance(fails, type):
                raise fails("no more")
            return fails
        return kind(rate)

    found: Callable[..., Any] = values.one_of(
        lambda epoch: told(epoch, first * factor**epoch),
        lambda epoch: told(epoch, table[epoch]),
        lambda epoch, lr: told(epoch, lr * factor),
        lambda epoch, lr: told(epoch, lr * math.exp(-0.1) if epoch >= at else lr),
        lambda epoch, lr=0.5: told(epoch, lr if epoch % every else lr / 2),
        lambda epoch, *rest: told(epoch, rest[0] + 0.01),
    )
    return found


@pytest.mark.parametrize("seed", range(8))
def test_learning_rates_are_those_of_keras(twins: Twins, seed: int) -> None:
    """By epoch, bit for bit, in the logs too; and what can't be a learning rate is an error."""
    values = Values(3000 + seed)
    for _ in range(10):
        asked = schedule(values)
        theirs = twins.keras.callbacks.LearningRateScheduler(asked)
        ours = LearningRateScheduler(asked)
        for _fit in range(values.one_of(1, 1, 2)):
            rows = [{"loss": float(epoch)} for epoch in range(values.count(1, 12))]
            rate = values.one_of(0.1, 1.0, 0.3)
            shown = Script(rows, learning_rate=rate, initial_epoch=values.one_of(0, 0, 2))
            expected = twins.by_keras(shown, theirs)
            check_same(twins.by_fitbus(shown, ours), expected, shown)


def test_a_type_error_inside_the_schedule_is_swallowed_by_keras_and_not_by_fitbus(
    twins: Twins,
) -> None:
    """Keras calls it again, without the learning rate, and hides the mistake."""

    def mistaken(epoch: int, lr: float = 0.5) -> float:
        return lr + "0.1" if lr < 0.5 else lr  # type: ignore[operator]  # the mistake

    shown = Script([{"loss": 1.0}])
    theirs = twins.by_keras(shown, twins.keras.callbacks.LearningRateScheduler(mistaken))
    assert (theirs.error, theirs.rates) == ("", [0.5, 0.5])
    assert twins.by_fitbus(shown, LearningRateScheduler(mistaken)).error == "TypeError"


def test_an_array_is_refused_by_keras_and_taken_by_fitbus(twins: Twins) -> None:
    """Such as an Optax schedule returns."""
    import optax

    falls = optax.exponential_decay(0.1, 1, 0.5)
    shown = Script([{"loss": 1.0}] * 3)
    theirs = twins.by_keras(shown, twins.keras.callbacks.LearningRateScheduler(falls))
    assert theirs.error == "ValueError"
    ours = twins.by_fitbus(shown, LearningRateScheduler(falls))
    assert ours.rates[1::2] == pytest.approx([0.1, 0.05, 0.025])


@pytest.mark.parametrize("rate", [-0.1, math.nan, math.inf])
def test_what_trains_nothing_is_taken_by_keras_and_refused_by_fitbus(
    twins: Twins, rate: float
) -> None:
    shown = Script([{"loss": 1.0}])
    theirs = twins.by_keras(shown, twins.keras.callbacks.LearningRateScheduler(lambda _: rate))
    assert theirs.error == ""
    assert twins.by_fitbus(shown, LearningRateScheduler(lambda _: rate)).error == "ValueError"
