"""The README's tables 'From Keras to fitbus': each row is tested here, by its first cell."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.to_thread
import keras
import numpy as np
import optax
import pytest

import fitbus
from fitbus import callbacks
from fitbus.errors import WrongThreadError
from fitbus.testing import EventRecorder, toy_problem

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "README.md").read_text("utf-8")
SECTION = PAGE[PAGE.index("## From Keras to fitbus") : PAGE.index("## Delivery, overflow, errors")]
ROWS = [row for row in re.findall(r"^\| (.+?) \| .* \|$", SECTION, re.MULTILINE) if row != "Keras"]
Array = np.ndarray[Any, Any]
Verbose = int | Literal["auto"]
TESTS: dict[str, Callable[..., None]] = {}

PROBLEM = toy_problem(64)
X = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
Y: Array = X.sum(1, keepdims=True)


def row(cell: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Says which row a function tests."""

    def note(function: Callable[[Path], None]) -> Callable[[Path], None]:
        assert cell not in TESTS
        TESTS[cell] = function
        return function

    return note


def model() -> Any:
    """A compiled model, the same one each time."""
    made = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, kernel_initializer="ones")])
    made.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
    made.set_weights([np.full((4, 1), 0.5, np.float32), np.zeros(1, np.float32)])
    return made


def trainer() -> fitbus.Trainer:
    """A trainer of the toy problem, at its start."""
    return fitbus.Trainer(PROBLEM.task, PROBLEM.params)


def fit(*attached: Any, epochs: int = 2, **options: Any) -> fitbus.History:
    """Fits the toy problem with callbacks."""
    return trainer().fit_sync(
        PROBLEM.x, PROBLEM.y, epochs=epochs, callbacks=list(attached), **options
    )


def near(found: Any, expected: Any) -> bool:
    return bool(np.allclose(found, expected, rtol=1e-5, atol=1e-7))


def test_every_row_has_a_test() -> None:
    assert list(TESTS) == ROWS
    assert len(ROWS) > 30


@pytest.mark.parametrize("cell", ROWS, ids=lambda cell: re.sub(r"\W+", "_", cell)[:50].strip("_"))
def test_a_row_is_true(cell: str, tmp_path: Path) -> None:
    TESTS[cell](tmp_path)


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


@row("`keras.callbacks.Callback`: 14 hooks")
def _(_: Path) -> None:
    def hooks(of: type) -> set[str]:
        return {name for name in dir(of) if name.startswith("on_")} - {"on_error"}

    assert hooks(fitbus.Callback) == hooks(keras.callbacks.Callback)
    assert len(hooks(fitbus.Callback)) == 16  # 14, and two under their old names

    class Async(fitbus.Callback):
        async def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            seen.append(epoch)

    def plain(event: fitbus.EpochEnd) -> None:
        seen.append(event.epoch)

    seen: list[int] = []
    fit(Async(), plain)
    assert seen == [0, 0, 1, 1]


