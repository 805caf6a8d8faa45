"""Hooks of Keras callbacks that fail, and what they are told of failures and cancellations."""
# mypy: allow-subclassing-any

from __future__ import annotations

import pathlib
from typing import Any

import anyio
import anyio.to_thread
import jax
import keras
import numpy as np
import pytest

import fitbus
from fitbus import BatchEnd, EpochEnd, HandlerFailed, TrainEnd
from fitbus.testing import EventRecorder, Gate

from ._unmodified import Base, Pair, check_same, close, failing, x, y

pytestmark = pytest.mark.anyio
K: Any = keras.callbacks
BaseModel: Any = keras.Model
HOOKS = [
    *("on_train_begin", "on_epoch_begin", "on_train_batch_begin", "on_train_batch_end"),
    *("on_test_begin", "on_test_batch_begin", "on_test_batch_end", "on_test_end"),
    *("on_epoch_end", "on_train_end"),
]


@pytest.mark.parametrize("hook", HOOKS)
def test_an_error_of_a_hook_leaves_as_itself(models: Pair, hook: str) -> None:
    """As from Keras' `fit`; the model has the weights of the last completed step, as in Keras.

    (After a failing hook of a batch's begin, that batch is still trained here: no boundary lies
    between the two.)
    """
    error = KeyError("broken")
    recorder = EventRecorder()
    with pytest.raises(KeyError) as caught:
        models.by_fitbus([failing(hook, error), recorder], epochs=2, validation_split=1 / 3)
    assert caught.value is error
    with pytest.raises(KeyError):
        models.by_keras([failing(hook, KeyError())], epochs=2, validation_split=1 / 3)
    done = int(models.theirs.optimizer.iterations)
    if hook == "on_train_batch_begin":
        assert (int(models.ours.optimizer.iterations), done) == (1, 0)
    else:
        assert int(models.ours.optimizer.iterations) == done
        assert close(models.ours.get_weights(), models.theirs.get_weights())
    assert [type(failed) for failed in recorder.of(HandlerFailed)] == [HandlerFailed]
    reason = "completed" if hook == "on_train_end" else "failed"
    assert recorder.of(TrainEnd)[0].reason == reason
    models.reset()
    check_same(*models.both(list))  # both can be trained again


def test_others_are_told_of_the_end_whatever_ended_it(models: Pair, tmp_path: pathlib.Path) -> None:
    """`on_train_end` comes, so files are closed and weights restored; in Keras it doesn't."""
    ended: list[Any] = []
    ends = K.LambdaCallback(on_train_end=lambda logs: ended.append(dict(logs)))
    rows = K.CSVLogger(tmp_path / "log.csv")

    class FailsLater(Base):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 2:
                raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        models.by_fitbus([ends, rows, FailsLater()], epochs=3)
    assert len(ended) == 1
    assert set(ended[0]) == {"loss", "mae"}
    assert rows.csv_file.closed
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3


def test_an_object_that_was_never_begun_is_not_ended(models: Pair) -> None:
    """Of a run that fails before its beginning: Keras' objects would stumble over it."""
    ended: list[Any] = []

    class Both(Base):
        def on_train_begin(self, logs: Any = None) -> None:
            ended.append("begun")

        def on_train_end(self, logs: Any = None) -> None:
            ended.append("ended")

    def data() -> Any:
        raise OSError("no data")
        yield

    with pytest.raises(OSError, match="no data") as caught:
        models.trainer.fit_sync(data, callbacks=[Both(), K.CSVLogger("/never/opened.csv")])
    assert ended == []
    assert not [note for note in getattr(caught.value, "__notes__", []) if "CSVLogger" in note]


