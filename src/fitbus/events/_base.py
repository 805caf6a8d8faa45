"""The event that all others extend."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from fitbus._message import KeywordMessageMeta

__all__ = ["Event", "UnknownEvent"]


class Event(msgspec.Struct, metaclass=KeywordMessageMeta, frozen=True, kw_only=True):
    """A fact about a run: frozen, keyword-only, stamped by the publisher.

    Subclass it for events of your own; subscribing to a base class receives all subclasses:

    >>> class SampleDrawn(Event):
    ...     path: str
    >>> SampleDrawn(path="epoch-3.png").path
    'epoch-3.png'

    Its tag, under which the codec knows it, is its module and name. In a script that is `__main__`,
    which another process can't tell: give it one there, `class SampleDrawn(Event, tag="sample")`.

    Attributes:
        run: Id of the run.
        seq: Place in the run's one total order: from 0, without gaps. -1 before it is published.
        time: When it was published, in Unix seconds.
        step: Completed optimizer updates, over all epochs and fits.
        epoch: The epoch, from 0.
        batch_level: A class attribute: such events are the first to give way in a full mailbox.
    """

    run: str = ""
    seq: int = -1
    time: float = 0.0
    step: int = 0
    epoch: int = 0

    batch_level: ClassVar[bool] = False


class UnknownEvent(Event):
    """What the codec makes of an event whose type it wasn't told.

    Attributes:
        tag: The tag that was found.
        fields: Its own fields as they were encoded, the envelope's left out.
    """

    tag: str
    fields: dict[str, Any]