@row("`on_epoch_end(epoch, logs)`")
def _(_: Path) -> None:
    class Hook(fitbus.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            seen.append((epoch, logs))

    def handler(event: fitbus.EpochEnd) -> None:
        seen.append((event.epoch, event.logs))

    seen: list[Any] = []
    fit(Hook(), handler)
    assert seen[0] == seen[1]
    assert seen[2] == seen[3]


@row("`on_train_batch_end(batch, logs)`")
def _(_: Path) -> None:
    class Hook(fitbus.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            seen.append((batch, logs))

    def handler(event: fitbus.BatchEnd) -> None:
        seen.append((event.batch, event.logs))

    seen: list[Any] = []
    fit(Hook(), handler)
    assert seen[::2] == seen[1::2]
    assert [batch for batch, _ in seen[::2]] == [0, 1, 0, 1]


@row("`on_train_end`: only if all went well")
def _(_: Path) -> None:
    recorder, called = EventRecorder(), list[str]()

    def fail(event: fitbus.BatchEnd) -> None:
        raise OSError("no luck")

    class Hook(fitbus.Callback):
        def on_train_end(self, logs: Any = None) -> None:
            called.append("")

    with pytest.raises(OSError, match="no luck"):
        fit(Hook(), recorder, fail)
    (end,) = recorder.of(fitbus.TrainEnd)
    assert end.reason == "failed"
    assert called


@row("`self.model.stop_training = True`")
def _(_: Path) -> None:
    class Hook(fitbus.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.stop_training = True
            self.model.stop_training = False

    async def handler(event: fitbus.EpochEnd) -> fitbus.StopTraining:
        return fitbus.StopTraining("why")

    assert fit(Hook(), epochs=9).epoch == fit(handler, epochs=9).epoch == [0]


@row("`self.model.optimizer.learning_rate = v`")
def _(_: Path) -> None:
    class Hook(fitbus.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.optimizer.learning_rate = 0.25
            seen.append(self.model.optimizer.learning_rate)

    seen: list[float] = []
    fit(Hook())
    assert seen == [0.25, 0.25]
    fixed = fitbus.Supervised(
        apply=lambda params, x: x @ params["w"], loss=optax.squared_error, optimizer=optax.sgd(0.1)
    )
    for task, why in ((fixed, "inject_hyperparams"), (_scheduled(), "schedule")):
        made = fitbus.Trainer(task, {"w": np.zeros(4, np.float32)})
        with pytest.raises(fitbus.errors.ControlRejectedError, match=why):
            made.fit_sync(X, Y[:, 0], callbacks=[Hook()])


def _scheduled() -> fitbus.Supervised:
    return fitbus.Supervised(
        apply=lambda params, x: x @ params["w"],
        loss=optax.squared_error,
        optimizer=optax.sgd,
        learning_rate=optax.constant_schedule(0.1),
    )


@row("`self.model.get_weights()`, `set_weights`, `save_weights`, `load_weights`")
def _(path: Path) -> None:
    class Hook(fitbus.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            first = self.model.get_weights()
            self.model.save_weights(path / "w.npz")
            self.model.set_weights([weight + 1 for weight in first])
            moved.append(self.model.get_weights()[1][0] - first[1][0])
            self.model.load_weights(path / "w.npz")
            moved.append(self.model.get_weights()[1][0] - first[1][0])

    moved: list[float] = []
    fit(Hook())
    assert moved == [1, 0]


@row("`self.model.predict(x)`, `evaluate`")
def _(_: Path) -> None:
    class Hook(fitbus.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            seen.append(self.model.predict(PROBLEM.x[:3]))
            seen.append(self.model.evaluate(PROBLEM.x, PROBLEM.y, return_dict=True)["loss"])

    seen: list[Any] = []
    fit(Hook(), epochs=1)
    assert seen[0].shape == (3,)
    assert seen[1] > 0


@row("reaching for the model from another thread")
def _(_: Path) -> None:
    class Hook(fitbus.Callback):
        async def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.get_weights()

    with pytest.raises(WrongThreadError, match=r"await run\.snapshot\(\)"):
        fit(Hook())


@row("`CallbackList` in a loop of one's own")
def _(_: Path) -> None:
    assert "## A loop of your own" in PAGE  # whose program is run with all others of the page


@row("`steps_per_execution=n`")
def _(_: Path) -> None:
    recorder = EventRecorder()
    fit(recorder, epochs=1, steps_per_execution=2)
    assert [event.batch for event in recorder.of(fitbus.BatchEnd)] == [0, 1]


@row("`EarlyStopping`, `History`, `LambdaCallback`, `ReduceLROnPlateau`")
def _(_: Path) -> None:
    hooked: list[int] = []
    found = fit(
        callbacks.EarlyStopping("loss", patience=2, mode="max"),
        callbacks.ReduceLROnPlateau("loss", patience=1, mode="max"),
        callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: hooked.append(epoch)),
        kept := callbacks.History(),
        epochs=9,
    )
    assert found.epoch == kept.epoch == hooked == [0, 1, 2]
    assert near(found.history["learning_rate"], [0.1, 0.1, 0.01])


@row("`LearningRateScheduler`")
def _(_: Path) -> None:
    def broken(epoch: int, rate: float) -> float:
        raise TypeError("mine")

    found = fit(callbacks.LearningRateScheduler(lambda epoch: 0.5 / (epoch + 1)))
    assert near(found.history["learning_rate"], [0.5, 0.25])
    with pytest.raises(TypeError, match="mine"):
        fit(callbacks.LearningRateScheduler(broken))


@row("`TerminateOnNaN`")
def _(_: Path) -> None:
    x = np.where(np.arange(64)[:, None] == 40, math.nan, PROBLEM.x).astype(np.float32)
    found = trainer().fit_sync(
        x, PROBLEM.y, epochs=3, shuffle=False, callbacks=[callbacks.TerminateOnNaN()]
    )
    assert found.epoch == [0]


@row("`ModelCheckpoint`")
def _(path: Path) -> None:
    fit(
        callbacks.ModelCheckpoint(
            path / "{epoch}.safetensors", "loss", save_weights_only=True, keep=1
        ),
        epochs=3,
    )
    assert [file.name for file in path.iterdir()] == ["3.safetensors"]


@row("`OrbaxCheckpoint`")
def _(path: Path) -> None:
    fit(callbacks.OrbaxCheckpoint(path / "kept", monitor="loss"))
    assert [file.name for file in (path / "kept").iterdir()] == ["1"]


@row("`BackupAndRestore`")
def _(path: Path) -> None:
    def fail(event: fitbus.BatchEnd) -> None:
        if event.step == 3:
            raise OSError("the machine died")

    whole = trainer()
    whole.fit_sync(PROBLEM.x, PROBLEM.y, epochs=2)
    with pytest.raises(OSError, match="died"):
        fit(callbacks.BackupAndRestore(path / "backup", save_freq=1), fail)
    again = trainer()
    again.fit_sync(
        PROBLEM.x, PROBLEM.y, epochs=2, callbacks=[callbacks.BackupAndRestore(path / "backup")]
    )
    assert int(again.state.step) == 4
    assert np.array_equal(again.state.params["w"], whole.state.params["w"])


@row("`CSVLogger`")
def _(path: Path) -> None:
    schedule = callbacks.LearningRateScheduler(lambda epoch: 0.5)
    fit(schedule, callbacks.CSVLogger(path / "log.csv"))
    lines = (path / "log.csv").read_text().splitlines()
    val = "val_loss,val_mean_absolute_error"  # for a validation to come, as in Keras
    assert lines[0] == f"epoch,learning_rate,loss,mean_absolute_error,{val}"
    assert len(lines) == 3


@row("`TensorBoard`")
def _(path: Path) -> None:
    fit(callbacks.TensorBoard(path))
    assert list((path / "train").glob("events.out.tfevents.*"))


@row("`RemoteMonitor`")
def _(_: Path) -> None:
    monitor = callbacks.RemoteMonitor("http://127.0.0.1:9", retries=0, timeout_s=0.5)
    assert fit(monitor).epoch == [0, 1]  # nobody listens there, and training goes on


@row("`SwapEMAWeights`")
def _(_: Path) -> None:
    with pytest.raises(fitbus.FitbusError, match="SwapEMAWeights"):
        fit(callbacks.SwapEMAWeights())  # this task keeps no averages


@row("`ProgbarLogger`")
def _(_: Path) -> None:
    assert callbacks.ProgbarLogger is callbacks.ProgressBar
