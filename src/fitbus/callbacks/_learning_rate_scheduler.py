"""Sets the learning rate at the beginning of each epoch."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, final

import jax.numpy as jnp
import numpy as np

from fitbus.callbacks._arguments import check_verbose
from fitbus.callbacks._callback import Callback, Logs
from fitbus.errors import InvalidArgumentError

if TYPE_CHECKING:
    from fitbus.train import Run

__all__ = ["LearningRateScheduler"]


@final
class LearningRateScheduler(Callback):
    """Sets the learning rate at the beginning of each epoch to what a function says.

    The learning rate with which an epoch was trained is added to its logs as `learning_rate`. The
    optimizer must keep its learning rate in its state, and no schedule of its own and no other
    callback may set it: otherwise the run is refused before its first step. For a learning rate by
    step, or another hyperparameter, take `ParamScheduler`; a schedule by step that is known before
    training costs nothing where it is given to the optimizer itself.

    Differs from Keras in: whether the function takes the learning rate is told by its signature,
    where Keras calls it again without, whatever `TypeError` it raised within; an Optax schedule,
    which returns an array of one number, can be given; and a result that is NaN, infinite or
    negative is refused. An epoch that a training goes on with within keeps its learning rate.

    Args:
        schedule: `(epoch, learning_rate) -> learning_rate`, or `(epoch) -> learning_rate`: any
            Optax schedule is one. `epoch` counts from 0, the learning rate that it gets is a float.
            One whose signature can't be told is given both.
        verbose: 1 prints the learning rate of each epoch.

    Raises:
        InvalidArgumentError: An argument is of the wrong kind; in `fit`: `schedule` doesn't return
            a float, or the learning rate isn't this callback's to set.

    Source: Keras' `LearningRateScheduler`.
    """

    adds_logs: ClassVar[bool | frozenset[str]] = frozenset({"learning_rate"})

    def __init__(self, schedule: Callable[..., Any], verbose: int = 0) -> None:
        self._takes_rate = _takes_rate(schedule)
        check_verbose("LearningRateScheduler", verbose)
        self.schedule = schedule
        self.verbose = verbose

    def attach(self, run: Run[Any]) -> None:
        """Subscribes to a run, and claims the learning rate."""
        super().attach(run)
        run.preparation.claim("learning_rate", "LearningRateScheduler")

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Sets it."""
        assert self.run is not None
        if self.run.preparation.began_before(epoch):
            return  # the backup has what it set, and what others made of it since
        if self._takes_rate:
            found = self.schedule(epoch, float(self.model.optimizer.learning_rate))
        else:
            found = self.schedule(epoch)
        rate = _checked(found, epoch)
        self.model.optimizer.learning_rate = rate
        if self.verbose:
            print(  # noqa: T201  # asked for
                f"Epoch {epoch + 1}: LearningRateScheduler sets the learning rate to {rate}."
            )

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Adds it to the logs."""
        if logs is not None:
            logs["learning_rate"] = float(self.model.optimizer.learning_rate)


def _takes_rate(schedule: object) -> bool:
    """Whether a schedule takes the epoch and the learning rate, rather than the epoch alone."""
    allowed = "give a function of (epoch, learning_rate), or of (epoch)"
    if not callable(schedule):
        raise InvalidArgumentError("LearningRateScheduler.schedule", schedule, allowed)
    try:
        signature = inspect.signature(schedule)
    except (TypeError, ValueError):  # of some functions that are written in C
        return True
    for given in ((0, 0.1), (0,)):
        try:
            signature.bind(*given)
        except TypeError:
            continue
        return len(given) == 2
    raise InvalidArgumentError("LearningRateScheduler.schedule", schedule, allowed)


def _checked(found: Any, epoch: int) -> float:
    """A learning rate, as a Python float."""
    is_array = getattr(found, "shape", None) == () and hasattr(found, "dtype")
    is_float = isinstance(found, float | np.floating)
    if is_float or (is_array and jnp.issubdtype(found.dtype, jnp.floating)):
        value = float(found)
        if 0 <= value < math.inf:
            return value
    raise InvalidArgumentError(
        f"the result of LearningRateScheduler.schedule for epoch {epoch}",
        found,
        "return a float: finite, at least 0",
    )
