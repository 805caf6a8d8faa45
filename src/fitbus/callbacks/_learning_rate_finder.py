"""Finds a learning rate to begin with."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

import jax
import jax.numpy as jnp
import numpy as np

from fitbus.callbacks._arguments import check_loss, check_whole, is_number
from fitbus.callbacks._callback import Callback, Logs
from fitbus.control import SetLearningRate, StopTraining, UpdateState
from fitbus.errors import FitbusError, InvalidArgumentError, one_of
from fitbus.events import BatchBegin, BatchEnd
from fitbus.train import NO_MEAN, TrainState, is_key, on_host

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fitbus.train import Run

__all__ = ["LearningRateFinder"]

_BEGIN, _END = 10, 1  # left out of a suggestion: the mean hasn't settled; it diverges
_STILL = 1e-9  # of the loss: what is less is rounding


@final
class LearningRateFinder(Callback):
    """Tries learning rates from small to large, and suggests one to begin with: a range test.

    Run it in a `fit` of its own, before training. It raises the learning rate batch by batch, notes
    the smoothed loss, ends training when that diverges or all rates are tried, and puts parameters,
    the optimizer's state, `extra` and the random key back as they were when training began; only
    `step` goes on, so give the training that a `ParamScheduler` is to begin with a trainer of its
    own. That is done before the epoch ends, so that what is saved there is the old
    state, and on every other way out. The `History` and the logs of that `fit` say nothing.

        finder = LearningRateFinder()
        await trainer.fit(x, y, epochs=10, callbacks=[finder])
        rate = finder.suggestion
        finder.plot()

    Training waits for it at each batch. It keeps a copy of the state in the host's memory
    meanwhile. A batch whose weights are all 0 has no loss: its learning rate is tried on the next.

    Differs from Keras in: Keras has no such callback.

    Args:
        min_lr: The first learning rate; above 0.
        max_lr: The last one; above `min_lr`.
        steps: How many are tried, one each batch; at least 2.
        mode: `"exponential"`: by equal factors; `"linear"`: by equal steps.
        smoothing: Of the loss: the weight of what came before in its exponential mean, whose bias
            towards the beginning is taken out; at least 0, below 1. More (fastai and Lightning have
            0.98) lets what the first few batches happened to lose weigh on all that follow.
        diverges_at: Ends when the smoothed loss is above the lowest one times this; above 1; None:
            only when the loss is NaN or infinite.

    Attributes:
        learning_rates: Those that were tried,
        losses: with the smoothed loss of each.
        diverged: Whether the loss diverged.

    Raises:
        InvalidArgumentError: An argument is out of its range; in `fit`: the learning rate isn't
            this callback's to set, or the task has no `loss`.

    Source: L. N. Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017,
    https://arxiv.org/abs/1506.01186, section 3.3; fastai's `lr_find`; PyTorch Lightning's
    `LearningRateFinder`.
    """

    adds_logs: ClassVar[bool | frozenset[str]] = False

    learning_rates: list[float]
    losses: list[float]
    diverged: bool

    def __init__(
        self,
        min_lr: float = 1e-7,
        max_lr: float = 10.0,
        steps: int = 100,
        mode: Literal["exponential", "linear"] = "exponential",
        *,
        smoothing: float = 0.9,
        diverges_at: float | None = 4.0,
    ) -> None:
        _check("min_lr", min_lr, _is_finite(min_lr) and min_lr > 0, "a finite number above 0")
        _check("max_lr", max_lr, _is_finite(max_lr) and max_lr > min_lr, "a number above min_lr")
        check_whole("LearningRateFinder", "steps", steps, 2)
        modes = ("exponential", "linear")
        if mode not in modes:
            raise InvalidArgumentError("LearningRateFinder.mode", mode, one_of(modes))
        is_part = _is_finite(smoothing) and 0 <= smoothing < 1
        _check("smoothing", smoothing, is_part, "a number of at least 0, below 1")
        is_factor = diverges_at is None or (_is_finite(diverges_at) and diverges_at > 1)
        _check("diverges_at", diverges_at, is_factor, "a finite number above 1, or None")
        self.min_lr = min_lr
        self.max_lr = max_lr
        self.steps = steps
        self.mode = mode
        self.smoothing = smoothing
        self.diverges_at = diverges_at
        self._kept: list[Any] | None = None  # the leaves of the state to put back
        self._begin()

    def attach(self, run: Run[Any]) -> None:
        """Subscribes to a run, and claims the learning rate."""
        super().attach(run)
        run.preparation.claim("learning_rate", "LearningRateFinder")
        run.add(self._at_batch, BatchBegin, BatchEnd, wait=True, name="LearningRateFinder batches")

    def check_log_names(self, names: frozenset[str]) -> None:
        """Refuses logs that will never have a loss."""
        check_loss(self, names)

    @property
    def finished(self) -> bool:
        """Whether it diverged, or tried all that it was to try."""
        return self.diverged or len(self.losses) == self.steps

    @property
    def suggestion(self) -> float | None:
        """Where the smoothed loss falls most steeply: a learning rate; None if it can't be told.

        The slope at one that was tried is that between its two neighbours, over the logarithm of
        the learning rate (in mode `"linear"`, over the learning rate). The first ten, for which the
        mean hasn't settled, and the last one, at which it may diverge, are left out altogether.
        There is none where the loss falls nowhere, or fewer than three are left. Look at the plot,
        too.
        """
        rates = np.asarray(self.learning_rates[_BEGIN:-_END])
        losses = np.asarray(self.losses[_BEGIN:-_END])
        if len(losses) < 3:
            return None
        places = np.log(rates) if self.mode == "exponential" else rates
        falls = losses[2:] - losses[:-2]
        steepest = int(np.argmin(falls / (places[2:] - places[:-2])))
        if falls[steepest] >= -_STILL * np.max(np.abs(losses)):
            return None
        return self.learning_rates[_BEGIN + 1 + steepest]

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draws the smoothed loss over the learning rate, and marks the suggestion.

        Args:
            ax: Where to; a new figure of matplotlib's pyplot unless given. It is returned.

        Raises:
            FitbusError: matplotlib isn't installed: the extra `plot`.
        """
        if ax is None:
            try:
                from matplotlib import pyplot as plt
            except ImportError as error:
                raise FitbusError(
                    "LearningRateFinder.plot needs matplotlib, which isn't installed:"
                    ' pip install "fitbus[plot]"'
                ) from error
            ax = plt.figure().subplots()
        ax.plot(self.learning_rates, self.losses)
        if self.mode == "exponential":
            ax.set_xscale("log")
        ax.set_xlabel("learning rate")
        ax.set_ylabel("smoothed loss")
        suggestion = self.suggestion
        if suggestion is not None:
            loss = self.losses[self.learning_rates.index(suggestion)]
            ax.plot([suggestion], [loss], "o", label=f"suggestion: {suggestion:.2e}")
            ax.legend()
        return ax

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Starts anew, and keeps the state."""
        self._begin()
        state: TrainState = self.model.state
        self._kept = jax.tree.leaves(on_host(dataclasses.replace(state, step=None)))

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Puts the state back, if that wasn't done before."""
        self._put_back()
        assert self.run is not None
        if not self.finished and self.run.end_reason == "completed":
            warnings.warn(
                f"LearningRateFinder: training had {len(self.losses)} batches only, of the"
                f" {self.steps} that it was to try; give more epochs, or fewer steps",
                RuntimeWarning,
                stacklevel=2,
            )

    def state_dict(self) -> dict[str, Any]:
        """What it found; and in training the state that it is to put back, as a list of arrays."""
        return {
            "learning_rates": list(self.learning_rates),
            "losses": list(self.losses),
            "diverged": self.diverged,
            "mean": self._mean,
            "state": list(self._kept or ()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes it back."""
        self.learning_rates = list(state["learning_rates"])
        self.losses = list(state["losses"])
        self.diverged = state["diverged"]
        self._mean = state["mean"]
        self._kept = list(state["state"]) or None

    def _begin(self) -> None:
        self.learning_rates, self.losses = [], []
        self.diverged = False
        self._mean = 0.0

    def _rate(self, number: int) -> float:
        part = number / (self.steps - 1)
        if self.mode == "linear":
            return self.min_lr + (self.max_lr - self.min_lr) * part
        return float(self.min_lr * (self.max_lr / self.min_lr) ** part)

    def _at_batch(self, event: BatchBegin | BatchEnd) -> None:
        """Sets the learning rate before a batch, and notes the loss after it."""
        assert self.run is not None
        if self.finished:
            return
        rate = self._rate(len(self.losses))
        if isinstance(event, BatchBegin):
            self.run.post(SetLearningRate(rate), "LearningRateFinder").result()
            return
        loss = event.batch_logs["loss"]
        if loss is NO_MEAN:
            return
        self._note(rate, loss)
        if self.finished:
            self._put_back()
            why = "the loss diverged" if self.diverged else "all learning rates were tried"
            self.run.post(StopTraining(why, validate=False), "LearningRateFinder")

    def _note(self, rate: float, loss: float) -> None:
        if not math.isfinite(loss):
            self.diverged = True
            return
        self._mean = self.smoothing * self._mean + (1 - self.smoothing) * loss
        smoothed = self._mean / (1 - self.smoothing ** (len(self.losses) + 1))
        self.learning_rates.append(rate)
        self.losses.append(smoothed)
        if self.diverges_at is not None and smoothed > self.diverges_at * min(self.losses):
            self.diverged = True

    def _put_back(self) -> None:
        kept, self._kept = self._kept, None
        if kept is None:
            return
        assert self.run is not None

        def put_back(state: TrainState) -> TrainState:
            now = dataclasses.replace(state, step=None)
            old: TrainState = _as_keys(now, jax.tree.unflatten(jax.tree.structure(now), kept))
            return dataclasses.replace(old, step=state.step)

        self.run.post(UpdateState(put_back), "LearningRateFinder").result()


def _as_keys(tree: Any, kept: Any) -> Any:
    """What was kept, with random keys where a tree has them."""

    def as_key(leaf: Any, data: Any) -> Any:
        return jax.random.wrap_key_data(jnp.asarray(data), impl=jax.random.key_impl(leaf))

    return jax.tree.map(lambda leaf, x: as_key(leaf, x) if is_key(leaf) else x, tree, kept)


def _is_finite(value: object) -> bool:
    return is_number(value) and math.isfinite(value)


def _check(argument: str, value: object, is_good: bool, allowed: str) -> None:
    if not is_good:
        raise InvalidArgumentError(f"LearningRateFinder.{argument}", value, f"give {allowed}")
