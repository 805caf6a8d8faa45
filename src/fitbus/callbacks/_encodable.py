"""Events as they can leave the process."""

from __future__ import annotations

import msgspec

from fitbus.control import UnknownControl
from fitbus.events import ControlApplied, ControlRejected, Event

__all__ = ["encodable"]


def encodable(event: Event) -> Event:
    """The event, without a control that can't leave the process: of that there is the name."""
    if isinstance(event, ControlApplied | ControlRejected) and not event.control.crosses_processes:
        named = UnknownControl.standing_for(event.control)
        return msgspec.structs.replace(event, control=named)
    return event
