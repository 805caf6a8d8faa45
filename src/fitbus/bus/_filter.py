"""Which of the events of a subscription's types it takes."""

from __future__ import annotations

import time
from typing import final

from fitbus.bus._options import Options
from fitbus.events import Event

__all__ = ["Filter"]


@final
class Filter:
    """Applies `where`, then `every`, then `every_s`, before anything is queued.

    Attributes:
        active: Whether it can hold anything back.
    """

    def __init__(self, options: Options) -> None:
        self._where = options.where
        self._every = options.every
        self._every_s = options.every_s
        self._matched = 0
        self._next_time = 0.0
        self.active = self._every > 1 or self._where is not None or self._every_s is not None

    def passes(self, event: Event) -> bool:
        """Whether an event goes on; raises what the predicate raises."""
        if self._where is not None and not self._where(event):
            return False
        self._matched += 1
        if self._matched % self._every:
            return False
        if self._every_s is not None:
            now = time.monotonic()
            if now < self._next_time:
                return False
            self._next_time = now + self._every_s
        return True
