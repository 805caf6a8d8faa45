"""Reads batches, some of them ahead; and goes to a place in the data."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from fitbus.errors import DataError
from fitbus.train._pass import Interrupted
from fitbus.train._passes import Passes
from fitbus.train._source import HostBatch, Source
from fitbus.train._stateful import HOW

__all__ = ["Reader"]


class Reader:
    """The part of a feed that knows nothing of epochs.

    Args:
        argument: The name of the argument, for messages.
        source: Where batches come from.
    """

    def __init__(self, argument: str, source: Source) -> None:
        self._argument = argument
        self._source = source
        self._passes = Passes(argument, source)
        self._ahead: list[HostBatch] = []  # pulled, and not handed out; or given back
        self._late: Exception | None = None  # what looking ahead raised, or
        self._end = False  # whether it found the end: to be told when the next batch is wanted

    @property
    def reuses(self) -> bool:
        """Whether the arrays of a batch may be overwritten when the next one comes."""
        return self._source.reuses

    @property
    def restarts(self) -> bool:
        """Whether another pass can begin when one is used up, or left."""
        return self._source.restarts

    @property
    def order(self) -> tuple[int, ...]:
        """What the order of shuffled data is made from."""
        return self._source.order

    @property
    def gone(self) -> int | None:
        """How many batches were handed out of data that come once; None of data that restart."""
        return None if self._source.restarts else self._taken

    def keep_marks(self) -> None:
        """Prepares for `mark`, before the first batch.

        Raises:
            DataError: The data come once, and can't say where they are.
        """
        if not self._source.restarts and self._source.stateful is None:
            raise DataError(
                self._argument,
                "it comes once, and a training that is backed up (BackupAndRestore) couldn't go on"
                " with it where it was. Give the function that makes it (`fit(batches)`, not"
                f" `fit(batches())`), which is called anew and read up to the place; or {HOW}."
                " Arrays, lists and Grain's datasets are fine as they are",
            )
        self._passes.notes = True

    def look_ahead(self) -> None:
        """Pulls the next batch, so that the end of a pass is known; it raises later what it does.

        Does nothing unless `keep_marks` was called, of data that can say where they are.
        """
        if self._passes.notes and self._source.stateful is not None and self._passes.under_way:
            try:
                self._end = not self._look()
            except Exception as error:  # noqa: BLE001  # raised again with the next batch
                self._late = error

    def pass_over(self, count: int | None, mark: Mapping[str, Any] | None = None) -> None:
        """Goes to where a training that goes on has left data whose place counts from pass to pass.

        Args:
            count: How many batches it had of data that come once.
            mark: What `mark` gave there.

        Raises:
            DataError: There aren't so many.
        """
        if mark is not None:
            self._ahead.clear()
            with contextlib.suppress(Interrupted):
                self._reached(self._passes.go_to(mark, anew=self._source.restarts))
            return
        if self._source.restarts or not count:
            return
        with contextlib.suppress(Interrupted):
            if not self._leave_out(count - self._taken, across=False):
                raise DataError(
                    self._argument,
                    f"it ended within the {count} batches that a training that goes on has had of"
                    " it; give the data that there were before, from their beginning",
                )

    def close(self) -> None:
        """Lets go of what it reads from, at the end; raises what closing that raised."""
        self._ahead.clear()
        self._leave()

    @property
    def _taken(self) -> int:
        """How many batches of this pass were handed out."""
        return self._passes.pulled - len(self._ahead)

    def _look(self) -> bool:
        """Whether there is a next batch; waits for it."""
        if not self._ahead:
            self._passes.note()
            found = self._pull()
            self._ahead += [] if found is None else [found]
        return bool(self._ahead)

    def _leave_out(self, count: int, *, across: bool) -> bool:
        """Goes past batches, across passes if need be; tells whether there were so many."""
        source = self._source
        across = across and source.restarts
        if source.seeks and count:
            if source.steps is not None and count > source.steps:
                return False
            self._passes.begin(count)
            return True
        for _ in range(count):
            if self._next() is None and not (across and self._next() is not None):
                return False
        return True

    def _reached(self, reached: bool) -> None:
        if not reached:
            raise DataError(
                self._argument,
                "it ended before the place to go on at, though it took back its state; give the"
                " data that were trained on before",
            )

    def _next(self) -> HostBatch | None:
        """The next batch of the pass; None at its end."""
        return self._ahead.pop(0) if self._ahead else self._pull()

    def _leave(self) -> None:
        """Leaves off a pass."""
        self._late, self._end = None, False
        self._passes.drop()

    def _pull(self) -> HostBatch | None:
        late, end = self._late, self._end
        self._late, self._end = None, False
        if late is not None:
            raise late
        return None if end else self._passes.pull()
