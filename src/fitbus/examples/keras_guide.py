"""Shows the callbacks of Keras' guide 'Writing your own callbacks', run by fitbus.

Each is written against Keras' own interface: with the line that imports `Callback` changed to
`from keras.callbacks import Callback`, each is a Keras callback. All hooks here are `def`, so they
run in the training thread, one after the other, while training waits: `self.model` is theirs
alone. Drawing needs matplotlib.

    python -m fitbus.examples.keras_guide
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import numpy as np

from fitbus.callbacks import Callback
from fitbus.examples._network import build, data, hidden

Array = np.ndarray[Any, Any]
Logs = dict[str, Any]

LEARNING_RATES: Mapping[int, float] = {3: 0.05, 6: 0.01, 9: 0.005, 12: 0.001}


class PrintEveryHook(Callback):
    """Prints each of the 14 hooks, with the names of the values in its logs.

    Args:
        tell: Called with each line.
    """

    def __init__(self, tell: Callable[[str], object] = print) -> None:
        super().__init__()
        self.tell = tell

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """The logs are empty: nothing has been computed."""
        self.tell(f"train begin {sorted(logs or {})}")

    def on_train_end(self, logs: Logs | None = None) -> None:
        """The logs are those of the last epoch."""
        self.tell(f"train end {sorted(logs or {})}")

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Epochs count from 0."""
        self.tell(f"epoch {epoch} begin {sorted(logs or {})}")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """The logs have the epoch's means, and those of its validation as `val_...`."""
        self.tell(f"epoch {epoch} end {sorted(logs or {})}")

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Batches count from 0 in each epoch."""
        self.tell(f"train batch {batch} begin {sorted(logs or {})}")

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """The logs have running means since the epoch began."""
        self.tell(f"train batch {batch} end {sorted(logs or {})}")

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """A validation inside `fit`, or an `evaluate`."""
        self.tell(f"test begin {sorted(logs or {})}")

    def on_test_end(self, logs: Logs | None = None) -> None:
        """The names are those of training, without `val_`."""
        self.tell(f"test end {sorted(logs or {})}")

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Nothing is known of the batch yet."""
        self.tell(f"test batch {batch} begin {sorted(logs or {})}")

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """The logs have running means since the evaluation began."""
        self.tell(f"test batch {batch} end {sorted(logs or {})}")

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """A prediction has no metrics: its logs are empty but for one hook."""
        self.tell(f"predict begin {sorted(logs or {})}")

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """All outputs have been handed out by batch."""
        self.tell(f"predict end {sorted(logs or {})}")

    def on_predict_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Nothing is predicted yet."""
        self.tell(f"predict batch {batch} begin {sorted(logs or {})}")

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """The logs have the batch's `outputs`."""
        self.tell(f"predict batch {batch} end {sorted(logs or {})}")


class PrintLossAndError(Callback):
    """Prints how the loss falls within an epoch, and what each epoch came to.

    Args:
        tell: Called with each line.
    """

    def __init__(self, tell: Callable[[str], object] = print) -> None:
        super().__init__()
        self.tell = tell

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """A running mean: the last batch's value is the epoch's."""
        self.tell(f"  up to batch {batch}: loss {(logs or {})['loss']:.4f}")

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Also called while `fit` validates."""
        self.tell(f"  up to test batch {batch}: loss {(logs or {})['loss']:.4f}")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Names in the logs are those of the metrics."""
        logs = logs or {}
        self.tell(
            f"epoch {epoch}: loss {logs['loss']:.4f}, error {logs['mean_absolute_error']:.4f}"
        )


