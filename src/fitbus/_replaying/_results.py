"""What comes of a replay."""

from __future__ import annotations

import dataclasses
from typing import final

from fitbus.bus import DeliveryReport
from fitbus.control import Control

__all__ = ["Replay", "Sent"]


@final
@dataclasses.dataclass(frozen=True)
class Sent:
    """A control that a handler sent; in a replay it changes nothing.

    Attributes:
        control: The control.
        source: Who sent it: the subscriber's name, or what it gave.
        run: The id of the run, and
        seq: the number of the last event that was published before it came: of a waiting handler
            the one that it had got, of others maybe a later one.
        step: Completed optimizer updates at that event.
        epoch: Its epoch, from 0.
    """

    control: Control
    source: str
    run: str
    seq: int
    step: int
    epoch: int


@final
@dataclasses.dataclass(frozen=True)
class Replay:
    """What `fitbus.replay` returns.

    Attributes:
        events: How many events were published.
        sent: The controls that handlers sent, in the order in which they came.
        report: What each handler got, what it lost, and the seconds that it took.
    """

    events: int
    sent: tuple[Sent, ...]
    report: DeliveryReport
