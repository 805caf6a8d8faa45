"""The event that all others extend."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from fitbus._checks import check_envelope
from fitbus._message import KeywordMessageMeta

__all__ = ["Event", "UnknownEvent"]


class Event(msgspec.Struct, metaclass=KeywordMessageMeta, frozen=True, kw_only=True):
    """A fact about a run: frozen, keyword-only, stamped by the publisher.

    Subclass it for events of your own; subscribing to a base class receives all subclasses:

    >>> class SampleDrawn(Event):
    ...     path: str
    >>> SampleDrawn(path="epoch-3.png").path
    'epoch-3.png'

    Values are checked by the annotations when it is constructed, and NumPy's scalars made plain
    numbers; a `__post_init__` of its own is called after that. Instances of classes are kept as
    they are; what msgspec can't check (annotations that can't be resolved, odd unions) is let be.

    Its tag, under which the codec knows it, is its module and name. In a script that is `__main__`,
    which another process can't tell: give it one there, `class SampleDrawn(Event, tag="sample")`.

    Attributes:
        run: Id of the run.
        seq: Place in the run's one total order: from 0, without gaps. -1 before it is published. A
            training that goes on from a backup goes on counting.
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

    def __post_init__(self) -> None:
        """Checks the envelope; each type checks its own fields.

        It is left out of nearly all that are made. `_lifecycle` sees to it that this costs next to
        nothing for those of every step.
        """
        check_envelope(self)


class UnknownEvent(Event):
    """What the codec makes of an event whose type it wasn't told.

    Attributes:
        tag: The tag that was found.
        fields: Its own fields as they were encoded, the envelope's left out.
    """

    tag: str
    fields: dict[str, Any]
