"""Ends training when the loss is NaN or infinite."""

from __future__ import annotations

import math
from typing import ClassVar, final

from fitbus.callbacks._arguments import check_flag, check_loss
from fitbus.callbacks._callback import Callback, Logs
from fitbus.control import StopTraining
from fitbus.train import NO_MEAN

__all__ = ["TerminateOnNaN"]


@final
class TerminateOnNaN(Callback):
    """Ends training at the batch at which the loss becomes NaN or infinite.

    It looks at the running mean of the epoch, in which a NaN stays, after each batch: training
    waits for it, and makes no update more. Stopped, training ends as it does on any stop: the epoch
    is validated and ended, and `TrainEnd` says why.

    Differs from Keras in: a batch whose weights are all 0 has no loss, which isn't taken for a
    wrong one; a task that has no `loss` is refused before the first step, where Keras would never
    stop it; and after the error of `raise_error` too, `on_train_end` of all callbacks is called.

    Args:
        raise_error: Whether `fit` raises, rather than stopping with a line in the output.

    Raises:
        InvalidArgumentError: `raise_error` is neither True nor False; in `fit`, before the first
            step: the logs will never have `loss`.
        RuntimeError: In `fit`, with `raise_error`: the loss is NaN or infinite.

    Source: Keras' `TerminateOnNaN`.
    """

    adds_logs: ClassVar[bool | frozenset[str]] = False

    def __init__(self, raise_error: bool = False) -> None:
        check_flag("TerminateOnNaN", "raise_error", raise_error)
        self.raise_error = raise_error

    def check_log_names(self, names: frozenset[str]) -> None:
        """Refuses logs that will never have a loss."""
        check_loss(self, names)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Looks at the loss."""
        loss = (logs or {}).get("loss")
        if loss is None or loss is NO_MEAN or math.isfinite(loss):
            return
        if self.raise_error:
            raise RuntimeError(f"NaN or Inf loss encountered at batch {batch}: it is {loss}")
        print(f"Batch {batch}: the loss is {loss}; training ends.")  # noqa: T201  # as in Keras
        assert self.run is not None
        self.run.post(StopTraining(f"the loss was {loss} at batch {batch}"), "TerminateOnNaN")
