"""What the callbacks that watch one value, and act when it stands still, share."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

from fitbus.callbacks._callback import Callback, Logs
from fitbus.callbacks._monitor import Monitor

__all__ = ["Watching"]


class Watching(Callback):
    """A callback that judges one value of the logs at the end of each epoch."""

    _monitor: Monitor
    _remembered: ClassVar[tuple[str, ...]]  # attributes that a checkpoint keeps

    def check_log_names(self, names: frozenset[str]) -> None:
        """Refuses a monitor that can never appear."""
        self._monitor.check_names(names)

    def _check_names(self, names: frozenset[str]) -> None:
        super()._check_names(names)  # first: of a misspelt name the direction says nothing
        self._monitor.check_direction()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Starts anew: the object can be used again."""
        self._begin()

    def state_dict(self) -> dict[str, Any]:
        """What it remembers."""
        return {name: getattr(self, name) for name in self._remembered}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes it back."""
        for name in self._remembered:
            setattr(self, name, state[name])

    def _begin(self) -> None:
        """Sets what it remembers to what that is before training."""
        raise NotImplementedError

    def _watched(self, epoch: int, logs: Logs) -> Any:
        """The value; None, with a warning, if the logs don't have it."""
        name = self._monitor.name
        value = logs.get(name)
        if value is None:
            warnings.warn(
                f"{type(self).__name__}: there is no {name!r} in the logs of epoch {epoch}; they"
                f" have {sorted(logs)}",
                RuntimeWarning,
                stacklevel=3,
            )
        return value
