"""`EarlyStopping` of Keras and of fitbus decide alike, whatever the values and arguments."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fitbus.callbacks import EarlyStopping

from ._differential import Script, Twins, check_same
from ._values import Values

NAN = math.nan


def arguments(values: Values) -> dict[str, Any]:
    """Drawn arguments."""
    monitor = values.one_of("val_loss", "val_loss", "loss", "val_accuracy", "hinge", "points")
    directions = ("min", "max") if monitor == "points" else ("auto", "auto", "min", "max")
    return {
        "monitor": monitor,
        "min_delta": values.one_of(0, 0, 0.1, -0.1, 0.05, 1e-3, 0.5),
        "patience": values.count(0, 4),
        "mode": values.one_of(*directions),
        "baseline": values.one_of(None, None, 0.25, 0.5, 1.0, -1),
        "restore_best_weights": values.chance(0.5),
        "start_from_epoch": values.one_of(0, 0, 1, 3),
    }


def script(values: Values, given: dict[str, Any]) -> Script:
    """Drawn values of what is monitored; some epochs may be without."""
    monitored = values.sequence(values.count(1, 14), given["min_delta"])
    initial = values.one_of(0, 0, 0, 1, 2)
    first = max(given["start_from_epoch"], initial)
    if first < len(monitored) and math.isnan(monitored[first]):
        monitored[first] = 0.5  # a first NaN is another matter: below
    lacks = [values.chance(0.2) for _ in monitored] if values.chance(0.1) else [False] * 14
    rows = [
        {"other": 1.0} if lacking and epoch > first else {given["monitor"]: value, "other": 2.0}
        for epoch, (value, lacking) in enumerate(zip(monitored, lacks, strict=False))
    ]
    return Script(rows, initial_epoch=initial)


@pytest.mark.parametrize("seed", range(16))
def test_decisions_are_those_of_keras(twins: Twins, seed: int) -> None:
    """Epochs, best values, waits, restored weights and warnings; in a second fit too."""
    values = Values(seed)
    for _ in range(10):
        given = arguments(values)
        theirs = twins.keras.callbacks.EarlyStopping(**given)
        ours = EarlyStopping(**given)
        for _fit in range(values.one_of(1, 1, 2)):
            shown = script(values, given)
            expected = twins.by_keras(shown, theirs)
            check_same(twins.by_fitbus(shown, ours), expected, (given, shown))
            for name in ("stopped_epoch", "best", "best_epoch", "wait"):
                found = repr(getattr(ours, name)), repr(getattr(theirs, name))
                assert found[0] == found[1], (name, given, shown)


def test_a_first_nan_poisons_keras_and_not_fitbus(twins: Twins) -> None:
    """There nothing is better than NaN, so it stops while the loss falls; here it goes on."""
    shown = Script([{"loss": value} for value in (NAN, 4.0, 3.0, 2.0, 1.0)])
    theirs = twins.keras.callbacks.EarlyStopping("loss", patience=2)
    ours = EarlyStopping("loss", patience=2)
    assert twins.by_keras(shown, theirs).epoch == [0, 1, 2]
    assert repr(theirs.best) == "nan"
    assert twins.by_fitbus(shown, ours).epoch == [0, 1, 2, 3, 4]
    assert (ours.best, ours.best_epoch, ours.stopped_epoch) == (1.0, 4, 0)


def test_an_improvement_of_exactly_min_delta_is_none_for_both(twins: Twins) -> None:
    """In float32: as double precision, these float32 values fall by a little more than 0.1."""
    values = [float(np.float32(value)) for value in (0.3, 0.2, 0.1)]
    assert values[1] + 0.1 < values[0]
    shown = Script([{"loss": value} for value in values])
    theirs = twins.keras.callbacks.EarlyStopping("loss", 0.1)
    ours = EarlyStopping("loss", 0.1)
    check_same(twins.by_fitbus(shown, ours), twins.by_keras(shown, theirs), shown)
    assert ours.stopped_epoch == theirs.stopped_epoch == 1


def test_what_is_printed_is_the_same(twins: Twins, capsys: pytest.CaptureFixture[str]) -> None:
    given: dict[str, Any] = {"verbose": 1, "restore_best_weights": True}
    shown = Script([{"val_loss": value} for value in (2.0, 1.0, 3.0)])
    twins.by_keras(shown, twins.keras.callbacks.EarlyStopping(**given))
    theirs = capsys.readouterr().out
    twins.by_fitbus(shown, EarlyStopping(**given))
    assert capsys.readouterr().out == theirs != ""
