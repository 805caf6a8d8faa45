"""Batches by epoch: how many there are, and what happens when data run out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import final

from fitbus.errors import DataError
from fitbus.train._data import HostBatch, Source

__all__ = ["Feed"]


@final
class Feed:
    """Goes through a source, epoch after epoch.

    Without `steps` an epoch is one pass. With it an epoch goes on where the last one stopped; a
    source that can start over does so when it is used up.

    Args:
        argument: The name of the argument, for messages.
        source: Where batches come from.
        steps: Batches in an epoch, or None for a whole pass.
        anew: Whether each epoch starts a pass of its own (validation), even with `steps`.

    Attributes:
        exhausted: Whether nothing is left, and nothing more will come.
    """

    def __init__(
        self, argument: str, source: Source, steps: int | None, *, anew: bool = False
    ) -> None:
        self._argument = argument
        self._source = source
        self._anew = anew and source.restarts
        self._limit = steps
        self._passes = 0
        self._batches: Iterator[HostBatch] | None = None
        self._peeked: HostBatch | None = None
        self._any = False
        self.exhausted = False
        self.steps = source.steps if steps is None else steps

    def peek(self) -> HostBatch:
        """The first batch, which the next epoch begins with.

        Raises:
            DataError: There is none.
        """
        if self._peeked is None:
            first = self._next()
            if first is None:
                raise DataError(
                    self._argument,
                    "it gave no batch; was an iterator used before? give a list,"
                    " or a function that returns a new iterator",
                )
            self._peeked = first
        return self._peeked

    def epoch(self) -> Iterator[HostBatch]:
        """The batches of the next epoch."""
        if self._anew and self._peeked is None:
            self._batches = None
        if not self._any:
            self.peek()
        count = 0
        while self._limit is None or count < self._limit:
            batch = self._next()
            if batch is None and self._limit is not None and self._source.restarts:
                batch = self._next()
            if batch is None:
                if self._limit is not None:
                    self._warn(f"after {count} of {self._limit} batches of an epoch")
                return
            count += 1
            self._any = True
            yield batch

    def warn_if_exhausted(self) -> bool:
        """Whether no further epoch can begin; says so."""
        if self.exhausted:
            self._warn("before the last epoch")
        return self.exhausted

    def _warn(self, when: str) -> None:
        warnings.warn(
            f"{self._argument} ran out of data {when}; training ends here. Give a list, or a"
            " function that returns a new iterator for each pass",
            RuntimeWarning,
            stacklevel=2,
        )

    def _next(self) -> HostBatch | None:
        """The next batch of the pass; None at its end."""
        if self._peeked is not None:
            batch, self._peeked = self._peeked, None
            return batch
        if self.exhausted:
            return None
        if self._batches is None:
            self._batches = self._source.begin(self._passes)
            self._passes += 1
        for batch in self._batches:
            return batch
        self._batches = None
        self.exhausted = not self._source.restarts
        return None
