"""The README's second table 'From Keras to fitbus', of callbacks: each row is tested here."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import threading
import urllib.parse
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

import fitbus
from fitbus import callbacks

from ._rows import PROBLEM, Table, X, Y, fit, model, name_of, near, trainer

TABLE = Table(1)
row = TABLE.row


def test_every_row_has_a_test() -> None:
    assert list(TABLE.tests) == TABLE.rows
    assert len(TABLE.rows) >= 11


@pytest.mark.parametrize("cell", TABLE.rows, ids=name_of)
def test_a_row_is_true(cell: str, tmp_path: Path) -> None:
    TABLE.tests[cell](tmp_path)


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


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """All tags of a directory, with their points, as TensorBoard itself reads them."""
    reading = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    tensors = importlib.import_module("tensorboard.util.tensor_util")
    found = reading.EventAccumulator(str(folder))
    found.Reload()
    return {
        tag: [(e.step, float(tensors.make_ndarray(e.tensor_proto))) for e in found.Tensors(tag)]
        for tag in found.Tags()["tensors"]
    }


@row("`TensorBoard`")
def _(path: Path) -> None:
    """Keras' names and no others, where TensorBoard finds them."""
    attached = callbacks.TensorBoard(path, write_graph=False)
    history = fit(attached, validation_data=(PROBLEM.x, PROBLEM.y)).history
    trained, validated = curves(path / "train"), curves(path / "validation")
    names = ["loss", "mean_absolute_error"]
    of_tests = {f"evaluation_{name}_vs_iterations" for name in names}
    assert set(trained) == {"epoch_loss", "epoch_mean_absolute_error", "epoch_learning_rate"}
    assert set(validated) == {"epoch_loss", "epoch_mean_absolute_error"} | of_tests
    for name in names:
        assert near(trained[f"epoch_{name}"], list(enumerate(history[name])))
        assert near(validated[f"epoch_{name}"], list(enumerate(history[f"val_{name}"])))
        by_step = zip([2, 4], history[f"val_{name}"], strict=True)
        assert near(validated[f"evaluation_{name}_vs_iterations"], list(by_step))
    assert near(trained["epoch_learning_rate"], [(0, 0.1), (1, 0.1)])


@contextmanager
def listening(requests: list[tuple[str, str, str, bytes]]) -> Generator[str]:
    """A server on this machine that notes what it is sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kind = self.headers["Content-Type"]
            requests.append((self.headers.get("X-From", ""), self.path, kind, body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@row("`RemoteMonitor`")
def _(_: Path) -> None:
    """One request for each epoch, with its logs, as a field of a form or as JSON."""
    for as_json in (False, True):
        requests: list[tuple[str, str, str, bytes]] = []
        with listening(requests) as root:
            given: dict[str, Any] = {"headers": {"X-From": "test"}, "send_as_json": as_json}
            history = fit(callbacks.RemoteMonitor(root, **given)).history
        assert len(requests) == 2
        for epoch, (header, path, kind, body) in enumerate(requests):
            assert (header, path) == ("test", "/publish/epoch/end/")
            sent = {"epoch": epoch, **{name: values[epoch] for name, values in history.items()}}
            if as_json:
                assert kind == "application/json"
                assert json.loads(body) == pytest.approx(sent)
            else:
                assert kind == "application/x-www-form-urlencoded"
                ((field, text),) = urllib.parse.parse_qsl(body.decode())
                assert field == "data"
                assert json.loads(text) == pytest.approx(sent)
    nobody = callbacks.RemoteMonitor("http://127.0.0.1:9", retries=0, timeout_s=0.5)
    assert fit(nobody).epoch == [0, 1]  # nobody listens there, and training goes on


def toy_averaging() -> fitbus.Trainer:
    """A trainer of the toy problem whose state has averages, all of them 2."""
    state = trainer().state
    twos = jax.tree.map(lambda leaf: jnp.full_like(leaf, 2), state.params)
    return fitbus.Trainer(PROBLEM.task, dataclasses.replace(state, extra={"ema": twos}))


@row("`SwapEMAWeights`")
def _(_: Path) -> None:
    """Of a Keras model: the averages of its optimizer are validated, as by Keras' callback."""

    def averaging() -> Any:
        made = model()
        made.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5), "mse")
        made.set_weights([np.full((4, 1), 0.5, np.float32), np.zeros(1, np.float32)])
        return made

    options: dict[str, Any] = {"epochs": 3, "validation_data": (X, Y), "shuffle": False}
    theirs, ours, plain = averaging(), averaging(), averaging()
    swap = keras.callbacks.SwapEMAWeights()
    expected = theirs.fit(X, Y, callbacks=[swap], verbose=0, **options).history
    made = fitbus.Trainer(fitbus.keras.KerasTask(ours))
    found = made.fit_sync(X, Y, callbacks=[callbacks.SwapEMAWeights()], **options).history
    without = fitbus.Trainer(fitbus.keras.KerasTask(plain)).fit_sync(X, Y, **options).history
    assert near(found["val_loss"], expected["val_loss"])
    assert near(found["loss"], without["loss"])
    assert not near(found["val_loss"], without["val_loss"])
    seen: list[Any] = []

    class Look(fitbus.Callback):
        def on_predict_begin(self, logs: Any = None) -> None:
            seen.append(self.model.get_weights()[0])

        on_predict_end = on_predict_begin

    own = toy_averaging()
    before = np.asarray(own.state.params["w"])
    own.predict_sync(PROBLEM.x, callbacks=[callbacks.SwapEMAWeights(), Look()])
    assert [(weights == 2).all() for weights in seen] == [True, False]
    assert np.array_equal(own.state.params["w"], before)
    with pytest.raises(fitbus.FitbusError, match="SwapEMAWeights"):
        fit(callbacks.SwapEMAWeights())  # this task keeps no averages


@row("`ProgbarLogger`")
def _(_: Path) -> None:
    assert callbacks.ProgbarLogger is callbacks.ProgressBar