class EarlyStoppingAtMinLoss(Callback):
    """Stops when the loss has left its minimum behind, and puts the best weights back.

    Args:
        patience: Epochs without a new minimum after which it stops; 0 is the same as 1.
    """

    def __init__(self, patience: int = 0) -> None:
        super().__init__()
        self.patience = patience

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Starts anew here, not in `__init__`: one object may see several fits."""
        self.best = np.inf
        self.best_weights: list[Array] | None = None
        self.wait = 0
        self.stopped_epoch = 0

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Keeps the weights of a new minimum, else counts towards the stop."""
        loss = (logs or {})["loss"]
        if loss < self.best:
            self.best = loss
            self.wait = 0
            self.best_weights = self.model.get_weights()  # copies, which training won't change
            return
        self.wait += 1
        if self.wait >= self.patience:
            self.stopped_epoch = epoch
            self.model.stop_training = True
            if self.best_weights is not None:  # there are none if every loss was NaN
                self.model.set_weights(self.best_weights)

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Says at which epoch it stopped, counted from 1."""
        if self.stopped_epoch > 0:
            print(f"epoch {self.stopped_epoch + 1}: stopped early")


class CustomLearningRateScheduler(Callback):
    """Sets the learning rate at the start of each epoch.

    Args:
        schedule: Takes the epoch, from 0, and the present learning rate; returns the new one.
    """

    def __init__(self, schedule: Callable[[int, float], float]) -> None:
        super().__init__()
        self.schedule = schedule

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """What is set here is in the optimizer's state before the epoch's first step."""
        present = float(self.model.optimizer.learning_rate)
        scheduled = self.schedule(epoch, present)
        self.model.optimizer.learning_rate = scheduled
        if scheduled != present:
            print(f"epoch {epoch}: the learning rate is {scheduled:g}")


def from_table(epoch: int, learning_rate: float) -> float:
    """A schedule that looks epochs up, and leaves the rate as it is between them."""
    return LEARNING_RATES.get(epoch, learning_rate)


class SaveAtIntervals(Callback):
    """Saves the weights after every so many epochs.

    Args:
        filepath: Where to; `{epoch}` in it becomes the epoch, counted from 1. Here the file is
            NumPy's npz; Keras wants a name that ends in `.weights.h5`.
        every: Epochs between two files.
    """

    def __init__(self, filepath: str, every: int) -> None:
        super().__init__()
        self.filepath = filepath
        self.every = every

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Training waits while the file is written, so it holds the weights of one step."""
        if (epoch + 1) % self.every == 0:
            self.model.save_weights(self.filepath.format(epoch=epoch + 1))


class RecordPredictions(Callback):
    """Keeps what the model makes of a few samples after each epoch.

    Args:
        samples: Inputs, of shape (samples, ...).

    Attributes:
        predictions: One array of shape (samples, ...) for each epoch.
    """

    def __init__(self, samples: Array) -> None:
        super().__init__()
        self.samples = samples
        self.predictions: list[Array] = []

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """A prediction inside a hook calls no hooks of its own."""
        self.predictions.append(self.model.predict(self.samples, verbose=0))


class DrawFeatures(Callback):
    """Draws what a hidden layer makes of a few samples, a PNG after each epoch.

    Args:
        features: Takes the weights, in the order of `get_weights()`, and the samples; returns an
            image of shape (samples, units).
        samples: Inputs, of shape (samples, ...).
        directory: Where the files go.
    """

    def __init__(
        self, features: Callable[[Sequence[Array], Array], Array], samples: Array, directory: Path
    ) -> None:
        super().__init__()
        self.features = features
        self.samples = samples
        self.directory = directory

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """`Figure` rather than `pyplot`: that keeps figures for its windows, in one thread only."""
        from matplotlib.figure import Figure  # the others do without matplotlib

        figure = Figure(figsize=(4, 4))
        axes = figure.subplots()
        axes.imshow(self.features(self.model.get_weights(), self.samples))
        axes.set(title=f"after epoch {epoch + 1}", xlabel="hidden unit", ylabel="sample")
        figure.savefig(self.directory / f"features-{epoch + 1:02d}.png")


async def show(directory: Path) -> None:
    """Runs each callback once; files go to `directory`."""
    x, y = data()
    trainer = build()
    await trainer.fit(
        x, y, batch_size=128, epochs=1, validation_split=0.5, callbacks=[PrintEveryHook()]
    )
    await trainer.evaluate(x[:128], y[:128], batch_size=128, callbacks=[PrintEveryHook()])
    await trainer.predict(x[:128], batch_size=128, callbacks=[PrintEveryHook()])

    await trainer.fit(x, y, batch_size=256, epochs=2, callbacks=[PrintLossAndError()])

    recorded = RecordPredictions(x[:3])
    callbacks: list[Callback] = [
        CustomLearningRateScheduler(from_table),
        SaveAtIntervals(str(directory / "weights-{epoch:02d}.npz"), every=5),
        recorded,
    ]
    if importlib.util.find_spec("matplotlib"):
        callbacks.append(DrawFeatures(hidden, x[:16], directory))
    else:
        print("matplotlib isn't installed, so the features aren't drawn")
    await build().fit(x, y, batch_size=128, epochs=15, callbacks=callbacks)
    for name, row in (("first", recorded.predictions[0]), ("last", recorded.predictions[-1])):
        print(f"{name} predictions: {row.round(2)} of {y[:3].round(2)}")

    stopping = EarlyStoppingAtMinLoss(patience=2)
    await trainer.fit(x, y, batch_size=128, epochs=30, callbacks=[stopping])
    print(f"the least loss was {stopping.best:.6f}")


def main() -> None:
    """Runs it; the files stay, to be looked at."""
    directory = Path(tempfile.mkdtemp(prefix="fitbus-keras-guide-"))
    anyio.run(show, directory)
    print(f"{sum(1 for _ in directory.iterdir())} files are in {directory}")


if __name__ == "__main__":
    main()
