"""Stops training when the loss leaves the range that it was in."""

from __future__ import annotations

import bisect
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

from fitbus.callbacks._arguments import check_whole, is_number
from fitbus.callbacks._callback import Callback, Logs
from fitbus.control import Control, ScaleLearningRate, StopTraining
from fitbus.errors import InvalidArgumentError, one_of
from fitbus.events import BatchEnd
from fitbus.train import NO_MEAN

if TYPE_CHECKING:
    from fitbus.train import Run

__all__ = ["StopOnDivergence"]

_ACTIONS = ("stop", "reduce")


@final
class StopOnDivergence(Callback):
    """Stops training, or lowers the learning rate, when a value is far above those before it.

    A value diverges if it is more than `factor` times the median of the last `window` values that
    did not. Nothing is judged before there are so many of them, but for values that aren't finite,
    which always diverge: NaN never counts as small. Values that diverge go into no median. A batch
    without a weight has no value.

    It is for values above 0, as losses mostly are: while the median isn't, only what isn't finite
    diverges.

    It listens beside training, which doesn't wait: it acts as many steps late as were in flight,
    and by then these updates are in the parameters. To leave out updates that aren't finite, or are
    too long, at the very step, use `Guard`. With it, a step that was left out still shows here by
    its value; `patience` lets single ones pass.

    Differs from Keras in being there: `TerminateOnNaN` sees only what isn't finite any more.

    Args:
        monitor: A name in the logs of training batches.
        factor: How many times the median is too much; above 1.
        window: Values that the median is of.
        patience: Acts when so many values in a row diverge.
        action: `"stop"`; or `"reduce"`: the learning rate is multiplied by `scale`, and the values
            are gathered anew. It must be this callback's to set, as that of `ReduceLROnPlateau`.
        scale: For `"reduce"`; above 0, below 1.

    Attributes:
        median: Of the last values; None before there are enough.
        wait: Values in a row that diverged.
        times: How often it acted. A stop is asked for once.

    Raises:
        InvalidArgumentError: An argument is out of range; in `fit`, before the first step: the logs
            of training batches will never have `monitor`, or the learning rate isn't its to set.
    """

    adds_logs: ClassVar[bool | frozenset[str]] = False

    median: float | None
    wait: int
    times: int
    _values: deque[float]  # in order, and
    _sorted: list[float]  # by size

    def __init__(
        self,
        monitor: str = "loss",
        factor: float = 3.0,
        window: int = 100,
        *,
        patience: int = 1,
        action: Literal["stop", "reduce"] = "stop",
        scale: float = 0.5,
    ) -> None:
        if not isinstance(monitor, str) or not monitor:
            raise InvalidArgumentError(
                "StopOnDivergence.monitor", monitor, "give a name in the logs"
            )
        if not is_number(factor) or not 1 < factor < math.inf:
            raise InvalidArgumentError(
                "StopOnDivergence.factor", factor, "give a finite number above 1"
            )
        check_whole("StopOnDivergence", "window", window, 1)
        check_whole("StopOnDivergence", "patience", patience, 1)
        if action not in _ACTIONS:
            raise InvalidArgumentError("StopOnDivergence.action", action, one_of(_ACTIONS))
        if not is_number(scale) or not 0 < scale < 1:
            raise InvalidArgumentError(
                "StopOnDivergence.scale", scale, "give a number above 0, below 1"
            )
        self.monitor = monitor
        self.factor = factor
        self.window = window
        self.patience = patience
        self.action = action
        self.scale = scale
        self._begin()

    def attach(self, run: Run[Any]) -> None:
        """Listens to a run's batches, and claims the learning rate if it may lower it."""
        super().attach(run)
        if self.action == "reduce":
            run.preparation.claim("learning_rate", "StopOnDivergence")
        run.add(self._look, BatchEnd, wait=False, name="StopOnDivergence", batched=True)

    def check_log_names(self, names: frozenset[str]) -> None:
        """Refuses a monitor that logs of training batches can never have."""
        of_batches = frozenset(name for name in names if not name.startswith("val_"))
        if self.monitor not in of_batches:
            raise InvalidArgumentError(
                "StopOnDivergence.monitor",
                self.monitor,
                f"the logs of training batches will have {sorted(of_batches)}",
            )

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Starts anew: the object can be used again."""
        self._begin()

    def state_dict(self) -> dict[str, Any]:
        """What it remembers."""
        return {"values": list(self._values), "wait": self.wait, "times": self.times}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes it back."""
        self._begin()
        for value in state["values"]:
            self._take(value)
        self.wait, self.times = state["wait"], state["times"]

    async def _look(self, events: Sequence[BatchEnd]) -> Control | None:
        """Judges batches, in order."""
        for event in events:
            value = event.batch_logs.get(self.monitor)
            if value is None or value is NO_MEAN or self._over:
                continue
            if not self._diverges(value):
                self.wait = 0
                self._take(value)
                continue
            self.wait += 1
            if self.wait >= self.patience:
                return self._act(event, value)  # the batches behind it came before it acts
        return None

    def _diverges(self, value: float) -> bool:
        if not math.isfinite(value):
            return True
        median = self.median
        return median is not None and value > self.factor * median > 0

    def _act(self, event: BatchEnd, value: float) -> Control:
        median = "" if self.median is None else f", and the median was {self.median:g}"
        self.times += 1
        self._over = self.action == "stop"
        if self.action == "reduce":
            self._forget()
            return ScaleLearningRate(self.scale)
        return StopTraining(
            f"{self.monitor!r} diverged: it was {value:g} at step {event.step}{median}"
        )

    def _take(self, value: float) -> None:
        """Lets the oldest value go, if there are enough, for a new one."""
        if len(self._values) == self.window:
            del self._sorted[bisect.bisect_left(self._sorted, self._values.popleft())]
        self._values.append(value)
        bisect.insort(self._sorted, value)
        if len(self._values) == self.window:
            half = self.window // 2
            middle = self._sorted[half - 1 + self.window % 2 : half + 1]
            self.median = sum(middle) / len(middle)

    def _forget(self) -> None:
        self._values = deque()
        self._sorted = []
        self.median = None
        self.wait = 0

    def _begin(self) -> None:
        self._forget()
        self.times = 0
        self._over = False
