"""Which events go how from one process to the other."""

from __future__ import annotations

from collections.abc import Sequence
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

__all__ = ["PLAIN", "may_stand", "plain_logs", "tags_of"]

# Events of every step, which are decoded a good deal faster without the codec.
PLAIN = frozenset({BatchBegin, BatchEnd, TestBatchBegin, TestBatchEnd, PredictBatchBegin})


def tags_of(kinds: Sequence[type[Event]]) -> list[str]:
    """The tags of event types."""
    return [tag_of(kind) for kind in kinds]


def may_stand(kind: type[Event]) -> bool:
    """Whether training stands still for the waiting handlers of a type.

    For those of other types it doesn't: they are called before its next boundary.
    """
    return is_rare(kind) or kind in PLAIN


def plain_logs(logs: dict[str, Any]) -> dict[str, Any]:
    """What hooks added to logs, as plain numbers; all else stays here."""
    found: dict[str, Any] = {}
    for name, value in logs.items():
        to_list = getattr(value, "tolist", None)
        plain = value if to_list is None else to_list()
        if isinstance(plain, int | float | str | bool):
            found[name] = plain
    return found
