"""How many checkpoints are kept, and which."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import final

from fitbus.callbacks._arguments import check_whole
from fitbus.callbacks._monitor import Monitor
from fitbus.errors import InvalidArgumentError

__all__ = ["Kept"]

Entry = tuple[str, float | None]


@final
class Kept:
    """The best checkpoints by a monitor; those without a value come last, the newest first.

    Args:
        number: So many.
        monitor: What judges values.
        fields: Those of the path: without one, there is one file only.

    Attributes:
        entries: Their paths and values, the oldest first.
    """

    def __init__(self, number: int, monitor: Monitor, fields: Collection[str]) -> None:
        check_whole("ModelCheckpoint", "keep", number, 1, also=", or None")
        if not fields:
            raise InvalidArgumentError(
                "ModelCheckpoint.keep",
                number,
                "the filepath has no field, so that there is one file only; write {epoch} into it",
            )
        self.number = number
        self._monitor = monitor
        self.entries: list[Entry] = []

    def take(self, path: str, value: float | None) -> list[str] | None:
        """Takes another one in.

        Returns:
            The paths of those that are no longer kept; None if the new one isn't.
        """
        new = (path, None if value is None or math.isnan(value) else value)
        entries = [entry for entry in self.entries if entry[0] != path] + [new]
        ranked = self._ranked(entries)[: self.number]
        if new not in ranked:
            return None
        self.entries = [entry for entry in entries if entry in ranked]
        return [entry[0] for entry in entries if entry not in ranked]

    def _ranked(self, entries: list[Entry]) -> list[Entry]:
        """The best first; of equal ones the oldest."""
        valued = [(value, path) for path, value in entries if value is not None]
        more_is_better = bool(valued) and self._monitor.check_direction()
        valued.sort(key=lambda pair: pair[0], reverse=more_is_better)
        without = [entry for entry in entries if entry[1] is None]
        return [(path, value) for value, path in valued] + without[::-1]
