"""A source, pass after pass: what is read of it, and how far."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import final

from fitbus.train._source import HostBatch, Source

__all__ = ["Passes"]


@final
class Passes:
    """Reads a source, and begins another pass where one is asked for more than it has.

    Attributes:
        source: Where batches come from.
        begun: How many passes have begun.
        pulled: How many batches of the last of them were read.
        exhausted: Whether nothing is left, and nothing more will come.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.begun = 0
        self.pulled = 0
        self.exhausted = False
        self._batches: Iterator[HostBatch] | None = None

    @property
    def under_way(self) -> bool:
        """Whether a pass has begun, and its end wasn't seen."""
        return self._batches is not None

    def pull(self) -> HostBatch | None:
        """The next batch; None at the end of a pass."""
        if self.exhausted:
            return None
        if self._batches is None:
            self.begin()
        assert self._batches is not None
        found = next(self._batches, None)
        if found is not None:
            self.pulled += 1
            return found
        self.drop()
        self.exhausted = not self.source.restarts
        return None

    def begin(self, first: int = 0) -> None:
        """Begins a pass, at a batch other than its first one only if the source `seeks`."""
        self._batches = self.source.begin(self.begun, first)
        self.begun += 1
        self.pulled = first

    def drop(self) -> None:
        """Leaves off a pass; raises what closing it raised."""
        batches, self._batches = self._batches, None
        close: Callable[[], object] | None = getattr(batches, "close", None)
        if close is not None:
            close()
