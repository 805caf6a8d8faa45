"""The logs of the epochs: what a training leaves behind, wherever it went on. Internal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

__all__ = ["History"]


@final
class History:
    """The logs of each epoch, as `fit` returns them.

    Attributes:
        epoch: The epochs that ended, from 0.
        history: For each name, the values in order; what a callback added to the logs included.
        params: What Keras keeps there too: `verbose`, `epochs` and `steps`.
    """

    def __init__(self, params: Mapping[str, Any] | None = None) -> None:
        self.params: dict[str, Any] = dict(params or {})
        self.epoch: list[int] = []
        self.history: dict[str, list[float]] = {}

    def record(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Adds an epoch."""
        self.epoch.append(epoch)
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)

    def go_on(self, epochs: Sequence[int], values: Mapping[str, Sequence[float]]) -> None:
        """Begins with what a training recorded that is gone on with."""
        self.epoch = list(epochs)
        self.history = {name: list(found) for name, found in values.items()}

    def __repr__(self) -> str:
        """Shows the last value of each name."""
        last = ", ".join(f"{name}={values[-1]:.6g}" for name, values in self.history.items())
        return f"<History of {len(self.epoch)} epochs{': ' if last else ''}{last}>"
