"""What a callback finds of a run whose training isn't in this process. Internal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from fitbus.control import Control, Receipt, SetLearningRate, StopTraining
from fitbus.errors import InvalidArgumentError

__all__ = ["Absent", "Model", "Optimizer", "Preparation", "Steered", "attach"]


class Absent:
    """Has only some of an object's attributes, and says why the others aren't there.

    Attributes:
        what: What it stands for, in words.
        error: What is raised for an attribute that it lacks, which has to be an `AttributeError`.
    """

    what: ClassVar[str] = "run"
    error: ClassVar[Any] = AttributeError

    def __getattr__(self, name: str) -> Any:
        """Called for what isn't there."""
        raise type(self).error(f"{self.what}.{name}")


def attach(run: Any, argument: str, callback: Any) -> None:
    """Attaches a callback, or a handler; refuses one that goes on from a backup.

    Args:
        run: The run, whose `preparation` is a stand-in.
        argument: The argument in which it came.
        callback: The callback.
    """
    own = getattr(callback, "attach", None)
    if isinstance(callback, type) or (own is None and not callable(callback)):
        raise InvalidArgumentError(
            argument, callback, "give Callback objects, handlers, or lists of them"
        )
    if own is None:
        run.add(callback)
        return
    own(run)
    if run.preparation.restorers:
        raise run.preparation.error(f"what {type(callback).__name__} goes on from")


class Preparation(Absent):
    """Takes what callbacks settle with a run before its first step; nobody asks for it."""

    what = "run.preparation"
    resumed = went_back = None

    def __init__(self) -> None:
        self.added_logs: frozenset[str] = frozenset()
        self.callbacks: list[Any] = []
        self.restorers: list[Any] = []

    def check_logs(self, check: Callable[[frozenset[str]], object]) -> None:
        """The names of the logs aren't known before they come."""

    def claim(self, hyperparameter: str, owner: str) -> None:
        """Nobody sets anything."""

    def claim_file(self, path: str, owner: str) -> None:
        """Nobody looks."""

    def ask_at(self, _step: int, _source: str, _ask: Any) -> None:
        """There is no boundary at which to ask."""
        raise type(self).error("run.preparation.ask_at (of a callback that acts at certain steps)")

    def began_before(self, _epoch: int) -> bool:
        """Each epoch is told of from its beginning."""
        return False


class Steered(Protocol):
    """What a model's stand-in reads and steers."""

    learning_rate: Any

    def post(self, control: Control, source: str = "") -> Receipt:
        """Sends a control."""
        ...

    def statistics(self) -> Any:
        """Its counters, `step` among them."""
        ...

    def asked_to_stop(self) -> bool:
        """Whether somebody asked for a stop."""
        ...


class Model(Absent):
    """The Keras-shaped view, without what needs parameters.

    Args:
        run: What it is a view of.
        source: The name under which its writes count as sent.
        optimizer: The view of the optimizer, which is one as well.
    """

    what = "model"
    history: Any = None
    stop_evaluating = stop_predicting = False

    def __init__(self, run: Steered, source: str, optimizer: type[Optimizer]) -> None:
        self._run = run
        self._source = source
        self.optimizer = optimizer(run, source)

    @property
    def stop_training(self) -> bool:
        """Whether somebody asked for a stop."""
        return self._run.asked_to_stop()

    @stop_training.setter
    def stop_training(self, stop: bool) -> None:
        if stop:
            reason = f"stop_training was set by {self._source}"
            self._run.post(StopTraining(reason), self._source)


class Optimizer(Absent):
    """The learning rate, as far as it is known here."""

    what = "model.optimizer"

    def __init__(self, run: Steered, source: str) -> None:
        self._run = run
        self._source = source

    @property
    def learning_rate(self) -> float:
        """The one that is in force."""
        rate: float = self._run.learning_rate
        return rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._run.post(SetLearningRate(value), self._source)
        self._run.learning_rate = float(value)

    lr = learning_rate

    @property
    def iterations(self) -> int:
        """Completed optimizer updates."""
        step: int = self._run.statistics().step
        return step
