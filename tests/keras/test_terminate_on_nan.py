"""`TerminateOnNaN` of Keras and of fitbus end training at the same batch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fitbus.callbacks import CSVLogger, LambdaCallback, TerminateOnNaN

from ._differential import Row, Script, Twins, check_same
from ._values import Values

NAN, INF = math.nan, math.inf


def script(values: Values) -> Script:
    """Losses of batches, which may be NaN or infinite, or missing."""
    epochs, steps = values.count(1, 5), values.count(1, 6)
    bad = values.one_of(0.0, 0.02, 0.1, 0.3)

    def logs() -> Row:
        if values.chance(0.1):
            return {"points": NAN}
        loss = values.one_of(NAN, INF, -INF) if values.chance(bad) else values.random.normal()
        return {"loss": values.one_of(float, np.float32)(loss), "points": NAN}

    batches = [[logs() for _ in range(steps)] for _ in range(epochs)]
    rows = [{"loss": batch[-1].get("loss", 0.0)} for batch in batches]
    return Script(rows, batches=batches, initial_epoch=values.one_of(0, 0, 0, 1))


@pytest.mark.parametrize("seed", range(10))
def test_the_batch_at_which_training_ends_is_that_of_keras(twins: Twins, seed: int) -> None:
    """With a stop or an error; the epoch's end is there or not; weights are those of that batch."""
    values = Values(5000 + seed)
    for _ in range(8):
        shown = script(values)
        given = {"raise_error": values.chance(0.3)}
        expected = twins.by_keras(shown, twins.keras.callbacks.TerminateOnNaN(**given))
        check_same(twins.by_fitbus(shown, TerminateOnNaN(**given)), expected, (given, shown))


@pytest.mark.parametrize("target", [NAN, INF])
def test_losses_that_are_computed_end_it_too(twins: Twins, target: float, tmp_path: Path) -> None:
    """In the midst of an epoch, whose row is logged as Keras logs it."""
    x = np.zeros((5, 1), np.float32)
    y = np.array([0, 0, target, 0, 0], np.float32)
    given: dict[str, Any] = {"batch_size": 1, "shuffle": False, "epochs": 3}
    paths = [tmp_path / "keras.csv", tmp_path / "fitbus.csv"]
    twins.reset()
    keras = twins.keras.callbacks
    theirs = [keras.TerminateOnNaN(), keras.CSVLogger(paths[0])]
    expected = twins.model.fit(x, y[:, None], verbose=0, callbacks=theirs, **given)
    ours = [TerminateOnNaN(), CSVLogger(paths[1])]
    history = twins.trainer.fit_sync(x, y, callbacks=ours, **given)
    assert history.epoch == expected.epoch == [0]
    assert repr(history.history["loss"]) == repr(expected.history["loss"]) == f"[{target}]"
    losses = [path.read_text("utf-8").splitlines()[1].split(",")[3] for path in paths]
    assert losses == [str(target)] * 2


def test_after_an_error_keras_ends_no_training_and_fitbus_does(twins: Twins) -> None:
    """`on_train_end` of the other callbacks is called here, whatever ended the training."""
    batches: list[list[Row]] = [[{"loss": NAN}]]
    shown = Script([{"loss": NAN}], batches=batches)
    called: list[str] = []

    def note(name: str) -> Any:
        return lambda _: called.append(name)

    keras, ours = twins.keras.callbacks, TerminateOnNaN(raise_error=True)
    by_keras = keras.LambdaCallback(on_train_end=note("keras"))
    assert twins.by_keras(shown, keras.TerminateOnNaN(True), by_keras).error == "RuntimeError"
    by_fitbus = LambdaCallback(on_train_end=note("fitbus"))
    assert twins.by_fitbus(shown, ours, by_fitbus).error == "RuntimeError"
    assert called == ["fitbus"]
