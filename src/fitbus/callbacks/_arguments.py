"""Checks of arguments, and of values of the logs, that several callbacks have."""

from __future__ import annotations

import math
import os
from typing import Any, TypeGuard

from fitbus.errors import InvalidArgumentError

__all__ = [
    "check_flag",
    "check_loss",
    "check_seconds",
    "check_verbose",
    "check_whole",
    "is_number",
    "is_whole",
    "path_of",
    "scalar",
]


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is one of Python's numbers, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: object) -> TypeGuard[int]:
    """Whether it is one of Python's whole numbers, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_flag(owner: str, argument: str, value: object) -> None:
    """Refuses what is neither True nor False."""
    if not isinstance(value, bool):
        raise InvalidArgumentError(f"{owner}.{argument}", value, "allowed are True, False")


def check_loss(callback: object, names: frozenset[str]) -> None:
    """Refuses logs that will never have a loss."""
    if "loss" not in names:
        raise InvalidArgumentError(
            "callbacks", callback, f"it watches 'loss', and the logs will have {sorted(names)}"
        )


def check_verbose(owner: str, value: object) -> None:
    """Refuses what isn't 0 or 1; Keras takes any number above 0 for 1, and so do we."""
    if not isinstance(value, int) or value < 0:
        raise InvalidArgumentError(f"{owner}.verbose", value, "give 0 (silent) or 1")


def check_whole(owner: str, argument: str, value: object, least: int, *, also: str = "") -> None:
    """Refuses what is no whole number of at least so much; `also` names what else is allowed."""
    if not is_whole(value) or value < least:
        raise InvalidArgumentError(
            f"{owner}.{argument}", value, f"give a whole number of at least {least}{also}"
        )


def check_seconds(
    owner: str, argument: str, value: object, *, zero: bool = False, also: str = ""
) -> None:
    """Refuses what is no time in seconds: a finite number above 0, or of at least 0."""
    if not is_number(value) or not 0 <= value < math.inf or (value == 0 and not zero):
        least = "of at least 0" if zero else "above 0"
        raise InvalidArgumentError(
            f"{owner}.{argument}", value, f"give seconds, a finite number {least}{also}"
        )


def path_of(owner: str, argument: str, path: Any) -> str:
    """A path as text, or refuses it."""
    if not isinstance(path, str | os.PathLike) or not str(path):
        raise InvalidArgumentError(f"{owner}.{argument}", path, "give a path")
    text: str | bytes = os.fspath(path)
    if isinstance(text, bytes):
        raise InvalidArgumentError(f"{owner}.{argument}", path, "give a path that is a text")
    return text


def scalar(value: object) -> float | None:
    """A value of the logs as a number; None if it is none, or several."""
    if isinstance(value, str | bytes) or getattr(value, "shape", ()) != ():
        return None
    try:
        return float(value)  # type: ignore[arg-type]  # tried
    except (TypeError, ValueError):
        return None
