"""The callbacks of Keras' guide to writing one's own, as subclasses of Keras' class: as in Keras.

After 'Writing your own callbacks', https://keras.io/guides/writing_your_own_callbacks/.
"""
# mypy: allow-subclassing-any
# ruff: noqa: T201  # the guide's callbacks print

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np
import pytest

import fitbus

from ._unmodified import Pair, check_same, close, pair, x

Base: Any = keras.callbacks.Callback

HOOKS_WITH_INDEX = ("epoch", "train_batch", "test_batch", "predict_batch")
HOOKS = ("train", "test", "predict", *HOOKS_WITH_INDEX)


class PrintsEachHook(Base):
    """Prints every hook, with the keys of its logs; keeps the values."""

    def __init__(self) -> None:
        super().__init__()
        self.trace: list[tuple[Any, ...]] = []

    def on_train_begin(self, logs=None):  # type: ignore[no-untyped-def]  # as users write them
        self._seen("train begin", None, logs)

    def on_train_end(self, logs=None):  # type: ignore[no-untyped-def]
        self._seen("train end", None, logs)

    def on_epoch_begin(self, epoch, logs=None):  # type: ignore[no-untyped-def]
        self._seen("epoch begin", epoch, logs)

    def on_epoch_end(self, epoch, logs=None):  # type: ignore[no-untyped-def]
        self._seen("epoch end", epoch, logs)

    def on_test_begin(self, logs=None):  # type: ignore[no-untyped-def]
        self._seen("test begin", None, logs)

    def on_test_end(self, logs=None):  # type: ignore[no-untyped-def]
        self._seen("test end", None, logs)

    def on_predict_begin(self, logs=None):  # type: ignore[no-untyped-def]
        self._seen("predict begin", None, logs)

    def on_predict_end(self, logs=None):  # type: ignore[no-untyped-def]
        self._seen("predict end", None, logs)

    def on_train_batch_begin(self, batch, logs=None):  # type: ignore[no-untyped-def]
        self._seen("train batch begin", batch, logs)

    def on_train_batch_end(self, batch, logs=None):  # type: ignore[no-untyped-def]
        self._seen("train batch end", batch, logs)

    def on_test_batch_begin(self, batch, logs=None):  # type: ignore[no-untyped-def]
        self._seen("test batch begin", batch, logs)

    def on_test_batch_end(self, batch, logs=None):  # type: ignore[no-untyped-def]
        self._seen("test batch end", batch, logs)

    def on_predict_batch_begin(self, batch, logs=None):  # type: ignore[no-untyped-def]
        self._seen("predict batch begin", batch, logs)

    def on_predict_batch_end(self, batch, logs=None):  # type: ignore[no-untyped-def]
        self._seen("predict batch end", batch, logs)

    def _seen(self, what: str, index: int | None, logs: Any) -> None:
        assert type(logs) is dict
        print(what, "" if index is None else index, list(logs))
        self.trace.append((what, index, dict(logs)))


class PrintsLosses(Base):
    """Tells loss and error of each batch, of training and of testing, and of each epoch."""

    def on_train_batch_end(self, batch, logs=None):  # type: ignore[no-untyped-def]
        print(f"batch {batch}: loss {logs['loss']:.4f}")

    def on_test_batch_end(self, batch, logs=None):  # type: ignore[no-untyped-def]
        print(f"test batch {batch}: loss {logs['loss']:.4f}")

    def on_epoch_end(self, epoch, logs=None):  # type: ignore[no-untyped-def]
        print(f"epoch {epoch}: loss {logs['loss']:.4f}, error {logs['mae']:.4f}")


class StopsAtMinimum(Base):
    """Stops when the loss hasn't fallen for `patience` epochs; puts the best weights back."""

    def __init__(self, patience: int = 0) -> None:
        super().__init__()
        self.patience = patience
        self.best_weights: Any = None

    def on_train_begin(self, logs=None):  # type: ignore[no-untyped-def]
        self.waited = 0
        self.stopped_epoch = 0
        self.least = np.inf

    def on_epoch_end(self, epoch, logs=None):  # type: ignore[no-untyped-def]
        loss = logs["loss"]
        if np.less(loss, self.least):
            self.least, self.waited = loss, 0
            self.best_weights = self.model.get_weights()
            return
        self.waited += 1
        if self.waited >= self.patience:
            self.stopped_epoch = epoch
            self.model.stop_training = True
            print("putting back the weights of the best epoch")
            self.model.set_weights(self.best_weights)

    def on_train_end(self, logs=None):  # type: ignore[no-untyped-def]
        if self.stopped_epoch > 0:
            print(f"stopped early, in epoch {self.stopped_epoch + 1}")


RATES = {3: 0.05, 6: 0.01, 9: 0.005, 12: 0.001}


