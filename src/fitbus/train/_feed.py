"""Batches by epoch: how many there are, and what happens when data run out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import final

from fitbus.errors import DataError
from fitbus.train._pass import Interrupted
from fitbus.train._source import HostBatch, Source

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
        may_block: Whether a batch can be long in coming.
        exhausted: Whether nothing is left, and nothing more will come.
        called_off: Whether the last epoch ended because a batch wasn't waited for any more.
    """

    def __init__(
        self, argument: str, source: Source, steps: int | None, *, anew: bool = False
    ) -> None:
        self._argument = argument
        self._source = source
        self._each = anew
        self._anew = anew and source.restarts
        self._limit = steps
        self._passes = 0
        self._batches: Iterator[HostBatch] | None = None
        self._peeked: HostBatch | None = None
        self._any = False
        self._warned = False
        self._done = 0  # batches of the next epoch that come from a backup
        self.exhausted = False
        self.called_off = False
        self.steps = source.steps if steps is None else steps
        self.may_block = source.may_block

    @property
    def order(self) -> tuple[int, ...]:
        """What the order of shuffled data is made from."""
        return self._source.order

    def go_to(self, epochs: int, batches: int, order: tuple[int, ...]) -> None:
        """Leaves out what a training that goes on has seen already.

        Args:
            epochs: Whole epochs of it, and
            batches: batches of the next one.
            order: What the order of shuffled data was made from; empty for as it is.
        """
        if self._source.restarts:
            self.close()
        self._passes, self._done = 0, batches
        if order:
            self._source.order = order
        left = batches
        if self._limit is not None:
            left += epochs * self._limit
        elif self._source.restarts:
            self._passes = epochs
        if self._limit is not None and self._source.restarts and self._source.steps:
            self._passes, left = divmod(left, self._source.steps)
        for _ in range(left):
            if self._next() is None and (not self._source.restarts or self._next() is None):
                raise DataError(
                    self._argument,
                    f"it ended before the place to go on at, {batches} batches into the epoch that"
                    f" comes after {epochs} of them; give the data that were trained on before",
                )

    def peek(self) -> HostBatch | None:
        """The first batch, which the next epoch begins with; None if it was called off.

        Raises:
            DataError: There is none.
        """
        try:
            if not self._look():
                raise DataError(
                    self._argument,
                    "it gave no batch; was an iterator used before? give a list,"
                    " or a function that returns a new iterator",
                )
        except Interrupted:
            return None
        return self._peeked

    def epoch(self) -> Iterator[HostBatch]:
        """The batches of the next epoch; they end early if they are called off.

        Raises:
            DataError: There never was one; or there is none, and each epoch needs one.
        """
        self.called_off = False
        whole = self._limit is None and self._source.restarts
        if (self._anew or whole) and self._peeked is None and not self._done:
            self._drop()
        if self._each or not self._any:
            self.peek()
        count, self._done = self._done, 0
        while self._limit is None or count < self._limit:
            try:
                batch = self._next()
                if batch is None and self._limit is not None and self._source.restarts:
                    batch = self._next()
            except Interrupted:
                self.called_off = True
                return
            if batch is None:
                if self._limit is not None:
                    self._warn(f"after {count} of {self._limit} batches of an epoch")
                return
            count += 1
            self._any = True
            yield batch

    def has_more(self) -> bool:
        """Whether another epoch can begin; warns if data ran out. False if it was called off."""
        try:
            found = self._source.restarts or self._look()
        except Interrupted:
            return False
        if not found:
            self._warn("before the last epoch")
        return found

    def beside(self) -> Feed | None:
        """Another feed of the same data, which doesn't disturb this one; None if they come once."""
        if not self._source.restarts:
            return None
        return Feed(self._argument, self._source, self._limit, anew=True)

    def close(self) -> None:
        """Lets go of what it reads from, at the end; raises what closing that raised."""
        self._peeked = None
        self._drop()

    def _look(self) -> bool:
        """Whether there is a next batch; waits for it."""
        if self._peeked is None:
            self._peeked = self._next()
        return self._peeked is not None

    def _drop(self) -> None:
        """Leaves off a pass."""
        batches, self._batches = self._batches, None
        close: Callable[[], object] | None = getattr(batches, "close", None)
        if close is not None:
            close()

    def _warn(self, when: str) -> None:
        if self._warned:
            return
        self._warned = True
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
        found = next(self._batches, None)
        if found is not None:
            return found
        self._drop()
        self.exhausted = not self._source.restarts
        return None
