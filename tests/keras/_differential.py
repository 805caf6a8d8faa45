"""Trains with Keras and with fitbus, shows callbacks of both the same logs, and compares.

Each library runs its own callback in its own `fit`. A callback before it writes given values into
the logs that all share, and weights that tell the epoch; one after it notes what came of it.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optax

import fitbus
from fitbus.testing import toy_problem

__all__ = ["METRICS", "Outcome", "Row", "Script", "Twins", "check_same"]

Row = dict[str, Any]

METRICS = ("accuracy", "hinge", "mean_absolute_error")  # of both, beside `loss`


@dataclasses.dataclass(frozen=True)
class Script:
    """What both libraries' callbacks are shown.

    Attributes:
        rows: The logs at the end of each epoch.
        batches: The logs after each batch, by epoch; one batch an epoch, and its own logs, if none.
        learning_rate: With which training begins.
        initial_epoch: The first epoch.
    """

    rows: Sequence[Row]
    batches: Sequence[Sequence[Row]] = ()
    learning_rate: float = 0.1
    initial_epoch: int = 0

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return len(self.batches[0]) if self.batches else 1


@dataclasses.dataclass
class Outcome:
    """What came of a training; two are compared by their `repr`, in which NaN equals itself.

    Attributes:
        history: The values that `fit` returned, by name.
        epoch: The epochs that were trained.
        weights: Which epoch's weights are left, counted from 1.
        rates: The learning rate after the beginning and at the end of each epoch.
        warned: How many warnings there were.
        error: What `fit` raised: the name of its built-in type.
        hooks: How often each hook was called.
    """

    history: dict[str, list[Any]]
    epoch: list[int]
    weights: float
    rates: list[float]
    warned: int
    error: str
    hooks: dict[str, int]


class _Writes:
    """Comes first: writes the logs, and weights that tell the epoch."""

    model: Any

    def __init__(self, script: Script) -> None:
        super().__init__()
        self._script = script
        self._epoch = 0

    def on_train_begin(self, logs: Any = None) -> None:
        self.model.optimizer.learning_rate = self._script.learning_rate

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._mark(epoch + 1)
        logs.clear()
        logs.update(self._script.rows[epoch])

    def _mark(self, number: float) -> None:
        weights = [np.full_like(weight, number) for weight in self.model.get_weights()]
        self.model.set_weights(weights)


class _WritesBatches(_Writes):
    """Writes the logs of batches too; a batch's weights are those of epoch.batch."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._mark(self._epoch + 1 + (batch + 1) / 64)
        logs.clear()
        logs.update(self._script.batches[self._epoch][batch])


class _Notes:
    """Comes last: notes learning rates, and which hooks are called."""

    model: Any

    def __init__(self) -> None:
        super().__init__()
        self.rates: list[float] = []
        self.hooks: dict[str, int] = {}

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._note("on_epoch_begin")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._note("on_epoch_end")

    def _note(self, hook: str) -> None:
        self.hooks[hook] = self.hooks.get(hook, 0) + 1
        self.rates.append(float(self.model.optimizer.learning_rate))


class _NotesBatches(_Notes):
    """Counts batches too."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.hooks["on_train_batch_end"] = self.hooks.get("on_train_batch_end", 0) + 1


def _error(predictions: Any, targets: Any) -> Any:
    """Stands for all metrics of the toy problem: what they give is written over."""
    return predictions - targets


class Twins:
    """A tiny Keras model and fitbus' toy problem, compiled once for all sequences.

    Attributes:
        keras: The library.
        model: The compiled model, of one dense layer.
        trainer: The trainer of the toy problem.
    """

    def __init__(self) -> None:
        import keras

        self.keras: Any = keras
        self.model: Any = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        self.model.compile(
            optimizer=keras.optimizers.SGD(0.1),
            loss="mean_squared_error",
            metrics=list(METRICS),
        )
        problem = toy_problem(1, 1)
        task = fitbus.Supervised(
            problem.task.apply,
            problem.task.loss,
            optax.sgd,
            learning_rate=0.1,
            metrics=dict.fromkeys(METRICS, _error),
        )
        self.trainer = fitbus.Trainer(task, problem.params)
        self._both: dict[tuple[type, type], type] = {}
        for rows in (Script([{"loss": 1.0}]), Script([{}], batches=[[{}, {}]])):
            self.by_keras(rows)  # compiles
            self.by_fitbus(rows)

    def reset(self) -> None:
        """Sets all weights to 1: what a test has left may be NaN."""
        nothing = Script([{}])
        self.by_keras(nothing)
        self.by_fitbus(nothing)

    def by_keras(self, script: Script, *callbacks: Any) -> Outcome:
        """Trains with Keras."""
        x = np.zeros((script.steps, 1), np.float32)
        return self._run(
            script,
            self.keras.callbacks.Callback,
            callbacks,
            lambda options: self.model.fit(x, x, verbose=0, **options),
            lambda: self.model.get_weights()[1][0],
        )

    def by_fitbus(self, script: Script, *callbacks: Any) -> Outcome:
        """Trains with fitbus."""
        x = np.zeros((script.steps, 1), np.float32)
        return self._run(
            script,
            fitbus.Callback,
            callbacks,
            lambda options: self.trainer.fit_sync(x, x[:, 0], **options),
            lambda: self.trainer.state.params["b"],
        )

    def _run(
        self,
        script: Script,
        base: type,
        callbacks: Sequence[Any],
        fit: Callable[[Any], Any],
        weight: Callable[[], Any],
    ) -> Outcome:
        first = self._made(_WritesBatches if script.batches else _Writes, base)(script)
        last = self._made(_NotesBatches if script.batches else _Notes, base)()
        options = {
            "batch_size": 1,
            "shuffle": False,
            "epochs": len(script.rows),
            "initial_epoch": script.initial_epoch,
            "callbacks": [first, *callbacks, last],
        }
        history: Any = None
        error = ""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                history = fit(options)
            except Exception as raised:  # noqa: BLE001  # compared
                builtin = (kind for kind in type(raised).__mro__ if kind.__module__ == "builtins")
                error = next(builtin).__name__  # ours have types of their own, beside
            weights = float(weight())
        # Keras asks NumPy for what NumPy deprecates.
        told = [one for one in caught if not issubclass(one.category, DeprecationWarning)]
        return Outcome(
            history=dict(history.history) if history else {},
            epoch=history.epoch if history else [],
            weights=weights,
            rates=last.rates,
            warned=len(told),
            error=error,
            hooks=last.hooks,
        )

    def _made(self, what: type, base: type) -> Any:
        """A callback class for one of the libraries."""
        key = (what, base)
        if key not in self._both:
            self._both[key] = type(what.__name__, (what, base), {})
        return self._both[key]


def check_same(ours: Outcome, theirs: Outcome, told: object) -> None:
    """Fails where two outcomes differ, telling what led to it."""
    if theirs.error:  # here the other hooks of that event are still called
        rates = ours.rates[: len(theirs.rates)]
        ours = dataclasses.replace(ours, rates=rates, hooks=theirs.hooks)
    for field in dataclasses.fields(Outcome):
        found, expected = getattr(ours, field.name), getattr(theirs, field.name)
        assert repr(found) == repr(expected), f"{field.name} of {told}"
