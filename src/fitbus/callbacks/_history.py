"""Records the logs of each epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

from fitbus.callbacks._callback import Callback, Logs

__all__ = ["History"]


@final
class History(Callback):
    """Records the logs of each epoch; Keras' semantics. `fit` returns such a record anyway.

    `epoch` starts anew with each training, `history` goes on: used in two fits it holds both.

    Attributes:
        epoch: The epochs of the last training, from 0.
        history: For each name, the values in order.
    """

    adds_logs: ClassVar[bool | frozenset[str]] = False

    def __init__(self) -> None:
        self.epoch: list[int] = []
        self.history: dict[str, list[float]] = {}

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Starts the list of epochs anew."""
        self.epoch = []

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Adds the epoch."""
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {"epoch": list(self.epoch), "history": {k: list(v) for k, v in self.history.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes it back."""
        self.epoch = list(state["epoch"])
        self.history = {name: list(values) for name, values in state["history"].items()}
