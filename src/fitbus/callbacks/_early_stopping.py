"""Stops training when a monitored value no longer improves."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, final

from fitbus.callbacks._arguments import check_flag, check_verbose, check_whole
from fitbus.callbacks._callback import Logs
from fitbus.callbacks._monitor import Monitor
from fitbus.callbacks._watching import Watching

__all__ = ["EarlyStopping"]


@final
class EarlyStopping(Watching):
    """Stops training when a monitored value hasn't improved for some epochs; Keras' semantics.

    Async handlers of `TrainEnd` run before the best weights are put back, as all `def` hooks come
    after them; what saves a model at the end belongs after `fit`, or into a later `def` hook.

    Differs from Keras in two things: NaN is never an improvement and never the best, so a first
    value of NaN doesn't keep it from working; and a name that doesn't tell its direction is refused
    unless `mode` does, where Keras would take less for better.

    Args:
        monitor: A name in the logs of an epoch.
        min_delta: An improvement is strictly more than this.
        patience: Stops after so many epochs without one; 0 is the same as 1.
        verbose: 1 prints when it stops and restores.
        mode: `"min"`, `"max"`, or `"auto"`: what the words of the name say (loss, error, ... are
            to fall; accuracy, auc, ... to rise).
        baseline: A value that must be beaten for patience to start anew; an epoch that improves
            without beating it uses up patience too, but never stops.
        restore_best_weights: Whether the parameters of the best epoch are put back at the end of
            training, whatever ended it.
        start_from_epoch: Judges no epoch before this one (from 0).

    Attributes:
        stopped_epoch: The epoch at which it stopped; 0 if it didn't.
        best: The best value; None before the first one.
        best_epoch: The epoch of the best value.
        wait: Epochs since the last improvement.

    Raises:
        InvalidArgumentError: `mode` is none of the three, or a number is out of range; in `fit`,
            before the first step: the logs will never have `monitor`, or `mode` is `"auto"` and the
            name says nothing that is known.

    Source: Keras' `EarlyStopping`; L. Prechelt, "Early Stopping - But When?", 1998.
    """

    adds_logs: ClassVar[bool | frozenset[str]] = False
    _remembered = ("wait", "stopped_epoch", "best", "best_epoch", "best_weights")

    wait: int
    stopped_epoch: int
    best: float | None
    best_epoch: int
    best_weights: list[Any] | None

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0,
        patience: int = 0,
        verbose: int = 0,
        mode: Literal["auto", "min", "max"] = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        self._monitor = Monitor("EarlyStopping", monitor, mode, min_delta)
        check_whole("EarlyStopping", "patience", patience, 0)
        check_whole("EarlyStopping", "start_from_epoch", start_from_epoch, 0)
        self._monitor.check_baseline(baseline)
        check_verbose("EarlyStopping", verbose)
        check_flag("EarlyStopping", "restore_best_weights", restore_best_weights)
        self.monitor = monitor
        self.min_delta = abs(min_delta)
        self.patience = patience
        self.verbose = verbose
        self.baseline = baseline
        self.restore_best_weights = restore_best_weights
        self.start_from_epoch = start_from_epoch
        self._begin()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Judges the epoch."""
        value = self._watched(epoch, logs or {})
        if value is None or epoch < self.start_from_epoch:
            return
        if self.restore_best_weights and self.best_weights is None:
            self.best_weights, self.best_epoch = self.model.get_weights(), epoch
        self.wait += 1
        if self._monitor.improves(value, self.best):
            self.best, self.best_epoch = value, epoch
            if self.restore_best_weights:
                self.best_weights = self.model.get_weights()
            if self.baseline is None or self._monitor.improves(value, self.baseline):
                self.wait = 0
            return  # what improves goes on, whether it beats the baseline or not
        if self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Puts the best parameters back, where asked to."""
        if self.stopped_epoch > 0 and self.verbose:
            print(f"Epoch {self.stopped_epoch + 1}: early stopping")  # noqa: T201  # asked for
        if self.restore_best_weights and self.best_weights is not None:
            if self.verbose:
                print(  # noqa: T201  # asked for
                    "Restoring model weights from the end of the best epoch:"
                    f" {self.best_epoch + 1}."
                )
            self.model.set_weights(self.best_weights)

    def _begin(self) -> None:
        self.wait = 0
        self.stopped_epoch = 0
        self.best = None
        self.best_epoch = 0
        self.best_weights = None
