"""The callbacks of Keras' guide to writing one's own do under fitbus what they do in Keras."""
# mypy: allow-subclassing-any

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np
import pytest

import fitbus

from ._data import sums
from ._guide import (
    RATES,
    PrintsEachHook,
    PrintsLosses,
    RecordsFeatures,
    RecordsPredictions,
    SavesAtIntervals,
    Schedules,
    StopsAtMinimum,
)
from ._unmodified import Base, Pair, check_same, close, x

LOADS: Any = keras.models.load_model
HOOKS = ("train", "test", "predict", "epoch", "train_batch", "test_batch", "predict_batch")


@pytest.mark.slow  # compiles for its own sizes, in both libraries
def test_each_hook_is_called_in_keras_order_with_its_logs(models: Pair) -> None:
    """A fit of four batches, validated on four; then evaluate and predict."""
    inputs, targets = sums(1000, seed=1)
    options: dict[str, Any] = {"batch_size": 128, "data": (inputs, targets)}
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
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 3:
                self.model.optimizer.learning_rate = 0.5

    def made() -> list[Any]:
        return [Worsens(), StopsAtMinimum(patience)]

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
    models.by_fitbus([SavesAtIntervals(folders[0], 2)], epochs=2)
    models.by_keras([SavesAtIntervals(folders[1], 2)], epochs=2)
    names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    assert names[0] == names[1] == ["after_2.keras", "after_4.keras", "after_6.keras"]
    for name in names[0]:
        mine, their = (LOADS(folder / name) for folder in folders)
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

    theirs: list[Any] = [
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
