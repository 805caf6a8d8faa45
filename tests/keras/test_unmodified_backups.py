"""`keras.callbacks.BackupAndRestore`, unmodified: fits that break off and go on."""
# mypy: allow-subclassing-any

from __future__ import annotations

import pathlib
from typing import Any

import keras
import pytest

from ._unmodified import Base, close, pair

K: Any = keras.callbacks


class Breaks(Base):
    """Breaks a fit off in an epoch."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 1 and int(self.model.optimizer.iterations) > 6:
            raise self.error


@pytest.mark.parametrize("save_freq", ["epoch", 2])
@pytest.mark.parametrize("error", [OSError("broken"), KeyboardInterrupt()])
def test_a_broken_fit_goes_on_from_its_backup_and_the_next_fit_is_not_stuck(
    tmp_path: pathlib.Path, error: BaseException, save_freq: Any
) -> None:
    """The same epochs, and the same weights, as in Keras; whose later `fit` runs no epoch."""
    models = pair()
    models.reset()
    weights: dict[str, Any] = {}
    for name, train in (("ours", models.by_fitbus), ("theirs", models.by_keras)):
        path = tmp_path / name
        with pytest.raises(type(error)):
            train([K.BackupAndRestore(path, save_freq), Breaks(error)], epochs=5)
        assert (path / "latest.weights.h5").exists()
        found = train([K.BackupAndRestore(path, save_freq)], epochs=5)
        assert found.result.epoch == [2, 3, 4]
        assert not path.exists()
        weights[name] = found.weights
    assert close(weights["ours"], weights["theirs"])
    assert models.by_keras([], epochs=2).result.epoch == []
    assert models.by_fitbus([K.LambdaCallback(on_train_begin=print)], epochs=2).result.epoch == [
        0,
        1,
    ]


def test_what_keras_left_in_the_model_does_not_hold_a_later_fit_up() -> None:
    """A model that Keras' own fit resumed is trained by fitbus from epoch 0."""
    models = pair()
    models.reset()
    models.ours._initial_epoch = 3
    found = models.by_fitbus([K.LambdaCallback(on_train_begin=print)], epochs=2)
    assert found.result.epoch == [0, 1]