async def test_a_cancelled_run_tells_keras_callbacks_its_end(
    models: Pair, tmp_path: pathlib.Path
) -> None:
    """Except for a backup, which is kept: the next fit goes on from it, to the same weights."""
    gate = Gate()
    ended: list[Any] = []
    ends = K.LambdaCallback(on_train_end=lambda logs: ended.append("ended"))
    folder = tmp_path / "backup"

    async def holds(event: BatchEnd) -> None:
        if (event.epoch, event.batch) == (2, 1):
            await gate.pass_async()

    options: dict[str, Any] = {"batch_size": 16, "shuffle": False, "epochs": 4}
    async with anyio.create_task_group() as group:

        async def train() -> None:
            held = fitbus.handler(BatchEnd, wait=True)(holds)
            callbacks = [K.BackupAndRestore(folder), ends, held]
            await models.trainer.fit(x, y, callbacks=callbacks, **options)

        group.start_soon(train)
        await gate.wait_arrived()
        group.cancel_scope.cancel()
        gate.open()
    assert ended == ["ended"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "latest.weights.h5",
        "training_metadata.json",
    ]
    history = await models.trainer.fit(x, y, callbacks=[K.BackupAndRestore(folder)], **options)
    assert history.epoch == [2, 3]
    assert not folder.exists()
    await anyio.to_thread.run_sync(lambda: models.by_keras([], epochs=4))
    assert close(models.ours.get_weights(), models.theirs.get_weights())


def test_weights_that_a_failing_hook_wrote_are_not_taken(models: Pair) -> None:
    """The run's own stay: nothing is half done."""

    class WritesAndFails(Base):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.set_weights([weight * 0 for weight in self.model.get_weights()])
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        models.by_fitbus([WritesAndFails()])
    assert all(np.abs(weight).max() > 0 for weight in models.ours.get_weights()[:1])


def test_keras_callbacks_end_a_run_whose_step_took_the_state_along() -> None:
    """The step's error leaves, and the end is told, though there is no state to show."""
    ended: list[Any] = []

    class Ends(Base):
        def on_train_begin(self, logs: Any = None) -> None:
            assert self.model is not None

        def on_train_end(self, logs: Any = None) -> None:
            ended.append(self.model is not None)

    class Model(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.out = keras.layers.Dense(1)
            self.fails = False

        def call(self, inputs: Any) -> Any:
            def check(found: Any) -> Any:
                if self.fails:
                    raise OSError("in the step")
                return found

            shown = jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)
            return self.out(jax.lax.stop_gradient(jax.pure_callback(check, shown, inputs)))

    model = Model()
    model.compile("sgd", "mse")
    model(x[:1])

    def breaks(event: BatchEnd) -> None:
        model.fails = event.step == 2

    trainer = fitbus.Trainer(fitbus.keras.KerasTask(model))
    with pytest.raises(Exception, match="in the step"):
        trainer.fit_sync(x, y, batch_size=16, callbacks=[Ends(), breaks])
    assert ended == [True]


def test_a_stop_by_a_handler_in_a_validation_reaches_keras_callbacks(models: Pair) -> None:
    """A test hook sees it; the epoch's end comes."""
    seen: list[Any] = []

    class Sees(Base):
        def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 0:
                self.model.stop_training = True

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            seen.append((epoch, self.model.stop_training, sorted(logs)))

    recorder = EventRecorder()
    found = models.by_fitbus([Sees(), recorder], epochs=3, validation_split=0.5)
    assert found.result.epoch == [0]
    assert seen[0][:2] == (0, True)
    assert len(recorder.of(EpochEnd)) == 1


@pytest.mark.parametrize(
    ("hook", "expected"),
    [
        ("on_train_begin", ["on_train_begin", "on_train_end"]),
        (
            "on_epoch_begin",
            ["on_train_begin", "on_epoch_begin", "on_epoch_end", "on_train_end"],
        ),
    ],
)
def test_a_stop_before_the_first_batch_trains_nothing(
    models: Pair, hook: str, expected: list[str]
) -> None:
    """Where Keras still does one batch and validates."""
    calls: list[str] = []

    def note(name: str) -> Any:
        def noting(self: Any, *given: Any) -> None:
            calls.append(name)
            assert not given[-1]  # no logs
            if name == hook:
                self.model.stop_training = True

        return noting

    watching = type("Watches", (Base,), {name: note(name) for name in HOOKS})()
    found = models.by_fitbus([watching], epochs=2, validation_split=1 / 3)
    assert calls == expected
    assert int(models.ours.optimizer.iterations) == 0
    assert all(not values for values in found.result.history.values())
