"""Lists in lists, as users give callbacks. Internal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["flattened"]


def flattened(callbacks: Iterable[Any] | None) -> Iterator[Any]:
    """The items of nested lists, in order."""
    if callbacks is None:
        return
    if not isinstance(callbacks, Iterable):
        callbacks = [callbacks]
    for item in callbacks:
        if isinstance(item, list | tuple):
            yield from flattened(item)
        elif item is not None:
            yield item
