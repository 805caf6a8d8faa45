"""How errors are copied, sent and worded. Internal."""

from __future__ import annotations

import pickle
import re
from typing import Any, TypeVar

__all__ = ["remade", "sendable", "short"]

E = TypeVar("E", bound=Exception)


def remade(kind: type[E], args: tuple[Any, ...], state: dict[str, Any]) -> E:
    """An error as it was, whatever its type is called with."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    if "__notes__" in state:
        error.__notes__ = [*state["__notes__"]]  # of its own: notes are added later
    return error


def sendable(value: object) -> object:
    """A value, or what it shows if it can't be pickled."""
    try:
        pickle.dumps(value)
    except Exception:  # noqa: BLE001  # pickle raises whatever a type's own methods raise
        return repr(value)
    return value


def short(value: object) -> str:
    """What a value shows, in a line that isn't too long."""
    text = re.sub(r"\n *", " ", repr(value))  # arrays take several lines
    return text if len(text) <= 120 else f"{text[:117]}..."
