"""A Keras model twice: trained by Keras, and by fitbus, from the same weights, data and order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

import fitbus
from fitbus.keras import KerasTask

__all__ = ["Pair", "check_close", "variables"]

RELATIVE = 1e-5  # of histories; the compiler may merge what two programs have in another way


class Pair:
    """One model of each library; what is compiled is kept from one training to the next.

    Args:
        make: Makes the model, compiled.

    Attributes:
        theirs: Keras' own.
        ours: The one that the trainer trains.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        keras.utils.set_random_seed(7)
        self.theirs = make()
        keras.utils.set_random_seed(7)
        self.ours = make()
        self.trainer = fitbus.Trainer(KerasTask(self.ours))
        self._first = [np.array(variable.value) for variable in variables(self.ours)]

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        callbacks: Callable[[], Sequence[Any]] = list,
        own: Callable[[], Sequence[Any]] | None = None,
        epochs: int = 5,
        **options: Any,
    ) -> dict[str, list[float]]:
        """Trains both and compares all that there is. Returns the history.

        Args:
            x: The data.
            y: Targets.
            callbacks: Makes Keras callbacks for both.
            own: Makes those for fitbus instead.
            epochs: How many.
            options: As in `fit`.
        """
        expected = self.theirs.fit(
            x, y, callbacks=callbacks(), epochs=epochs, shuffle=False, verbose=0, **options
        )
        found = self.trainer.fit_sync(
            *(x, y), callbacks=(own or callbacks)(), epochs=epochs, shuffle=False, **options
        )
        assert found.epoch == expected.epoch
        assert sorted(found.history) == sorted(expected.history)
        for name, values in expected.history.items():
            np.testing.assert_allclose(
                found.history[name], values, rtol=RELATIVE, atol=1e-7, err_msg=name
            )
        self.check_variables()
        return {name: [float(v) for v in values] for name, values in found.history.items()}

    def check_variables(self) -> None:
        """All variables are alike: weights, statistics, seeds, and those of the optimizer."""
        check_close(self.ours, self.theirs)
        count = int(self.trainer.state.step)
        assert count == int(self.theirs.optimizer._iterations.value) or not count

    def begin_anew(self) -> None:
        """Both have the variables with which they were made."""
        for model in (self.theirs, self.ours):
            for variable, value in zip(variables(model), self._first, strict=True):
                variable.assign(value)


def variables(model: Any) -> list[Any]:
    """All variables of a model, and of its optimizer."""
    if model.built and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    return [
        *model.trainable_variables,
        *model.non_trainable_variables,
        *model.optimizer.variables,
    ]


def check_close(model: Any, other: Any) -> None:
    """The variables of two models are alike."""
    pairs = list(zip(variables(model), variables(other), strict=True))
    assert pairs
    for found, expected in pairs:
        ours, theirs = np.asarray(found.value), np.asarray(expected.value)
        if ours.dtype.kind in "iub":
            np.testing.assert_array_equal(ours, theirs, err_msg=found.path)
        else:
            ours, theirs = ours.astype(np.float32), theirs.astype(np.float32)
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-6, err_msg=found.path)
