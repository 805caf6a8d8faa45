"""What a backup keeps of Keras objects: of each its own, and what it has come to remember."""
# mypy: allow-subclassing-any

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import fitbus
from fitbus.callbacks import BackupAndRestore
from fitbus.keras import KerasCallback

from ._data import one_layer, sums

X, Y = sums(32, 8)
Base: Any = keras.callbacks.Callback


def trainer() -> fitbus.Trainer:
    """Of a compiled model, the same one each time."""
    return fitbus.Trainer(fitbus.keras.KerasTask(one_layer(features=8)))


def fit(*callbacks: Any, epochs: int = 4) -> fitbus.History:
    return trainer().fit_sync(X, Y, epochs=epochs, callbacks=list(callbacks))


def broken(path: Path, *callbacks: Any) -> None:
    """A training that breaks off in its third epoch, with a backup."""

    def fail(event: fitbus.EpochBegin) -> None:
        if event.epoch == 2:
            raise OSError("the machine died")

    with pytest.raises(OSError, match="died"):
        fit(BackupAndRestore(path), *callbacks, fitbus.handler(fitbus.EpochBegin, wait=True)(fail))


class Best(Base):
    """Has attributes of the names that `EarlyStopping` has too."""

    def __init__(self) -> None:
        super().__init__()
        self.best = 0.99
        self.wait = 7

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.best -= 0.01


@pytest.mark.parametrize("turned", [False, True])
def test_an_object_gets_what_one_of_its_own_class_remembered(tmp_path: Path, turned: bool) -> None:
    """In whatever order the objects are given now."""

    def attached() -> list[Any]:
        return [Best(), keras.callbacks.EarlyStopping("loss", patience=9, min_delta=10)]

    whole, again = attached(), attached()
    fit(*whole)
    broken(tmp_path, *attached())
    fit(BackupAndRestore(tmp_path), *(reversed(again) if turned else again))
    assert again[0].best == whole[0].best == pytest.approx(0.95)
    assert again[0].wait == 7
    assert again[1].best == whole[1].best > 1
    assert again[1].wait == whole[1].wait == 3


def test_an_object_that_is_left_out_gives_another_class_nothing(tmp_path: Path) -> None:
    """It is warned of."""
    broken(tmp_path, Best(), keras.callbacks.EarlyStopping("loss", patience=9, min_delta=10))
    stopping: Any = keras.callbacks.EarlyStopping("loss", patience=9, min_delta=10)
    with pytest.warns(RuntimeWarning, match=r"1 \S*test_unmodified_kept\.Best of the backup"):
        fit(BackupAndRestore(tmp_path), stopping)
    assert stopping.best > 1


class Data(Base):
    """Was made with data, under a name of its own, and counts in place."""

    def __init__(self, given: Any) -> None:
        super().__init__()
        self.data, _ = given
        self.table = np.zeros(3)
        self.noted: dict[str, Any] = {"epochs": []}
        self.same = [1, 2]

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.table[epoch % 3] += 1
        self.noted["epochs"].append(epoch)
        self.mean = float(self.data.mean())


def test_only_what_has_changed_is_kept(tmp_path: Path) -> None:
    """Data that another object was made with are neither saved nor replaced."""
    broken(tmp_path, Data((np.zeros((1000, 1000)), 0)))
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 100_000
    again = Data((np.ones((1000, 1000)), 0))
    again.same = [3]
    fit(BackupAndRestore(tmp_path), again)
    assert again.mean == 1.0
    assert again.same == [3]
    assert again.table.tolist() == [2, 1, 1]
    assert again.noted == {"epochs": [0, 1, 2, 3]}


class Slots:
    """Has no attributes but these."""

    __slots__ = ("seen",)

    def set_model(self, model: Any) -> None:
        self.seen = 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seen += 1


class Odd(Base):
    """Has what no checkpoint can keep, and what one can."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.huge = {"at": 2**70, 2**70: 1}
        self.itself: list[Any] = []
        self.itself.append(self.itself)
        self.count = epoch


def test_what_cannot_be_kept_is_left_out(tmp_path: Path) -> None:
    broken(tmp_path, Slots(), Odd())
    state = KerasCallback(Odd()).state_dict()
    assert state == {}
    odd = Odd()
    kept = KerasCallback(odd)
    odd.on_epoch_end(4)
    assert kept.state_dict() == {"count": 4}
    assert len(fit(BackupAndRestore(tmp_path), Slots(), odd).epoch) == 4


def test_what_is_too_large_is_left_out_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    odd = Odd()
    kept = KerasCallback(odd)
    odd.large = np.broadcast_to(np.float32(1), (2**28,))  # takes no memory here
    odd.count = 4
    for _ in range(2):
        assert kept.state_dict() == {"count": 4}
    assert [record.getMessage() for record in caplog.records] == [
        "a checkpoint leaves out `large` of Odd: what it remembers is larger than 256 MiB"
    ]
