"""The README's first table 'From Keras to fitbus', from callbacks of one's own on: each row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import keras
import numpy as np
import optax
import pytest

import fitbus
from fitbus.errors import WrongThreadError
from fitbus.testing import EventRecorder

from ._rows import PAGE, PROBLEM, Table, X, Y, fit, model, name_of

TABLE = Table(0, first="`keras.callbacks.Callback`: 14 hooks")
row = TABLE.row


def test_every_row_has_a_test() -> None:
    assert list(TABLE.tests) == TABLE.rows
    assert len(TABLE.rows) >= 11


@pytest.mark.parametrize("cell", TABLE.rows, ids=name_of)
def test_a_row_is_true(cell: str, tmp_path: Path) -> None:
    TABLE.tests[cell](tmp_path)


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
    class Keras(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            theirs.append((epoch, dict(logs)))

    theirs, ours = list[Any](), list[Any]()
    attached = keras.callbacks.CallbackList([Keras()], model=model())
    for epoch in range(3):
        attached.on_epoch_end(epoch, {"loss": 1 / (epoch + 1)})

    def train(publisher: fitbus.Publisher) -> None:
        with publisher:
            for epoch in range(9):
                logs = {"loss": 1 / (epoch + 1)}
                publisher.epoch = epoch
                publisher.barrier(fitbus.EpochEnd(logs=logs))
                for control in publisher.boundary():
                    assert isinstance(control, fitbus.StopTraining)
                    return

    async def main() -> None:
        async with fitbus.Bus() as bus:

            @bus.on(fitbus.EpochEnd)
            async def follow(event: fitbus.EpochEnd) -> fitbus.StopTraining | None:
                ours.append((event.epoch, dict(event.logs)))
                return fitbus.StopTraining() if event.epoch == 2 else None

            await anyio.to_thread.run_sync(train, bus.publisher())

    anyio.run(main)
    assert ours == theirs
    assert "## A loop of your own" in PAGE  # where the link leads


@row("`steps_per_execution=n`")
def _(_: Path) -> None:
    recorder = EventRecorder()
    fit(recorder, epochs=1, steps_per_execution=2)
    assert [event.batch for event in recorder.of(fitbus.BatchEnd)] == [0, 1]
