"""Batches, pass after pass."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from fitbus.train._task import Batch

if TYPE_CHECKING:
    from fitbus.train._stateful import Stateful

__all__ = ["HostBatch", "Source"]


class HostBatch(NamedTuple):
    """A batch, and how many of its rows are real."""

    batch: Batch
    rows: int


class Source(abc.ABC):
    """Batches, pass after pass.

    Attributes:
        steps: Batches in a pass; None where it can't be told.
        may_block: Whether a batch can be long in coming.
        reuses: Whether the arrays of a batch may be overwritten when the next one comes.
        restarts: Whether another pass can begin when one is used up.
        order: What the order of shuffled data is made from.
        seeks: Whether a pass can begin elsewhere than at its first batch.
        own_thread: Whether batches are fetched in the training thread.
        stateful: The data themselves, if they can say where they are; that stays from pass to pass.
        rows: The examples to which a short batch is filled up, where the first batch tells.
    """

    steps: int | None
    may_block: bool
    restarts: bool
    reuses: bool = True
    order: tuple[int, ...] = ()
    seeks: bool = False
    own_thread: bool = True
    stateful: Stateful | None = None
    rows: int | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What is plain to see of the data, to be compared with those of before."""
        return {"batches in a pass": self.steps}

    @abc.abstractmethod
    def begin(
        self, number: int, first: int = 0, told: Mapping[str, Any] | None = None
    ) -> Iterator[HostBatch]:
        """Begins a pass.

        Args:
            number: Counts the passes; the order of a shuffled one depends on it alone.
            first: The batch that it begins with; other than 0 only if the source `seeks`.
            told: Where what the pass reads from was, if that, and not the data, can say so.
        """
