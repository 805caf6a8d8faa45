"""One compiled Keras model, trained by Keras and by fitbus: what their callbacks do is compared."""
# mypy: allow-subclassing-any

from __future__ import annotations

import contextlib
import functools
import io
import re
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

import fitbus

from ._data import sums
from ._pairs import variables

__all__ = [
    "Base",
    "Outcome",
    "Pair",
    "Tells",
    "check_same",
    "close",
    "dense",
    "failing",
    "pair",
    "x",
    "y",
]

Base: Any = keras.callbacks.Callback

x, y = sums(48)


def dense(optimizer: Any = None) -> Any:
    """A small compiled model; the same weights every time."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, activation="relu", name="hidden"),
            keras.layers.Dense(1, name="out"),
        ]
    )
    chosen = keras.optimizers.SGD(0.05, momentum=0.5) if optimizer is None else optimizer
    model.compile(chosen, "mse", metrics=["mae"])
    return model


class Outcome(NamedTuple):
    """What came of a call.

    Attributes:
        result: The history of a fit, the logs of an evaluation, the outputs of a prediction.
        weights: Those that the model was left with, the optimizer's variables included.
        printed: What was printed.
        callbacks: The objects.
        warned: What was warned of.
    """

    result: Any
    weights: list[Any]
    printed: str
    callbacks: list[Any]
    warned: list[str]


class Pair:
    """Two equal models, compiled once: one is trained by Keras, one by fitbus.

    Args:
        make: Makes the model.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self.theirs, self.ours = make(), make()
        self.trainer = fitbus.Trainer(fitbus.keras.KerasTask(self.ours))
        self._initial = [variable.numpy() for variable in variables(self.theirs)]

    def reset(self) -> None:
        """Gives both what they began with."""
        for model in (self.theirs, self.ours):
            model.stop_training = False
            model._initial_epoch = None
            for variable, value in zip(variables(model), self._initial, strict=True):
                variable.assign(value)

    def by_keras(self, callbacks: list[Any], call: str = "fit", **options: Any) -> Outcome:
        """Calls Keras' own; from where the model is."""
        options = {"verbose": 0, "batch_size": 16, **options}
        if call == "fit":
            options = {"shuffle": False, **options}
        if call == "evaluate":
            options["return_dict"] = True
        x, *rest = options.pop("data", _data(call))
        return _outcome(
            self.theirs,
            callbacks,
            lambda: getattr(self.theirs, call)(x, *rest, callbacks=callbacks, **options),
        )

    def by_fitbus(self, callbacks: list[Any], call: str = "fit", **options: Any) -> Outcome:
        """Calls the trainer's."""
        options = {"batch_size": 16, **options}
        if call == "fit":
            options = {"shuffle": False, **options}
        x, *rest = options.pop("data", _data(call))
        train = getattr(self.trainer, f"{call}_sync")
        return _outcome(
            self.ours, callbacks, lambda: train(x, *rest, callbacks=callbacks, **options)
        )

    def both(
        self, make: Callable[[], list[Any]], call: str = "fit", **options: Any
    ) -> tuple[Outcome, Outcome]:
        """From the same weights: what fitbus does, and what Keras does."""
        self.reset()
        return self.by_fitbus(make(), call, **options), self.by_keras(make(), call, **options)


@functools.cache
def pair(kind: str = "dense") -> Pair:
    """The same one in all tests; they `reset` it."""
    if kind == "ema":
        return Pair(lambda: dense(keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.5)))
    return Pair(dense)


def check_same(ours: Outcome, theirs: Outcome) -> None:
    """Fails where two outcomes differ; values to 1e-5."""
    assert ours.printed == theirs.printed
    assert close(ours.weights, theirs.weights)
    mine, their = (getattr(o.result, "history", o.result) for o in (ours, theirs))
    assert close(mine, their), (mine, their)
    if hasattr(theirs.result, "epoch"):
        assert ours.result.epoch == theirs.result.epoch


def close(ours: Any, theirs: Any) -> bool:
    """Whether two values, or containers of them, are equal to 1e-5."""
    if isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(close(ours[k], theirs[k]) for k in theirs)
    if isinstance(theirs, list | tuple):
        pairs = zip(ours, theirs, strict=True) if len(ours) == len(theirs) else [(0, 1)]
        return all(close(mine, their) for mine, their in pairs)
    if isinstance(theirs, str | type(None)):
        return bool(ours == theirs)
    return bool(np.allclose(ours, theirs, rtol=1e-5, atol=1e-6, equal_nan=True))


class Tells(Base):
    """Notes in a shared list what is called."""

    def __init__(self, name: str, told: list[str]) -> None:
        super().__init__()
        self.called, self.told = name, told

    def on_train_begin(self, logs: Any = None) -> None:
        self.told.append(f"{self.called} train begin")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.told.append(f"{self.called} epoch {epoch} begin")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.told.append(f"{self.called} epoch {epoch} end")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.told.append(f"{self.called} batch {batch}")

    def on_test_end(self, logs: Any = None) -> None:
        self.told.append(f"{self.called} test end")

    def on_train_end(self, logs: Any = None) -> None:
        self.told.append(f"{self.called} train end")


def failing(hook: str, error: BaseException) -> Any:
    """A callback whose hook fails."""

    def fails(self: Any, *_: Any, **__: Any) -> None:
        raise error

    return type("Fails", (Base,), {hook: fails})()


def _data(call: str) -> tuple[Any, ...]:
    return (x,) if call == "predict" else (x, y)


def _outcome(model: Any, callbacks: list[Any], call: Callable[[], Any]) -> Outcome:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    plain = re.sub(r"\x1b\[[0-9;]*m|\x08", "", printed.getvalue())
    told = [str(one.message) for one in caught if one.category is not DeprecationWarning]
    return Outcome(result, [v.numpy() for v in variables(model)], plain, callbacks, told)
