"""`History` of Keras and of fitbus record alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fitbus.callbacks import EarlyStopping, History

from ._differential import Script, Twins
from ._values import Values

NAMES = ("accuracy", "val_loss", "val_accuracy", "learning_rate", "points", "a", "z")


def script(values: Values) -> Script:
    """Logs of any names, which come and go, and of any kind of value."""
    often = values.one_of(1.0, 1.0, 0.6)
    rows: list[dict[str, Any]] = []
    for _ in range(values.count(1, 8)):
        names = [name for name in NAMES if values.chance(often)]
        values.random.shuffle(names)
        row = {name: drawn(values) for name in names}
        rows.append(row | {"loss": float(values.random.normal())})
    return Script(rows, initial_epoch=values.one_of(0, 0, 1))


def drawn(values: Values) -> Any:
    """A value as logs may have."""
    number = float(values.random.normal())
    kind = values.count(0, 9)
    others = {
        0: float("nan"),
        1: float("-inf"),
        2: np.float32(number),
        3: np.array([number, 1.0]),
        4: [number, 2],
        5: "text",
        6: values.count(-3, 3),
    }
    return others.get(kind, number)


@pytest.mark.parametrize("seed", range(6))
def test_records_are_those_of_keras(twins: Twins, seed: int) -> None:
    """By one object in one fit or several, and what `fit` returns; stopped early or not."""
    values = Values(1000 + seed)
    for _ in range(8):
        theirs, ours = twins.keras.callbacks.History(), History()
        for fit in range(values.count(1, 3)):
            shown = script(values)
            given: dict[str, Any] = {"monitor": "loss", "patience": 1, "mode": "min"}
            expected = twins.by_keras(shown, theirs, twins.keras.callbacks.EarlyStopping(**given))
            found = twins.by_fitbus(shown, ours, EarlyStopping(**given))
            assert repr(ours.history) == repr(theirs.history), shown
            assert ours.epoch == theirs.epoch == found.epoch == expected.epoch
            if fit == 0:  # a History that was used before is what Keras' `fit` returns
                assert repr(found.history) == repr(expected.history), shown


def test_the_record_that_fit_returns_has_the_parameters_of_keras(twins: Twins) -> None:
    x = np.zeros((6, 1), np.float32)
    given: dict[str, Any] = {"batch_size": 2, "epochs": 3, "initial_epoch": 1}
    theirs = twins.model.fit(x, x, verbose=0, **given)
    ours = twins.trainer.fit_sync(x, x[:, 0], **given)
    assert ours.params == theirs.params == {"verbose": 0, "epochs": 3, "steps": 3}
    assert ours.epoch == theirs.epoch
