"""How Orbax is used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fitbus.checkpoints._named import Array

__all__ = ["MARK", "SUMS", "apart", "flat", "nested"]

MARK = "_CHECKPOINT_METADATA"  # Orbax' own file in each of its checkpoints
SUMS = "fitbus_crc32"

R = TypeVar("R")


def apart(work: Callable[[], R]) -> R:
    """Does work in a thread of its own, and waits for it.

    Orbax runs event loops, and patches asyncio where one runs already; and some of its versions
    leave marks on the thread that AnyIO's worker threads need.
    """
    result: list[R] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as error:  # noqa: BLE001  # raised by who waits
            errors.append(error)

    thread = threading.Thread(target=run, name="fitbus checkpoint", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return result[0]


def nested(named: Mapping[str, Array]) -> dict[str, Any]:
    """Dictionaries in dictionaries, as Orbax' users expect; no name lies in another."""
    tree: dict[str, Any] = {}
    for name, array in named.items():
        *outer, last = name.split(".")
        place = tree
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = array
    return tree


def flat(tree: Any, path: tuple[str, ...] = ()) -> list[tuple[str, Array]]:
    """The opposite; also of what others wrote, with lists."""
    if isinstance(tree, dict | list | tuple):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return [leaf for key, part in items for leaf in flat(part, (*path, str(key)))]
    return [] if tree is None else [(".".join(path), tree)]