class Schedules(Base):
    """Takes the learning rate of each epoch from a function of it and the present one."""

    def __init__(self, schedule: Any) -> None:
        super().__init__()
        self.schedule = schedule
        self.rates: list[float] = []

    def on_epoch_begin(self, epoch, logs=None):  # type: ignore[no-untyped-def]
        if not hasattr(self.model.optimizer, "learning_rate"):
            raise ValueError("an optimizer needs a learning rate")
        now = self.model.optimizer.learning_rate
        rate = self.schedule(epoch, float(now))
        self.model.optimizer.learning_rate = rate
        print(f"epoch {epoch}: {float(np.array(self.model.optimizer.learning_rate)):.4f}")

    def on_train_batch_end(self, batch, logs=None):  # type: ignore[no-untyped-def]
        self.rates.append(float(self.model.optimizer.learning_rate))


class SavesAtIntervals(Base):
    """Saves the model every few batches."""

    def __init__(self, folder: pathlib.Path, every: int) -> None:
        super().__init__()
        self.folder, self.every, self.count = folder, every, 0

    def on_train_batch_end(self, batch, logs=None):  # type: ignore[no-untyped-def]
        self.count += 1
        if self.count % self.every == 0:
            self.model.save(self.folder / f"after_{self.count}.keras")


class RecordsPredictions(Base):
    """Keeps what the model predicts of a few examples, each epoch."""

    def __init__(self, examples: Any) -> None:
        super().__init__()
        self.examples = examples
        self.predictions: list[Any] = []

    def on_epoch_begin(self, epoch, logs=None):  # type: ignore[no-untyped-def]
        self.predictions.append(self.model.predict(self.examples, verbose=0))

    def on_epoch_end(self, epoch, logs=None):  # type: ignore[no-untyped-def]
        self.predictions.append(self.model.predict(self.examples, verbose=0))


class RecordsFeatures(Base):
    """Keeps what a hidden layer gives for a few examples, each epoch: what the guide draws."""

    def __init__(self, examples: Any) -> None:
        super().__init__()
        self.examples = examples
        self.features: list[Any] = []

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        self.inner = keras.Model(model.inputs, model.get_layer("hidden").output)

    def on_epoch_end(self, epoch, logs=None):  # type: ignore[no-untyped-def]
        self.features.append(np.asarray(self.inner(self.examples)))


@pytest.fixture(scope="module")
def models() -> Pair:
    """Both models, compiled once."""
    return pair()


def test_each_hook_is_called_in_keras_order_with_its_logs(models: Pair) -> None:
    """A fit of four batches, validated on four; then evaluate and predict."""
    random = np.random.default_rng(1)
    inputs = random.normal(size=(1000, 4)).astype(np.float32)
    targets = inputs.sum(axis=1, keepdims=True)
    options = {"batch_size": 128, "data": (inputs, targets)}
    ours, theirs = models.both(lambda: [PrintsEachHook()], validation_split=0.5, **options)
    check_same(ours, theirs)
    mine, their = (outcome.callbacks[0].trace for outcome in (ours, theirs))
    assert close(mine, their)
    keys = ["loss", "mae"]
    batches = [
        f"train batch {word} {n} {k}"
        for n in range(4)
        for word, k in (("begin", []), ("end", keys))
    ]
    tests = [line.replace("train", "test") for line in batches]
    both = [*keys, *(f"val_{key}" for key in keys)]
    assert ours.printed.splitlines() == [
        "train begin  []",
        "epoch begin 0 []",
        *batches,
        "test begin  []",
        *tests,
        f"test end  {keys}",
        f"epoch end 0 {both}",
        f"train end  {both}",
    ]
    ours, theirs = models.both(lambda: [PrintsEachHook()], "evaluate", **options)
    check_same(ours, theirs)
    assert ours.printed.splitlines() == [
        "test begin  []",
        *(line.replace("train", "test") for line in batches),
        *(
            f"test batch {word} {n} {k}"
            for n in range(4, 8)
            for word, k in (("begin", []), ("end", keys))
        ),
        f"test end  {keys}",
    ]
    options["data"] = (inputs[:300],)
    ours, theirs = models.both(lambda: [PrintsEachHook()], "predict", **options)
    check_same(ours, theirs)
    mine, their = (outcome.callbacks[0].trace for outcome in (ours, theirs))
    assert close(mine, their)
    assert ours.printed.splitlines()[1:3] == [
        "predict batch begin 0 []",
        "predict batch end 0 ['outputs']",
    ]
    assert ours.printed.splitlines()[-1] == "predict end  []"


def test_all_fourteen_hooks_are_in_that_class() -> None:
    """Each hook of Keras' class has one here."""
    names = {f"on_{what}_{word}" for what in HOOKS for word in ("begin", "end")}
    assert len(names) == 14
    assert names <= set(vars(PrintsEachHook))
    theirs = {n for n in vars(keras.callbacks.Callback) if n.startswith("on_")}
    assert theirs - names == {"on_batch_begin", "on_batch_end"}


