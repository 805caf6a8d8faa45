"""What a run does, and what it counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, Self, final

from fitbus._costs import table
from fitbus.bus import Bus, SubscriptionStatistics
from fitbus.train._engine import Engine
from fitbus.train._feed import Feed
from fitbus.train._flight import Flight

__all__ = ["Job", "RunStatistics"]


class Job(Protocol):
    """What a run does."""

    @property
    def kind(self) -> str:
        """The first part of its id."""
        ...

    @property
    def feeds(self) -> Sequence[Feed]:
        """What it reads from, the main one first; to be closed at its end."""
        ...

    def main(self, engine: Engine) -> Any:
        """Does it, in the training thread; returns its result."""
        ...

    def end(self, engine: Engine, reason: str, detail: str) -> None:
        """Publishes its end, on every way out."""
        ...


@final
@dataclasses.dataclass(frozen=True)
class RunStatistics:
    """A run at one moment.

    Attributes:
        seconds: Wall-clock seconds since it began, or from then to its last event; 0 before.
        step: Completed optimizer updates that were dispatched.
        examples: Examples that this run's steps took in; padding isn't counted.
        input_s: Seconds that its thread waited for their batches: to come, to be put together, and
            to be sent to the device. As steps run ahead, the device may have been busy meanwhile.
        steps_in_flight: How many steps may run ahead at present: so late a control can act.
        steps_per_execution: How many steps are fused into one call of the device at present.
        step_s: Seconds a step, measured lately; 0 before that.
        subscriptions: The counters of its subscribers, those of the whole bus among them; of these
            what they counted since the run began.
    """

    seconds: float
    step: int
    examples: int
    input_s: float
    steps_in_flight: int
    steps_per_execution: int
    step_s: float
    subscriptions: tuple[SubscriptionStatistics, ...]

    @classmethod
    def of(cls, bus: Bus, run: str, flight: Flight, engine: Engine | None) -> Self:
        """Reads them; without an engine, of a run that hasn't begun."""
        with bus.lock:
            found = [s for s in bus.subscriptions if s.run in (None, run)]
            read = [
                s.statistics() if engine is None else engine.publisher.ledger.statistics(s)
                for s in found
            ]
        fused = 1 if engine is None else engine.fused
        return cls(
            seconds=0.0 if engine is None else engine.publisher.ledger.seconds,
            step=0 if engine is None else engine.updates,
            examples=0 if engine is None else engine.examples,
            input_s=0.0 if engine is None else engine.input_s,
            steps_in_flight=flight.executions(fused) * fused,
            steps_per_execution=fused,
            step_s=flight.step_s,
            subscriptions=tuple(read),
        )

    def table(self) -> str:
        """What its subscribers got and cost until now, as a table; see `DeliveryReport.table`."""
        return table(entry.entry for entry in self.subscriptions)
