"""What listens and decides: `Callback`, and the built-in callbacks, with Keras' names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fitbus.callbacks._callback import Callback, Logs
from fitbus.callbacks._early_stopping import EarlyStopping
from fitbus.callbacks._history import History
from fitbus.callbacks._lambda import LambdaCallback

if TYPE_CHECKING:
    from fitbus.callbacks._progress_bar import ProgressBar

__all__ = ["Callback", "EarlyStopping", "History", "LambdaCallback", "Logs", "ProgressBar"]


def __getattr__(name: str) -> Any:
    """Loads the progress bar, which needs an extra, when it is first asked for."""
    if name == "ProgressBar":
        from fitbus.callbacks._progress_bar import ProgressBar

        return ProgressBar
    raise AttributeError(f"module 'fitbus.callbacks' has no attribute {name!r}")
