"""What a run does, and what it counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from fitbus.bus import RunStatistics, SubscriptionStatistics
from fitbus.train._engine import Engine
from fitbus.train._feed import Feed
from fitbus.train._flight import Flight

__all__ = ["Job", "statistics_of"]


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


def statistics_of(
    subscribers: tuple[SubscriptionStatistics, ...], flight: Flight, engine: Engine | None
) -> RunStatistics:
    """A run's counters, with those of its subscribers; without an engine, before it has begun."""
    fused = 1 if engine is None else engine.fused
    return RunStatistics(
        seconds=0.0 if engine is None else engine.publisher.ledger.seconds,
        step=0 if engine is None else engine.updates,
        examples=0 if engine is None else engine.examples,
        input_s=0.0 if engine is None else engine.input_s,
        steps_in_flight=flight.executions(fused) * fused,
        steps_per_execution=fused,
        step_s=flight.step_s,
        subscriptions=subscribers,
    )
