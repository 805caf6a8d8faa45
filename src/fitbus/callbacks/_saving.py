"""What the callbacks that save checkpoints share: their arguments, and when they save."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any, Literal, final

from fitbus.callbacks._monitor import Monitor
from fitbus.errors import InvalidArgumentError

__all__ = ["SaveFreq", "Saving", "path_of", "saved_of", "scalar"]

SaveFreq = Literal["epoch"] | int


@final
class Saving:
    """Keras' arguments of its checkpoint callbacks, checked; counts batches.

    Args:
        owner: The callback's name, for messages.
        monitor: What judges values.
        verbose: 0 or 1.
        flags: Arguments that are True or False, by name.
        save_freq: `"epoch"`, or how many batches.
        threshold: The first best value, or None.

    Attributes:
        best: The best value; None before the first one.
        batches: Batches since it saved.
        epoch: The epoch under way, from 0.
    """

    def __init__(
        self,
        owner: str,
        monitor: Monitor,
        *,
        verbose: int,
        flags: Mapping[str, object],
        save_freq: SaveFreq,
        threshold: float | None,
    ) -> None:
        if verbose not in (0, 1, 2):
            raise InvalidArgumentError(f"{owner}.verbose", verbose, "give 0 (silent) or 1")
        for name, flag in flags.items():
            if not isinstance(flag, bool):
                raise InvalidArgumentError(f"{owner}.{name}", flag, "give True or False")
        whole = isinstance(save_freq, int) and not isinstance(save_freq, bool)
        if save_freq != "epoch" and not (whole and save_freq > 0):
            raise InvalidArgumentError(
                f"{owner}.save_freq", save_freq, "give 'epoch', or a number of batches above 0"
            )
        number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
        if threshold is not None and not (number and not math.isnan(threshold)):
            raise InvalidArgumentError(
                f"{owner}.initial_value_threshold", threshold, "give a number, or None"
            )
        self._freq = save_freq
        self._monitor = monitor
        self.best = threshold
        self.batches = 0
        self.epoch = 0

    def is_due_at_batch(self) -> bool:
        """Counts a batch, over epochs and trainings; tells whether it saves now."""
        self.batches += 1
        due = isinstance(self._freq, int) and self.batches >= self._freq
        if due:
            self.batches = 0
        return due

    def improves(self, value: float) -> bool:
        """Whether a value is the best one; notes it if so."""
        better = self._monitor.improves(value, self.best)
        if better:
            self.best = value
        return better


def saved_of(run: Any, state: Any, *, weights_only: bool) -> Any:
    """What of a state is saved: all of it, or what the task says are its weights."""
    if not weights_only:
        return state
    weights = getattr(run.trainer.steps.task, "weights", None)
    return state.params if weights is None else weights(state)


def scalar(value: object) -> float | None:
    """A value of the logs as a number; None if it is none, or several."""
    if isinstance(value, str | bytes) or getattr(value, "shape", ()) != ():
        return None
    try:
        return float(value)  # type: ignore[arg-type]  # tried
    except (TypeError, ValueError):
        return None


def path_of(owner: str, argument: str, path: Any) -> str:
    """A path as text, or refuses it."""
    if not isinstance(path, str | os.PathLike) or not str(path):
        raise InvalidArgumentError(f"{owner}.{argument}", path, "give a path")
    text: str | bytes = os.fspath(path)
    if isinstance(text, bytes):
        raise InvalidArgumentError(f"{owner}.{argument}", path, "give a path that is a text")
    return text
