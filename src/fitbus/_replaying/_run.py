"""What callbacks get in place of a live run: its events come from a record."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple, final

from fitbus._replaying._results import Sent
from fitbus._stand_ins import Absent, Model, Optimizer, Preparation
from fitbus.bus import Bus, DeliveryReport, Publisher
from fitbus.control import Applied, Control, Receipt, SetLearningRate, StopTraining
from fitbus.errors import ReplayError
from fitbus.events import ControlApplied, EpochEnd, Event, TrainBegin, TrainEnd

__all__ = ["ReplayedRun"]


class _Statistics(NamedTuple):
    """Of a replayed run: how far it is."""

    step: int


class _Absent(Absent):
    """Says that nothing is trained."""

    error = ReplayError


@final
class _Engine(_Absent):
    """Nothing runs; so no deadline of its end is near either."""

    what = "run.driver.engine"
    publisher = SimpleNamespace(standstill=SimpleNamespace(late=False))


@final
class _Driver(_Absent):
    """The little that callbacks ask of what drives a run."""

    what = "run.driver"
    engine = _Engine()
    grace_s = 5.0
    verbose = 0
    waited = 0


@final
class _Preparation(Preparation):
    error = ReplayError


@final
class _Optimizer(Optimizer):
    error = ReplayError


@final
class _Model(Model):
    error = ReplayError


@final
class ReplayedRun(_Absent):
    """A run of which everything has happened.

    Args:
        bus: Where its events are published.

    Attributes:
        status: Whether it is over.
        sent: The controls that came.
        ends: Called when all is over.
    """

    report: DeliveryReport | None = None
    open_logs = True

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.driver = _Driver()
        self.preparation = _Preparation()
        self.params: dict[str, Any] = {"verbose": 0, "epochs": 1, "steps": None}
        self.status = "running"
        self.sent: list[Sent] = []
        self._rate: float | None = None
        self.ends: list[Callable[[], object]] = []
        self.end_reason: str | None = None
        self._publisher: Publisher | None = None
        self._last: Event | None = None
        self._lock = threading.RLock()
        self.on = bus.on
        self.add = bus.add
        self.subscribe = bus.subscribe
        self.wait_for = bus.wait_for
        self.attach_subscription = bus.attach_subscription  # for callbacks

    @property
    def id(self) -> str:
        """The id of the run whose events are published now."""
        return "replay" if self._last is None else self._last.run

    def look_at(self, event: Event, publisher: Publisher | None = None) -> None:
        """Takes note of the event that comes next."""
        self._last, self._publisher = event, publisher
        if isinstance(event, TrainBegin):
            self.params = {"verbose": 0, "epochs": event.epochs, "steps": event.steps_per_epoch}
        elif isinstance(event, TrainEnd):
            self.end_reason = event.reason
        elif isinstance(event, EpochEnd):
            self._rate = event.logs.get("learning_rate", self._rate)
        elif isinstance(event, ControlApplied) and isinstance(event.control, SetLearningRate):
            self._rate = event.control.value

    def collect(self) -> None:
        """Takes the controls that came: they count as applied, and change nothing. Any thread."""
        publisher, last = self._publisher, self._last
        if publisher is None or last is None:
            return
        with self._lock:
            for receipt, _ in publisher.inbox.take():
                where = (last.run, last.seq, last.step, last.epoch)
                self.sent.append(Sent(receipt.control, receipt.source, *where))
                receipt.settle(Applied(last.step, last.epoch))

    # What callbacks, and handlers with a run at hand, use.

    @property
    def learning_rate(self) -> float:
        """The last one that was told: in the logs of an epoch, or by a control."""
        if self._rate is None:
            raise ReplayError("model.optimizer.learning_rate, before the record tells it")
        return self._rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._rate = value

    def asked_to_stop(self) -> bool:
        """Whether somebody asked for a stop in this replay; it goes on nevertheless."""
        return any(isinstance(sent.control, StopTraining) for sent in self.sent)

    def statistics(self) -> _Statistics:
        """How far the record is."""
        return _Statistics(0 if self._last is None else self._last.step)

    def post(self, control: Control, source: str = "") -> Receipt:
        """Takes a control down."""
        if self._publisher is None:
            raise ReplayError("run.post, before the first event")
        receipt = self._publisher.inbox.post(control, source)
        self.collect()
        return receipt

    async def send(
        self, control: Control, timeout: float | None = None, *, source: str = ""
    ) -> Applied:
        """Takes a control down, and acknowledges it."""
        return await self.post(control, source).wait(timeout)

    def publish(self, event: Event) -> None:
        """Nothing: what a run published of its own is in its record."""

    def model(self, source: str) -> _Model:
        """What a callback has as `self.model`."""
        return _Model(self, source, _Optimizer)

    def at_end(self, function: Callable[[], object]) -> None:
        """Calls a function when all is over."""
        self.ends.append(function)
