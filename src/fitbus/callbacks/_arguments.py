"""Checks of arguments that several callbacks have."""

from __future__ import annotations

from fitbus.errors import InvalidArgumentError

__all__ = ["check_flag", "check_verbose"]


def check_flag(owner: str, argument: str, value: object) -> None:
    """Refuses what is neither True nor False."""
    if not isinstance(value, bool):
        raise InvalidArgumentError(f"{owner}.{argument}", value, "allowed are True, False")


def check_verbose(owner: str, value: object) -> None:
    """Refuses what isn't 0 or 1; Keras takes any number above 0 for 1, and so do we."""
    if not isinstance(value, int) or value < 0:
        raise InvalidArgumentError(f"{owner}.verbose", value, "give 0 (silent) or 1")
