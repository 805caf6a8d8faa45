"""Shows a compiled Keras model and unmodified Keras callbacks under `await fit()`.

The first two of three steps from Keras to fitbus: the model and its callbacks stay as they are, and
async handlers come beside them; the third one, leaving Keras, is what the other examples show.
Needs the extra `keras`.

    KERAS_BACKEND=jax python -m fitbus.examples.keras_model
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")  # before anything imports keras

import anyio
import keras
from sklearn.datasets import load_digits

import fitbus


class ShowRate(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """A callback as it was written for Keras: it reads the optimizer of the real model."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Called in the training thread, where the model shows the run's state."""
        model: Any = self.model
        print(f"epoch {epoch}: learning rate {float(model.optimizer.learning_rate):.4f}")


async def report(event: fitbus.EpochEnd) -> fitbus.StopTraining | None:
    """A handler beside it, on the event loop; what it returns acts at the end of the epoch."""
    print(f"epoch {event.epoch}: accuracy {event.logs['val_accuracy']:.2f}")
    return fitbus.StopTraining("good enough") if event.logs["val_accuracy"] > 0.86 else None


def build() -> Any:
    """A compiled classifier of digits, with BatchNorm and dropout."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(32),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


async def show() -> fitbus.History:
    """Trains, and checks that the model has what was learned."""
    images, labels = load_digits(return_X_y=True)
    x = images.astype("float32") / 16
    model = build()
    trainer = fitbus.Trainer(fitbus.keras.KerasTask(model))
    callbacks = [
        keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=0.1),
        ShowRate(),
        report,
    ]
    history = await trainer.fit(x, labels, epochs=20, validation_split=0.2, callbacks=callbacks)
    loss, accuracy = model.evaluate(x, labels, verbose=0)  # Keras' own, on the same weights
    print(f"the model itself: loss {loss:.2f}, accuracy {accuracy:.2f}")
    return history


def main() -> None:
    """Runs it."""
    anyio.run(show)


if __name__ == "__main__":
    main()
