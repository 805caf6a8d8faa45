"""What the callbacks that save checkpoints share: arguments, when they save, and what."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from fitbus.callbacks._arguments import check_flag, is_number, is_whole
from fitbus.callbacks._background import Background
from fitbus.callbacks._callback import Callback, Logs
from fitbus.callbacks._monitor import Mode, Monitor
from fitbus.errors import InvalidArgumentError

__all__ = ["SaveFreq", "Saver"]

SaveFreq = Literal["epoch"] | int


class Saver(Callback):
    """The part of Keras' checkpoint callbacks that they share: arguments, and when they save.

    Args:
        monitor: A name in the logs.
        mode: `"min"`, `"max"` or `"auto"`.
        verbose: 0 or 1.
        save_best_only: Whether it saves only when `monitor` is better than ever before.
        save_weights_only: Whether it saves the parameters alone.
        save_freq: `"epoch"`, or how many batches.
        threshold: The first best value, or None.
        timeout_s: Seconds to wait for a slow disk.

    Attributes:
        best: The best value; None before the first one. It stays for the next training.
    """

    adds_logs: ClassVar[bool | frozenset[str]] = False

    def __init__(
        self,
        monitor: str,
        *,
        mode: Mode,
        verbose: int,
        save_best_only: bool,
        save_weights_only: bool,
        save_freq: SaveFreq,
        threshold: float | None,
        timeout_s: float,
    ) -> None:
        owner = type(self).__name__
        self._monitor = Monitor(owner, monitor, mode, 0)
        if verbose not in (0, 1, 2):
            raise InvalidArgumentError(f"{owner}.verbose", verbose, "give 0 (silent) or 1")
        check_flag(owner, "save_best_only", save_best_only)
        check_flag(owner, "save_weights_only", save_weights_only)
        if save_freq != "epoch" and not (is_whole(save_freq) and save_freq > 0):
            raise InvalidArgumentError(
                f"{owner}.save_freq", save_freq, "give 'epoch', or a number of batches above 0"
            )
        if threshold is not None and (not is_number(threshold) or math.isnan(threshold)):
            raise InvalidArgumentError(
                f"{owner}.initial_value_threshold", threshold, "give a number, or None"
            )
        self._background = Background(owner, timeout_s, room=1)
        self._epoch = 0
        self._batches = 0  # since it saved
        self.best = threshold
        self.monitor = monitor
        self.verbose = verbose
        self.save_best_only = save_best_only
        self.save_weights_only = save_weights_only
        self.save_freq: SaveFreq = save_freq
        if save_freq != "epoch":  # else no hook waits for every batch
            self.__dict__["on_train_batch_end"] = self._after_batch

    def attach(self, run: Any) -> None:
        """Subscribes to a run; `callbacks=[...]` calls it."""
        super().attach(run)
        self._background.attach(run)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Notes which epoch it is."""
        self._epoch = epoch

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Saves, where it saves by epochs."""
        if self.save_freq == "epoch":
            self._consider(epoch, None, logs or {})
        if epoch + 1 == self.params.get("epochs") or self.model.stop_training:
            self._background.flush()  # the last one is complete before `TrainEnd` is told

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Waits until all is written.

        Raises:
            FitbusError: Something couldn't be written.
            TimeoutError: It takes too long.
        """
        self._background.close()

    def state_dict(self) -> dict[str, Any]:
        """What it remembers."""
        return {"best": self.best, "batches": self._batches}

    def pending_writes(self) -> Callable[[float], bool]:
        """The checkpoints that aren't written yet."""
        return self._background.mark()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes it back."""
        self.best, self._batches = state["best"], state["batches"]

    def _after_batch(self, batch: int, logs: Logs | None = None) -> None:
        """The hook of every batch, where it saves by batches: counted over epochs and trainings."""
        self._batches += 1
        if isinstance(self.save_freq, int) and self._batches >= self.save_freq:
            self._batches = 0
            self._consider(self._epoch, batch, logs or {})

    def _consider(self, epoch: int, batch: int | None, logs: Logs) -> None:
        """Decides whether to save, with a copy if so; the writing is left to the background."""
        raise NotImplementedError

    def _improves(self, value: float) -> bool:
        """Whether a value is the best one; notes it if so."""
        better = self._monitor.improves(value, self.best)
        if better:
            self.best = value
        return better

    def _saved(self) -> Any:
        """What of the state is saved: all of it, or the weights alone."""
        assert self.run is not None
        state = self.model.state
        return self.run.trainer.steps.weights(state) if self.save_weights_only else state

    def _say(self, epoch: int, text: str) -> None:
        if self.verbose:
            print(f"Epoch {epoch + 1}: {text}")  # noqa: T201  # asked for
