"""Keeps every event that it is given."""

from __future__ import annotations

from typing import Any, TypeVar, final

import msgspec

from fitbus.events import Event

__all__ = ["EventRecorder"]

E = TypeVar("E", bound=Event)


@final
class EventRecorder:
    """A handler that keeps every event, in order. Training waits for it, so it misses none.

    >>> import fitbus
    >>> recorder = EventRecorder()
    >>> recorder(fitbus.EpochEnd(logs={"loss": 0.5}))
    >>> recorder.names
    ['EpochEnd']

    Pass it in `callbacks=[recorder]`, or to `bus.add(recorder)`. With `wait=False` in `bus.add` it
    records from a worker thread instead, and training runs ahead.

    Attributes:
        events: What came, in order.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        """Keeps an event."""
        self.events.append(event)

    @property
    def names(self) -> list[str]:
        """The names of their types."""
        return [type(event).__name__ for event in self.events]

    def of(self, kind: type[E]) -> list[E]:
        """Those of a type, subclasses included."""
        return [event for event in self.events if isinstance(event, kind)]

    def without_time(self) -> list[dict[str, Any]]:
        """All of them as dicts, without `time`: equal in every run of one program."""
        return [
            {"type": type(event).__name__}
            | {name: v for name, v in msgspec.structs.asdict(event).items() if name != "time"}
            for event in self.events
        ]

    def __repr__(self) -> str:
        """Shows how many there are."""
        return f"<EventRecorder of {len(self.events)} events>"
