"""What callbacks of the parent find of a run that trains in a child."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

from fitbus._history import History
from fitbus._stand_ins import Absent, Model, Optimizer, Preparation
from fitbus.bus import stands_in
from fitbus.control import Control, Receipt
from fitbus.errors import ElsewhereError, WrongThreadError

if TYPE_CHECKING:
    from fitbus.bus import Publisher
    from fitbus.process._run import ProcessRun

__all__ = ["DriverView", "ModelOf", "PreparationView"]


class _Elsewhere(Absent):
    error = ElsewhereError


@final
class _EngineView(_Elsewhere):
    """The little that callbacks ask of what runs."""

    what = "run.driver.engine"

    def __init__(self, publisher: Publisher) -> None:
        self.publisher = publisher


@final
class DriverView(_Elsewhere):
    """The little that callbacks ask of what drives a run."""

    what = "run.driver"
    verbose = 0
    waited = 0

    def __init__(self, run: ProcessRun, grace_s: float) -> None:
        self._run = run
        self.grace_s = grace_s

    @property
    def life(self) -> Any:
        """Where the run stands, and what came of it."""
        return self._run.block.life

    @property
    def record(self) -> History | None:
        """The logs of the epochs that have ended, as far as they were told."""
        relay = self._run.block.relay
        return None if relay is None else relay.record

    @property
    def engine(self) -> Any:
        """What runs; None before the start."""
        publisher = self._run.publisher
        return None if publisher is None else _EngineView(publisher)


@final
class PreparationView(Preparation):
    """Takes what callbacks settle with a run before its first step."""

    error = ElsewhereError


@final
class _OptimizerView(Optimizer):
    error = ElsewhereError


@final
class _ModelView(Model):
    error = ElsewhereError


@final
class ModelOf:
    """What the Keras-shaped views of a run read and steer.

    Args:
        run: The run.
        rates: Asks for the hyperparameters, in the thread that stands for the training thread.
    """

    def __init__(self, run: ProcessRun, rates: Callable[[], dict[str, float]]) -> None:
        self._run = run
        self._rates = rates

    def view(self, source: str) -> Model:
        """The view of a callback."""
        return _ModelView(self, source, _OptimizerView)

    @property
    def learning_rate(self) -> float:
        """The one in force, for `def` hooks that training waits for."""
        publisher = self._run.publisher
        if publisher is None or not stands_in(publisher):
            raise WrongThreadError(
                "model.optimizer.learning_rate is for `def` hooks, for which training stands still;"
                " elsewhere write `await run.hyperparameters()`"
            )
        rate = self._rates().get("learning_rate", math.nan)
        if math.isnan(rate):
            raise ElsewhereError("model.optimizer.learning_rate (the optimizer has none)")
        return rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        """The child has it."""

    def asked_to_stop(self) -> bool:
        """Whether a stop was asked for and has acted."""
        return self._run.stopping

    def post(self, control: Control, source: str = "") -> Receipt:
        """Sends a control."""
        return self._run.post(control, source)

    def statistics(self) -> Any:
        """The run's counters."""
        return self._run.statistics()
