"""`ReduceLROnPlateau` of Keras and of fitbus set the same learning rates."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fitbus.callbacks import ReduceLROnPlateau

from ._differential import Script, Twins, check_same
from ._values import Values

NAN = math.nan
NOTED = ("best", "wait", "cooldown_counter")


def arguments(values: Values) -> dict[str, Any]:
    """Drawn arguments."""
    monitor = values.one_of("val_loss", "loss", "val_accuracy", "hinge", "points")
    directions = ("min", "max") if monitor == "points" else ("auto", "auto", "min", "max")
    given = {
        "monitor": monitor,
        "factor": values.one_of(0.1, 0.5, 0.2, 0.9, 1 / 3, 0.0, 0.7),
        "patience": values.count(0, 3),
        "mode": values.one_of(*directions),
        "min_delta": values.one_of(1e-4, 0, 0.1, -0.05, 0.5),
        "cooldown": values.one_of(0, 0, 1, 2, 3),
        "min_lr": values.one_of(0.0, 0, 0.005, 0.01, 0.05, 0.1, 0.3, 0.7, 1e-8),
    }
    return {name: value for name, value in given.items() if name == "mode" or values.chance(0.8)}


def script(values: Values, given: dict[str, Any]) -> Script:
    """Drawn values of what is monitored; some epochs may be without."""
    monitored = values.sequence(values.count(1, 16), given.get("min_delta", 1e-4))
    initial = values.one_of(0, 0, 0, 1)
    if initial < len(monitored) and math.isnan(monitored[initial]):
        monitored[initial] = 0.5  # a first NaN is another matter: below
    lacking = 0.2 if values.chance(0.1) else 0.0
    rows = [
        {"other": 1.0}
        if epoch > initial and values.chance(lacking)
        else {given.get("monitor", "val_loss"): value}
        for epoch, value in enumerate(monitored)
    ]
    rate = values.one_of(0.1, 1.0, 0.3, 0.7, float(values.random.uniform(1e-3, 1)))
    return Script(rows, learning_rate=rate, initial_epoch=initial)


@pytest.mark.parametrize("seed", range(24))
def test_learning_rates_are_those_of_keras(twins: Twins, seed: int) -> None:
    """By epoch, bit for bit, in the logs too; so are best values, waits and cooldowns."""
    values = Values(2000 + seed)
    for _ in range(6):
        given = arguments(values)
        theirs = twins.keras.callbacks.ReduceLROnPlateau(**given)
        ours = ReduceLROnPlateau(**given)
        for _fit in range(values.one_of(1, 1, 2)):
            shown = script(values, given)
            expected = twins.by_keras(shown, theirs)
            check_same(twins.by_fitbus(shown, ours), expected, (given, shown))
            for name in NOTED:
                found = repr(getattr(ours, name)), repr(getattr(theirs, name))
                assert found[0] == found[1], (name, given, shown)


def test_a_first_nan_poisons_keras_and_not_fitbus(twins: Twins) -> None:
    """There it lowers the learning rate while the loss falls; here nothing is to be lowered."""
    shown = Script([{"loss": value} for value in (NAN, 4.0, 3.0, 2.0, 1.0)])
    theirs = twins.keras.callbacks.ReduceLROnPlateau("loss", patience=2)
    ours = ReduceLROnPlateau("loss", patience=2)
    rates = twins.by_keras(shown, theirs).rates
    assert rates[-1] == pytest.approx(0.001)
    assert repr(theirs.best) == "nan"
    assert set(twins.by_fitbus(shown, ours).rates) == {rates[0]}
    assert (ours.best, ours.wait) == (1.0, 0)