def test_losses_are_told_by_batch_and_epoch(models: Pair) -> None:
    """To four digits, of training, validation and evaluation."""
    ours, theirs = models.both(lambda: [PrintsLosses()], epochs=2, validation_split=0.5)
    check_same(ours, theirs)
    assert len(ours.printed.splitlines()) == 2 * (2 + 2 + 1)
    check_same(*models.both(lambda: [PrintsLosses()], "evaluate"))


@pytest.mark.parametrize("patience", [0, 2])
def test_training_stops_at_the_minimum_with_the_best_weights(models: Pair, patience: int) -> None:
    """The learning rate is so large that the loss soon rises again."""

    class Worsens(Base):
        def on_epoch_begin(self, epoch, logs=None):  # type: ignore[no-untyped-def]
            if epoch == 3:
                self.model.optimizer.learning_rate = 0.5

    made = lambda: [Worsens(), StopsAtMinimum(patience)]  # noqa: E731  # short
    ours, theirs = models.both(made, epochs=30)
    check_same(ours, theirs)
    stopped, expected = (outcome.callbacks[1] for outcome in (ours, theirs))
    assert stopped.stopped_epoch == expected.stopped_epoch > 0
    assert f"stopped early, in epoch {stopped.stopped_epoch + 1}" in ours.printed
    assert close(models.ours.get_weights(), stopped.best_weights)


def test_learning_rates_follow_the_table(models: Pair) -> None:
    """0.1 for three epochs, then 0.05, 0.01, 0.005 and 0.001, each for three."""

    def made() -> list[Any]:
        return [Schedules(lambda epoch, now: 0.1 if epoch == 0 else RATES.get(epoch, now))]

    ours, theirs = models.both(made, epochs=15)
    check_same(ours, theirs)
    rates = ours.callbacks[0].rates
    assert close(rates, theirs.callbacks[0].rates)
    table = np.repeat([0.1, *RATES.values()], 3)
    assert close(rates, list(np.repeat(table, 3)))  # three batches an epoch


def test_models_are_saved_at_intervals(models: Pair, tmp_path: pathlib.Path) -> None:
    """Each file holds the weights that Keras' own fit has after that batch."""
    folders = [tmp_path / "ours", tmp_path / "theirs"]
    for folder in folders:
        folder.mkdir()
    models.reset()
    models.by_fitbus([SavesAtIntervals(folders[0], 2)], epochs=2)
    models.by_keras([SavesAtIntervals(folders[1], 2)], epochs=2)
    names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    assert names[0] == names[1] == ["after_2.keras", "after_4.keras", "after_6.keras"]
    for name in names[0]:
        mine, their = (keras.models.load_model(folder / name) for folder in folders)
        assert close(mine.get_weights(), their.get_weights())
        assert close(mine.optimizer.iterations, their.optimizer.iterations)


def test_predictions_are_recorded_each_epoch(models: Pair) -> None:
    """`self.model.predict` in a hook sees the run's weights, and changes nothing."""
    ours, theirs = models.both(lambda: [RecordsPredictions(x[:5])], epochs=3)
    check_same(ours, theirs)
    mine, their = (outcome.callbacks[0].predictions for outcome in (ours, theirs))
    assert len(mine) == 6
    assert close(mine, their)
    assert not close(mine[0], mine[1])


def test_intermediate_features_are_recorded_each_epoch(models: Pair) -> None:
    """A model that shares layers with the one that is trained."""
    ours, theirs = models.both(lambda: [RecordsFeatures(x[:5])], epochs=3)
    check_same(ours, theirs)
    mine, their = (outcome.callbacks[0].features for outcome in (ours, theirs))
    assert len(mine) == 3
    assert close(mine, their)
    assert not close(mine[0], mine[1])


def test_all_of_them_work_together_beside_a_fitbus_callback(
    models: Pair, tmp_path: pathlib.Path
) -> None:
    """As they are, in one list, nested as one likes."""
    seen: list[float] = []

    class Ours(fitbus.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            seen.append(logs["val_loss"])

    models.reset()
    theirs = [
        PrintsLosses(),
        StopsAtMinimum(2),
        Schedules(lambda epoch, now: now * 0.9),
        SavesAtIntervals(tmp_path, 2),
        RecordsPredictions(x[:2]),
        RecordsFeatures(x[:2]),
    ]
    found = models.by_fitbus([theirs[:3], Ours(), [theirs[3:]]], epochs=3, validation_split=0.5)
    assert seen == found.result.history["val_loss"]
    assert len(seen) == len(theirs[4].predictions) / 2 == len(theirs[5].features) == 3
