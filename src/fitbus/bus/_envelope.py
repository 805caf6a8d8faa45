"""What the publisher writes on an event."""

from __future__ import annotations

from msgspec.structs import force_setattr

from fitbus.events import Event

__all__ = ["stamped"]


def stamped(event: Event, run: str, seq: int, time: float, step: int, epoch: int) -> Event:
    """The event, or a copy of one that was published before, with its envelope filled in."""
    if event.seq != -1:
        event = event.__copy__()  # type: ignore[attr-defined]  # every Struct has it
    force_setattr(event, "run", run)
    force_setattr(event, "seq", seq)
    force_setattr(event, "time", time)
    force_setattr(event, "step", step)
    force_setattr(event, "epoch", epoch)
    return event
