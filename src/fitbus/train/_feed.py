"""Batches by epoch: how many there are, and what happens when data run out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

from fitbus.errors import DataError
from fitbus.train._pass import Interrupted
from fitbus.train._reader import Reader
from fitbus.train._source import HostBatch, Source

__all__ = ["Feed"]


@final
class Feed(Reader):
    """Goes through a source, epoch after epoch.

    Without `steps` an epoch is one pass. With it an epoch goes on where the last one stopped; a
    source that can start over does so when it is used up.

    Args:
        argument: The name of the argument, for messages.
        source: Where batches come from.
        steps: Batches in an epoch, or None for a whole pass.
        anew: Whether each epoch starts a pass of its own, even with `steps`.

    Attributes:
        may_block: Whether a batch can be long in coming.
        called_off: Whether the last epoch ended because a batch wasn't waited for any more.
    """

    def __init__(
        self, argument: str, source: Source, steps: int | None, *, anew: bool = False
    ) -> None:
        super().__init__(argument, source)
        self._each = anew
        self._anew = anew and source.restarts
        self._limit = steps
        self._any = False
        self._warned = False
        self._done = 0  # batches of the next epoch that come from a backup
        self._over = False  # and whether these were all
        self.called_off = False
        self.steps = source.steps if steps is None else steps
        self.may_block = source.may_block

    @property
    def place(self) -> tuple[int, int]:
        """The number of the pass, from 0, and how many of its batches were handed out."""
        passes = self._passes
        return (passes.begun - 1, self._taken) if passes.under_way else (passes.begun, 0)

    @property
    def facts(self) -> dict[str, Any]:
        """What is plain to see of the data, and of what an epoch takes of them."""
        return {**self._source.facts, "steps_per_epoch": self._limit}

    def mark(self, place: tuple[int, int] | None, batch: int) -> Mapping[str, Any] | None:
        """What to `go_to` that place by, besides its numbers; None if these are enough.

        Args:
            place: The place in the data, not before that of the last time; None for where it is.
            batch: Batches of the epoch that are done.
        """
        passes, source = self._passes, self._source
        anew = source.restarts and (self._each or (self._limit is None and batch == 0))
        here = max(0, passes.begun - 1), self._taken
        if not anew and self._limit is None and source.steps is None and source.own_thread:
            self.look_ahead()  # many a source says at the end of a pass that it is at the next one
        return passes.mark(place or here, anew=anew)

    def go_to(
        self,
        epochs: int,
        batches: int,
        order: tuple[int, ...] = (),
        place: tuple[int, int] | None = None,
        mark: Mapping[str, Any] | None = None,
    ) -> tuple[int, int]:
        """Leaves out what a training that goes on has seen already.

        Args:
            epochs: Whole epochs of it, and
            batches: batches of the next one.
            order: What the order of shuffled data was made from; empty for as it is.
            place: Its `place` in the data; counted from the two unless given, as if each epoch had
                all its batches.
            mark: What `mark` gave there.

        Returns:
            The `place` where it goes on.

        Raises:
            DataError: The data end before.
        """
        restarts = self._source.restarts
        if restarts or mark is not None:
            self.close()
        if order:
            self._source.order = order
        self._done, self._over = batches, False
        if mark is not None:
            return self._go_to_mark(mark, batches)
        number, left = self._counted(epochs, batches) if place is None else place
        if restarts:
            self._passes.begun = number
        else:
            left -= self._taken  # what was handed out can't come again
        if self._limit is None and restarts and not batches and left:
            self._passes.begun, left = number + 1, 0  # that epoch ended early
        try:
            if not self._leave_out(left, across=place is None and self._limit is not None):
                raise DataError(
                    self._argument,
                    f"it ended before the place to go on at, batch {batches} of the epoch that"
                    f" comes after {epochs}; give the data that were trained on before",
                )
            found = self.place
            if batches and (self._limit is None or not restarts):
                self._over = not self._look()
        except Interrupted:
            return self.place
        return found

    def _go_to_mark(self, mark: Mapping[str, Any], batches: int) -> tuple[int, int]:
        number, done = mark["place"]
        steps, whole = self._source.steps, self._limit is None and self._source.restarts
        if whole and batches and done == steps:
            mark = {**mark, "ended": True}
        try:
            self._reached(self._passes.go_to(mark, anew=whole and not batches))
            if batches and (self._limit is None or not self._source.restarts):
                self._over = mark["ended"] or not self._look()
        except Interrupted:
            pass  # nothing is trained on any more
        return number, done

    def _counted(self, epochs: int, batches: int) -> tuple[int, int]:
        """The place after so many epochs that were all whole, and batches of the next one."""
        source = self._source
        if self._limit is None:
            return (epochs if source.restarts else 0), batches
        total = epochs * self._limit + batches
        return divmod(total, source.steps) if source.restarts and source.steps else (0, total)

    def peek(self) -> HostBatch | None:
        """The first batch, which the next epoch begins with.

        Returns:
            None if it was called off, or if what is gone on with had no further one.

        Raises:
            DataError: There is none.
        """
        try:
            again = self._taken and self._source.restarts  # that pass had all been seen
            if not self._look() and not (again and self._look()):
                if self._over:
                    return None
                raise DataError(
                    self._argument,
                    "it gave no batch; was an iterator used before? give a list,"
                    " or a function that returns a new iterator",
                )
        except Interrupted:
            return None
        return self._ahead[0]

    def epoch(self) -> Iterator[HostBatch]:
        """The batches of the next epoch; they end early if they are called off.

        Raises:
            DataError: There never was one; or there is none, and each epoch needs one.
        """
        self.called_off = False
        whole = self._limit is None and self._source.restarts
        if (self._anew or whole) and not self._ahead and not self._done:
            self._leave()
        if (self._each or not self._any) and not self._over:
            self.peek()
        count, over, self._done, self._over = self._done, self._over, 0, False
        if over:
            return
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

    def give_back(self, batches: Sequence[HostBatch]) -> None:
        """Takes back the batches that were handed out last, of an epoch that ended before them."""
        if not (self._anew or (self._limit is None and self._source.restarts)):
            self._ahead[:0] = batches

    def has_more(self) -> bool:
        """Whether another epoch can begin; warns if data ran out. False if it was called off."""
        try:
            found = self._source.restarts or self._over or self._look()
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
