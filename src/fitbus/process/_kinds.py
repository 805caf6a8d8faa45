"""Which events go how from one process to the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fitbus._message import tag_of
from fitbus.events import (
    BatchBegin,
    BatchEnd,
    Event,
    PredictBatchBegin,
    TestBatchBegin,
    TestBatchEnd,
    is_rare,
)

__all__ = [
    "PLAIN",
    "PRECEDING",
    "encodable",
    "may_stand",
    "plain_logs",
    "says",
    "tags_of",
    "together",
]

# Events of every step, which are decoded a good deal faster without the codec.
PLAIN = frozenset({BatchBegin, BatchEnd, TestBatchBegin, TestBatchEnd, PredictBatchBegin})


# What comes right before an event of a batch, and is left out where nobody wants it.
PRECEDING: dict[type[Event], tuple[type[Event], ...]] = {
    BatchEnd: (BatchBegin,),
    TestBatchEnd: (TestBatchBegin,),
}
_MOST = 64  # events at a time: the event loop gets its turn between two groups


def together(events: Sequence[Event], place: int, expected: int) -> int:
    """How far events reach that were published together: at one time, in places side by side.

    Args:
        events: Events of batches.
        place: That of the first one.
        expected: The `seq` that it has, unless an event before it was left out.
    """
    first = events[place]
    gap = first.seq - expected
    if gap not in (0, 1) or (gap and type(first) not in PRECEDING):
        return place
    seq, end = first.seq, place + 1
    for event in events[end : place + _MOST]:
        seq += gap + 1
        if (event.seq, event.time, event.epoch) != (seq, first.time, first.epoch):
            break
        if gap and type(event) is not type(first):
            break
        end += 1
    return end


def tags_of(kinds: Sequence[type[Event]]) -> list[str]:
    """The tags of event types."""
    return [tag_of(kind) for kind in kinds]


def may_stand(kind: type[Event]) -> bool:
    """Whether training stands still for the waiting handlers of a type.

    For those of other types it doesn't: they are called before its next boundary.
    """
    return is_rare(kind) or kind in PLAIN


def says(error: BaseException) -> str:
    """What an error says, fit to be encoded, even if it fails to say it."""
    try:
        text = str(error)
    except Exception as failed:  # noqa: BLE001  # of a class of the user's
        text = f"(its text can't be had: {type(failed).__name__})"
    return encodable(text)


def encodable(text: str) -> str:
    """The text, with escapes for what has no UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def plain_logs(logs: Mapping[Any, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """What hooks added to logs or changed in them, as plain numbers; all else stays here.

    Raises:
        TypeError: A name is no text.
    """
    found: dict[str, Any] = {}
    for name, value in logs.items():
        if not isinstance(name, str):
            raise TypeError(f"the names in logs are texts; a hook put {name!r} into them")
        if name in before and value is before[name]:
            continue
        to_list = getattr(value, "tolist", None)
        plain = value if to_list is None else to_list()
        if isinstance(plain, int | float | str | bool):
            found[name] = plain
    return found
