"""Sets a hyperparameter of the optimizer by step or by epoch."""

from __future__ import annotations

import bisect
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, final

from fitbus.callbacks._arguments import is_number
from fitbus.callbacks._callback import Callback, Logs
from fitbus.control import SetHyperparameter
from fitbus.errors import InvalidArgumentError, one_of

if TYPE_CHECKING:
    from fitbus.train import Run

__all__ = ["ParamScheduler"]

Table: TypeAlias = Mapping[int, float] | Sequence[tuple[int, float]]


@final
class ParamScheduler(Callback):
    """Sets one hyperparameter, of any name that the optimizer keeps in its state.

    Several in one run set several hyperparameters. A second owner of one of them, be it another
    callback or a schedule in the optimizer, is refused before the first step, and so is a name that
    the optimizer doesn't keep. The value with which the last update of an epoch was made is added
    to its logs under the name, as soon as there is one.

    By step, a value acts exactly before the update of its number; the steps between changes go on
    running ahead. What that costs: a table, nothing but a wait for the steps in flight at each
    change; a function, a call on the host before each step, and that wait before each step for
    which its value is another one. A smooth schedule that is
    known before training costs nothing where it is given to the optimizer itself, `Supervised(...,
    learning_rate=optax.cosine_decay_schedule(...))`. A training that goes on sets nothing that was
    set before.

    >>> warm_up = ParamScheduler("learning_rate", {0: 1e-4, 100: 1e-3, 5000: 1e-4})
    >>> less_decay = ParamScheduler("weight_decay", lambda epoch: 0.1 / (1 + epoch), by="epoch")

    Differs from Keras in: Keras has no such callback; of it `LearningRateScheduler` is the part
    that sets a learning rate by epoch.

    Args:
        name: The hyperparameter: `"learning_rate"`, `"weight_decay"`, `"b1"`, ...
        schedule: A table `{start: value}`, or pairs `(start, value)`: a value holds from its start
            on until the next one's; before the first start nothing is set. Or a function
            `start -> value`; any Optax schedule is one.
        by: What a start is: `"step"`, the optimizer updates completed so far, over all fits (what
            an Optax schedule counts); or `"epoch"`, the epoch, from 0.

    Attributes:
        value: What it has set last; None before.

    Raises:
        InvalidArgumentError: An argument is out of its range; in `fit`: the hyperparameter isn't
            this callback's to set, or a function returns no finite number.
        ControlRejectedError: In `fit`: the hyperparameter's type can't hold a value.

    Source: fastai's `ParamScheduler`; PyTorch-Ignite's `ParamScheduler` and `PiecewiseLinear`.
    """

    adds_logs: ClassVar[bool | frozenset[str]] = frozenset()  # its own name: see `attach`

    value: float | None
    _before: float | None

    def __init__(
        self,
        name: str,
        schedule: Callable[[int], Any] | Table,
        by: Literal["step", "epoch"] = "step",
    ) -> None:
        if not isinstance(name, str) or not name:
            raise InvalidArgumentError("ParamScheduler.name", name, "give a hyperparameter's name")
        if by not in ("step", "epoch"):
            raise InvalidArgumentError("ParamScheduler.by", by, one_of(("step", "epoch")))
        self.hyperparameter = name
        self.by = by
        self._function = schedule if callable(schedule) else None
        self._table = [] if callable(schedule) else _checked_table(schedule)
        self._starts = [start for start, _ in self._table]
        self._begin()

    @property
    def _label(self) -> str:
        """With the hyperparameter, since there may be several."""
        return f"ParamScheduler({self.hyperparameter!r})"

    def attach(self, run: Run[Any]) -> None:
        """Subscribes to a run, and claims the hyperparameter."""
        super().attach(run)
        run.preparation.claim(self.hyperparameter, self._label)
        run.preparation.added_logs |= {self.hyperparameter}

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Starts anew; by step, it plans when to be asked."""
        self._begin()
        if self.by == "step":
            assert self.run is not None
            self.run.preparation.ask_at(self.model.optimizer.iterations, self._label, self._ask)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """By epoch, it sets the value."""
        assert self.run is not None
        # In an epoch that is gone on with, the backup has what it set, and what came since.
        if self.by == "epoch" and not self.run.preparation.began_before(epoch):
            control = self._control(epoch)
            if control is not None:
                self.run.post(control, self._label).result()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Adds the value to the logs."""
        now = epoch + 1 if self.by == "epoch" else self.model.optimizer.iterations
        value = self.value if self._since < now else self._before
        if logs is not None and value is not None:
            logs[self.hyperparameter] = value

    def state_dict(self) -> dict[str, Any]:
        """What it has set last, and before."""
        return {"value": self.value, "before": self._before, "since": self._since}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes it back: what was set already isn't set again."""
        self.value, self._before, self._since = state["value"], state["before"], state["since"]

    def _begin(self) -> None:
        self.value = None
        self._before = None
        self._since = 0

    def _ask(self, step: int) -> tuple[SetHyperparameter | None, int | None]:
        """What to set before an update, and when to ask again."""
        control = self._control(step)
        if self._function is not None:
            return control, step + 1
        place = bisect.bisect_right(self._starts, step)
        return control, self._starts[place] if place < len(self._starts) else None

    def _control(self, now: int) -> SetHyperparameter | None:
        """What to set; None if nothing changes."""
        if self._function is not None:
            value = _number(self._function(now), f"the result of {self._label} for {self.by} {now}")
        else:
            place = bisect.bisect_right(self._starts, now)
            if not place:
                return None
            value = self._table[place - 1][1]
        if value == self.value:
            return None
        self._before, self.value, self._since = self.value, value, now
        return SetHyperparameter(self.hyperparameter, value)


def _checked_table(schedule: Any) -> list[tuple[int, float]]:
    argument, allowed = "ParamScheduler.schedule", "give a function, {start: value}, or pairs"
    if isinstance(schedule, str) or not isinstance(schedule, Mapping | Sequence):
        raise InvalidArgumentError(argument, schedule, allowed)
    pairs: list[Any] = list(schedule.items() if isinstance(schedule, Mapping) else schedule)
    if not pairs:
        raise InvalidArgumentError(argument, schedule, f"{allowed}, at least one")
    table: dict[int, float] = {}
    for pair in pairs:
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise InvalidArgumentError(argument, pair, allowed)
        start, value = pair
        if isinstance(start, bool) or not hasattr(start, "__index__") or start < 0:
            raise InvalidArgumentError(
                argument, start, "give whole numbers of at least 0 as starts"
            )
        start = operator.index(start)  # NumPy's, too
        if start in table:
            raise InvalidArgumentError(argument, start, "give each start once")
        table[start] = _number(value, f"{argument} at {start}")
    return sorted(table.items())


def _number(found: Any, what: str) -> float:
    """A finite number as Python's own; NumPy's and JAX's scalars are."""
    if getattr(found, "shape", None) == () and hasattr(found, "item"):
        found = found.item()
    if not is_number(found) or not math.isfinite(found):
        raise InvalidArgumentError(what, found, "give a finite number")
    return float(found)
