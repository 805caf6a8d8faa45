"""The callbacks of Keras' guide to writing one's own, as subclasses of Keras' class.

After 'Writing your own callbacks', https://keras.io/guides/writing_your_own_callbacks/.
"""
# mypy: allow-subclassing-any
# ruff: noqa: T201  # the guide's callbacks print
# the guide's callbacks print

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np

__all__ = [
    "RATES",
    "PrintsEachHook",
    "PrintsLosses",
    "RecordsFeatures",
    "RecordsPredictions",
    "SavesAtIntervals",
    "Schedules",
    "StopsAtMinimum",
]

Base: Any = keras.callbacks.Callback


class PrintsEachHook(Base):
    """Prints every hook, with the keys of its logs; keeps the values."""

    def __init__(self) -> None:
        super().__init__()
        self.trace: list[tuple[Any, ...]] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self._seen("train begin", None, logs)

    def on_train_end(self, logs: Any = None) -> None:
        self._seen("train end", None, logs)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._seen("epoch begin", epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._seen("epoch end", epoch, logs)

    def on_test_begin(self, logs: Any = None) -> None:
        self._seen("test begin", None, logs)

    def on_test_end(self, logs: Any = None) -> None:
        self._seen("test end", None, logs)

    def on_predict_begin(self, logs: Any = None) -> None:
        self._seen("predict begin", None, logs)

    def on_predict_end(self, logs: Any = None) -> None:
        self._seen("predict end", None, logs)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._seen("train batch begin", batch, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._seen("train batch end", batch, logs)

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._seen("test batch begin", batch, logs)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self._seen("test batch end", batch, logs)

    def on_predict_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._seen("predict batch begin", batch, logs)

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        self._seen("predict batch end", batch, logs)

    def _seen(self, what: str, index: int | None, logs: Any) -> None:
        assert type(logs) is dict
        print(what, "" if index is None else index, list(logs))
        self.trace.append((what, index, dict(logs)))


class PrintsLosses(Base):
    """Tells loss and error of each batch, of training and of testing, and of each epoch."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        print(f"batch {batch}: loss {logs['loss']:.4f}")

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        print(f"test batch {batch}: loss {logs['loss']:.4f}")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        print(f"epoch {epoch}: loss {logs['loss']:.4f}, error {logs['mae']:.4f}")


class StopsAtMinimum(Base):
    """Stops when the loss hasn't fallen for `patience` epochs; puts the best weights back."""

    def __init__(self, patience: int = 0) -> None:
        super().__init__()
        self.patience = patience
        self.best_weights: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        self.waited = 0
        self.stopped_epoch = 0
        self.least = np.inf

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
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

    def on_train_end(self, logs: Any = None) -> None:
        if self.stopped_epoch > 0:
            print(f"stopped early, in epoch {self.stopped_epoch + 1}")


RATES = {3: 0.05, 6: 0.01, 9: 0.005, 12: 0.001}


class Schedules(Base):
    """Takes the learning rate of each epoch from a function of it and the present one."""

    def __init__(self, schedule: Any) -> None:
        super().__init__()
        self.schedule = schedule
        self.rates: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if not hasattr(self.model.optimizer, "learning_rate"):
            raise ValueError("an optimizer needs a learning rate")
        now = self.model.optimizer.learning_rate
        rate = self.schedule(epoch, float(now))
        self.model.optimizer.learning_rate = rate
        print(f"epoch {epoch}: {float(np.array(self.model.optimizer.learning_rate)):.4f}")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.rates.append(float(self.model.optimizer.learning_rate))


class SavesAtIntervals(Base):
    """Saves the model every few batches."""

    def __init__(self, folder: pathlib.Path, every: int) -> None:
        super().__init__()
        self.folder, self.every, self.count = folder, every, 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.count += 1
        if self.count % self.every == 0:
            self.model.save(self.folder / f"after_{self.count}.keras")


class RecordsPredictions(Base):
    """Keeps what the model predicts of a few examples, each epoch."""

    def __init__(self, examples: Any) -> None:
        super().__init__()
        self.examples = examples
        self.predictions: list[Any] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.predictions.append(self.model.predict(self.examples, verbose=0))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
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

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.features.append(np.asarray(self.inner(self.examples)))
