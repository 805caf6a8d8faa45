"""Lowers the learning rate when a monitored value no longer improves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Never, final

import numpy as np

from fitbus.callbacks._arguments import check_verbose, check_whole, is_number
from fitbus.callbacks._callback import Logs
from fitbus.callbacks._monitor import Monitor
from fitbus.callbacks._watching import Watching
from fitbus.errors import InvalidArgumentError

if TYPE_CHECKING:
    from fitbus.train import Run

__all__ = ["ReduceLROnPlateau"]

_ARGUMENTS = "monitor, factor, patience, verbose, mode, min_delta, cooldown, min_lr"


@final
class ReduceLROnPlateau(Watching):
    """Multiplies the learning rate by a factor when a monitored value stands still.

    It is judged at the end of each epoch, after its validation. While it cools down after a
    reduction, epochs without an improvement don't count. The learning rate with which an epoch was
    trained is added to its logs as `learning_rate`. The optimizer must keep its learning rate in
    its state, and no schedule and no other callback may set it: otherwise the run is refused before
    its first step.

    Differs from Keras in: NaN is never the best, so that a first value of NaN doesn't make all that
    follow look worse; a name that doesn't tell its direction is refused unless `mode` does, where
    Keras looks at the metric object; and what is no argument of it, such as the `epsilon` of old,
    is refused, where Keras ignores it.

    Args:
        monitor: A name in the logs of an epoch.
        factor: The new learning rate is the old one times this; at least 0, below 1.
        patience: Lowers it after so many epochs without an improvement; 0 is the same as 1.
        verbose: 1 prints a line when it does.
        mode: `"min"`, `"max"`, or `"auto"`: what the words of the name say.
        min_delta: An improvement is strictly more than this.
        cooldown: Epochs after a reduction in which none is counted that doesn't improve.
        min_lr: The learning rate is never set below this.
        unknown: Nothing; anything here is refused.

    Attributes:
        best: The best value; None before the first one.
        wait: Epochs without an improvement. At `min_lr` there is nothing to lower, and it goes on
            growing.
        cooldown_counter: Epochs for which it still cools down.

    Raises:
        InvalidArgumentError: An argument is out of its range; in `fit`, before the first step: the
            logs will never have `monitor`, its direction can't be told, or the learning rate isn't
            this callback's to set.

    Source: Keras' `ReduceLROnPlateau`.
    """

    adds_logs: ClassVar[bool | frozenset[str]] = frozenset({"learning_rate"})
    _remembered = ("best", "wait", "cooldown_counter")

    best: float | None
    wait: int
    cooldown_counter: int

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: Literal["auto", "min", "max"] = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
        **unknown: Never,
    ) -> None:
        given: dict[str, object] = dict(unknown)
        for name, value in given.items():
            meant = "its name is min_delta" if name == "epsilon" else f"it takes {_ARGUMENTS}"
            raise InvalidArgumentError(f"ReduceLROnPlateau.{name}", value, meant)
        self._monitor = Monitor("ReduceLROnPlateau", monitor, mode, min_delta)
        check_whole("ReduceLROnPlateau", "patience", patience, 0)
        check_whole("ReduceLROnPlateau", "cooldown", cooldown, 0)
        _check_number("factor", factor, below=1.0)
        _check_number("min_lr", min_lr)
        check_verbose("ReduceLROnPlateau", verbose)
        self.monitor = monitor
        self.factor = factor
        self.patience = patience
        self.verbose = verbose
        self.mode = mode
        self.min_delta = abs(min_delta)
        self.cooldown = cooldown
        self.min_lr = min_lr
        self._begin()

    def attach(self, run: Run[Any]) -> None:
        """Subscribes to a run, and claims the learning rate."""
        super().attach(run)
        run.preparation.claim("learning_rate", "ReduceLROnPlateau")

    def in_cooldown(self) -> bool:
        """Whether it cools down after a reduction."""
        return self.cooldown_counter > 0

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Judges the epoch."""
        logs = {} if logs is None else logs
        rate = logs["learning_rate"] = float(self.model.optimizer.learning_rate)
        value = self._watched(epoch, logs)
        if value is None:
            return
        if self.in_cooldown():
            self.cooldown_counter -= 1
            self.wait = 0
        if self._monitor.improves(value, self.best):
            self.best = value
            self.wait = 0
        elif not self.in_cooldown():
            self.wait += 1
            if self.wait >= self.patience and rate > self._lowest():
                self._reduce(epoch, rate)

    def _begin(self) -> None:
        self.best = None
        self.wait = 0
        self.cooldown_counter = 0

    def _lowest(self) -> float:
        """`min_lr`, or what float32 makes of it: one that was set to it doesn't lie above it."""
        return max(self.min_lr, float(np.float32(self.min_lr)))

    def _reduce(self, epoch: int, rate: float) -> None:
        new = max(rate * self.factor, self.min_lr)
        self.model.optimizer.learning_rate = new
        self.cooldown_counter = self.cooldown
        self.wait = 0
        if self.verbose:
            print(  # noqa: T201  # asked for
                f"Epoch {epoch + 1}: ReduceLROnPlateau lowers the learning rate to {new}."
            )


def _check_number(argument: str, value: object, *, below: float = math.inf) -> None:
    if not is_number(value) or not 0 <= value < below:
        allowed = "a finite number of at least 0" + ("" if below == math.inf else ", below 1")
        raise InvalidArgumentError(f"ReduceLROnPlateau.{argument}", value, f"give {allowed}")
