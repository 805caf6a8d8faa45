"""Checks and conversions of values that messages are built from. Internal.

NumPy and JAX scalars are turned into Python's own numbers without importing either library: both
answer `item()`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from msgspec.structs import force_setattr

from fitbus.errors import InvalidArgumentError

__all__ = [
    "check_envelope",
    "check_text",
    "check_timeout",
    "plain_logs",
    "plain_number",
    "plain_result",
    "set_field",
    "set_finite",
    "set_whole",
]


def set_field(message: Any, name: str, value: object) -> None:
    """Sets a field of a frozen message while it is being constructed."""
    force_setattr(message, name, value)


def plain_number(value: object) -> object:
    """Unwraps a NumPy or JAX scalar; leaves everything else as it is."""
    if type(value) in (float, int, str, bool, type(None)):
        return value
    item = getattr(value, "item", None)
    if item is not None and getattr(value, "shape", None) == ():
        return item()
    return value


def set_finite(
    message: object, name: str, *, above: float | None = None, least: float | None = None
) -> None:
    """Makes a field a finite Python float within its bounds, or refuses it."""
    found: object = getattr(message, name)
    value = plain_number(found)
    allowed = "a finite number"
    if above is not None:
        allowed += f" above {above:g}"
    if least is not None:
        allowed += f" of at least {least:g}"
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or (above is not None and value <= above)
        or (least is not None and value < least)
    ):
        raise InvalidArgumentError(f"{type(message).__name__}.{name}", found, f"give {allowed}")
    set_field(message, name, float(value))


def set_whole(message: object, name: str, *, least: int = 0) -> None:
    """Makes a field a Python int of at least so much, or refuses it."""
    found: object = getattr(message, name)
    if type(found) is int and found >= least:
        return
    value = plain_number(found)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidArgumentError(
            f"{type(message).__name__}.{name}", found, f"give a whole number of at least {least}"
        )
    set_field(message, name, value)


def check_envelope(event: Any) -> None:
    """Checks what the publisher will write: an event may be made with it, as the codec does."""
    check_text(event, "run")
    set_whole(event, "seq", least=-1)
    set_finite(event, "time")
    set_whole(event, "step")
    set_whole(event, "epoch")


def check_text(message: object, *names: str) -> None:
    """Refuses fields that are no text."""
    for name in names:
        found: object = getattr(message, name)
        if not isinstance(found, str):
            raise InvalidArgumentError(f"{type(message).__name__}.{name}", found, "give a text")


def check_timeout(timeout: object) -> None:
    """Refuses what can't be waited for, before anything is done."""
    value = plain_number(timeout)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise InvalidArgumentError(
            "timeout", timeout, "give seconds, a number of at least 0, or None for no limit"
        )


def plain_logs(message: object, name: str) -> None:
    """Makes a field a plain `dict[str, float]`. Costs two type checks an entry if it is one."""
    logs: object = getattr(message, name)
    if type(logs) is dict:
        for key, value in logs.items():
            if type(value) is not float or type(key) is not str:
                break
        else:
            return
    where = f"{type(message).__name__}.{name}"
    if not isinstance(logs, Mapping):
        raise InvalidArgumentError(where, logs, "give a mapping of names to numbers")
    plain: dict[str, float] = {}
    for key, found in logs.items():
        value = plain_number(found)
        if not isinstance(key, str) or not isinstance(value, int | float):
            raise InvalidArgumentError(f"{where}[{key!r}]", found, "give a name and a number")
        plain[key] = float(value)
    set_field(message, name, plain)


def plain_result(value: object) -> object:
    """Makes what applying a control returned fit for a message.

    Numbers and texts, and maps and lists of them; of anything else its `repr`.
    """
    if isinstance(value, Mapping):
        return {str(key): plain_result(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_result(item) for item in value]
    value = plain_number(value)
    return value if isinstance(value, str | int | float | bool | None) else repr(value)
