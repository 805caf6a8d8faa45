"""The README's first table 'From Keras to fitbus': each row is tested here, by its first cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.to_thread
import keras
import numpy as np
import optax
import pytest

import fitbus

from ._rows import PROBLEM, Table, X, Y, fit, model, name_of, near, trainer

Verbose = int | Literal["auto"]
TABLE = Table(0, end="`keras.callbacks.Callback`: 14 hooks")
row = TABLE.row


def test_every_row_has_a_test() -> None:
    assert list(TABLE.tests) == TABLE.rows
    assert len(TABLE.rows) >= 10


@pytest.mark.parametrize("cell", TABLE.rows, ids=name_of)
def test_a_row_is_true(cell: str, tmp_path: Path) -> None:
    TABLE.tests[cell](tmp_path)


@row("`model.fit(x, y, ...)` of a compiled model")
def _(_: Path) -> None:
    theirs, ours = model(), model()
    expected = theirs.fit(X, Y, epochs=3, validation_split=0.25, shuffle=False, verbose=0).history

    async def main() -> fitbus.History:
        made = fitbus.Trainer(fitbus.keras.KerasTask(ours))
        return await made.fit(X, Y, epochs=3, validation_split=0.25, shuffle=False)

    found = anyio.run(main).history
    assert found.keys() == expected.keys()
    assert all(near(found[name], expected[name]) for name in found)
    assert all(map(near, ours.get_weights(), theirs.get_weights()))


@row("an object of `keras.callbacks`, or of a class of your own")
def _(path: Path) -> None:
    class Mine(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            shown: Any = self.model
            seen.append((shown, sorted(logs), shown.get_weights()[0].sum()))

    made, seen = model(), list[Any]()
    ended: list[float] = []

    async def handler(event: fitbus.EpochEnd) -> None:
        ended.append(event.logs["loss"])

    attached = [keras.callbacks.CSVLogger(path / "a.csv"), Mine(), handler]
    fitbus.Trainer(fitbus.keras.KerasTask(made)).fit_sync(X, Y, epochs=2, callbacks=attached)
    assert [entry[:2] for entry in seen] == [(made, ["loss", "mae"])] * 2
    assert seen[0][2] != seen[1][2] == made.get_weights()[0].sum()
    assert len((path / "a.csv").read_text().splitlines()) == 3
    assert len(ended) == 2


@row("a call of `model.fit` that you can't change")
def _(_: Path) -> None:
    made, losses = model(), list[float]()

    async def main() -> None:
        async with fitbus.Bus() as bus:

            @bus.on(fitbus.EpochEnd)
            async def follow(event: fitbus.EpochEnd) -> fitbus.StopTraining:
                losses.append(event.logs["loss"])
                return fitbus.StopTraining("enough")

            with fitbus.keras.PublishEvents(bus) as events:
                await anyio.to_thread.run_sync(
                    lambda: made.fit(X, Y, epochs=9, callbacks=[events], verbose=0)
                )

    anyio.run(main)
    assert len(losses) == 1


@row("`model.compile(RMSprop(1e-3), loss, metrics)`")
def _(_: Path) -> None:
    task = fitbus.Supervised(
        apply=lambda params, x: x @ params["w"],
        loss=optax.squared_error,
        optimizer=optax.rmsprop,
        learning_rate=1e-3,
        metrics={"mae": lambda predictions, y: abs(predictions - y)},
    )
    found = fitbus.Trainer(task, {"w": np.zeros(4)}).fit_sync(X, Y[:, 0], epochs=1).history
    assert sorted(found) == ["loss", "mae"]


@row("weights inside the model")
def _(_: Path) -> None:
    params = {"w": np.zeros(8, np.float32), "b": np.zeros((), np.float32)}
    made = fitbus.Trainer(PROBLEM.task, params)
    made.fit_sync(PROBLEM.x, PROBLEM.y)
    assert not params["w"].any()
    assert np.asarray(made.state.params["w"]).any()


@row("`model.evaluate(x, y)`")
def _(_: Path) -> None:
    made = model()
    found = fitbus.Trainer(fitbus.keras.KerasTask(made)).evaluate_sync(X, Y)
    expected = made.evaluate(X, Y, verbose=0, return_dict=True)
    assert found.keys() == expected.keys()
    assert all(near(found[name], expected[name]) for name in found)


@row("`model.predict(x)`")
def _(_: Path) -> None:
    made = model()
    found = fitbus.Trainer(fitbus.keras.KerasTask(made)).predict_sync(X)
    assert near(found, made.predict(X, verbose=0))


@row("`sample_weight`, `class_weight`")
def _(_: Path) -> None:
    made, weights = model(), np.linspace(0, 2, 64).astype(np.float32)
    found = fitbus.Trainer(fitbus.keras.KerasTask(made)).evaluate_sync(
        X, Y, sample_weight=weights, batch_size=64
    )
    expected = made.evaluate(
        X, Y, sample_weight=weights, batch_size=64, verbose=0, return_dict=True
    )
    assert near(found["loss"], expected["loss"])
    errors = (made.predict(X, verbose=0) - Y)[:, 0] ** 2
    task = fitbus.Supervised(
        apply=lambda params, x: x @ params["w"], loss=optax.squared_error, optimizer=optax.sgd(0.1)
    )
    own = fitbus.Trainer(task, {"w": np.full(4, 0.5, np.float32)})
    logs = own.evaluate_sync(X, Y[:, 0], sample_weight=weights)
    assert near(expected["loss"], (errors * weights).sum() / 64)
    assert near(logs["loss"], (errors * weights).sum() / weights.sum())
    by_class = {0: 1.0, 1: 3.0}
    classes = (Y > 0).astype(np.float32)
    theirs, ours = model(), model()
    expected = theirs.fit(X, classes, class_weight=by_class, shuffle=False, verbose=0).history
    history = fitbus.Trainer(fitbus.keras.KerasTask(ours)).fit_sync(
        X, classes, class_weight=by_class, shuffle=False
    )
    assert near(history.history["loss"], expected["loss"])


@row("`history.history`, `history.epoch`")
def _(_: Path) -> None:
    found = fit(initial_epoch=1, epochs=3)
    expected = model().fit(X, Y, epochs=3, initial_epoch=1, verbose=0)
    assert found.epoch == expected.epoch == [1, 2]
    assert [len(values) for values in found.history.values()] == [2, 2]


@row('`verbose="auto"`: a progress bar')
def _(_: Path) -> None:
    cases: list[tuple[Verbose, int]] = [(0, 0), (1, 1), ("auto", 1), (2, 1)]
    for verbose, shown in cases:
        run = trainer().run(PROBLEM.x, PROBLEM.y, verbose=verbose)
        bars = [entry for entry in run.bus.subscriptions if entry.name == "ProgressBar"]
        assert len(bars) == shown
