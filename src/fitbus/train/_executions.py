"""Steps that are fused into one call of the device: how many, and their batches."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, Literal, final

import jax
import jax.numpy as jnp
import numpy as np

from fitbus.train._context import sent
from fitbus.train._feed import Feed
from fitbus.train._source import HostBatch
from fitbus.train._task import Batch

__all__ = ["Executions", "Gathered", "stacked"]

_MOST = 64
_GOAL_S = 0.005  # of an execution that `"auto"` tries
_WINDOW_S = 0.05  # that it measures each of the two for
_UNCOUNTED = 2  # executions at the beginning of a window: they compile
_GAIN = 0.95  # of the time of single steps, that fused ones may take at the most
_logger = logging.getLogger("fitbus")


@final
class Executions:
    """How many steps go into an execution: a fixed number, or what turns out to be faster.

    `"auto"` measures single steps, and then as many fused ones as take about five milliseconds (64
    at the most), each for a twentieth of a second of training; it fuses them from then on if that
    saves a twentieth of the time, and logs which. Where a step takes longer, there is little to
    save, and nothing is tried.

    Args:
        wanted: A number, or `"auto"`.

    Attributes:
        steps: How many at present.
    """

    def __init__(self, wanted: int | Literal["auto"]) -> None:
        self._auto = self._open = wanted == "auto"  # open: not decided yet
        self.steps = 1 if wanted == "auto" else wanted
        self._single_s = 0.0  # a single step, once it was measured
        self._begun: float | None = None
        self._left_out = _UNCOUNTED
        self._seconds = 0.0
        self._done = 0

    def size(self, *, exact: bool) -> int:
        """How many steps to fuse next.

        Args:
            exact: Whether training waits for handlers of each batch: then `"auto"` fuses none, so
                that what they return acts where it does in every run.
        """
        return 1 if exact and self._auto else self.steps

    def pause(self) -> None:
        """Begins an epoch: what lies between two of them isn't measured."""
        self._begun = None

    def done(self, steps: int, *, exact: bool) -> None:
        """Measures an execution, and decides when there is enough.

        Args:
            steps: How many steps it had.
            exact: Whether training waits for handlers of each batch; then nothing is tried.
        """
        if not self._open or exact:
            return
        now = time.perf_counter()
        begun, self._begun = self._begun, now
        if self._left_out:
            self._left_out -= 1
        elif begun is not None:
            self._seconds += now - begun
            self._done += steps
            if self._seconds >= _WINDOW_S:
                self._decide(self._seconds / self._done)

    def _decide(self, step_s: float) -> None:
        if not self._single_s:
            self._single_s = step_s
            self.steps = max(1, min(_MOST, round(_GOAL_S / step_s)))
            self._open = self.steps > 1
            self._left_out, self._seconds, self._done = _UNCOUNTED, 0.0, 0
            return
        self._open = False
        tried = self.steps
        if step_s > _GAIN * self._single_s:
            self.steps = 1
        _logger.info(
            "steps_per_execution='auto' is %d from here on: a step took %.3g ms by itself, and"
            " %.3g ms with %d fused",
            *(self.steps, self._single_s * 1e3, step_s * 1e3, tried),
        )


@final
class Gathered:
    """The batches of an epoch, an execution at a time.

    Those of an execution have one shape: one that doesn't fit waits for the next execution. What
    the data raise waits, too, until the batches before it have been trained on.

    Args:
        feed: Where they come from.

    Attributes:
        place: How far in the data those that were taken reach (`Feed.place`).
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._batches = feed.epoch()
        self._next: HostBatch | None = None
        self._error: Exception | None = None
        self.place = feed.place

    def take(self, most: int) -> list[HostBatch]:
        """Up to so many; fewer at the end of the epoch, and none after it."""
        if self._error is not None:
            raise self._error
        taken: list[HostBatch] = []
        shapes: Any = None  # of the first one
        while len(taken) < most:
            try:
                item = self._pull()
            except Exception as error:  # of whatever kind: it is raised later
                if not taken:
                    raise
                self._error = error
                break
            if item is None:
                break
            if most > 1:
                if self._feed.reuses:  # a generator may fill one buffer again and again
                    item = item._replace(batch=_copied(item.batch))
                found = _shapes(item)
                shapes = shapes or found
                if found != shapes:
                    self._next = item
                    break
            taken.append(item)
            self.place = self._feed.place
        return taken

    def leave(self, items: Sequence[HostBatch] = ()) -> None:
        """Ends the epoch, maybe early: batches that wait go back to where they came from.

        Args:
            items: Those that were taken last, if they weren't trained on.
        """
        item, self._next = self._next, None
        left = [*items] if item is None else [*items, item]
        if left:
            self._feed.give_back(left)

    def _pull(self) -> HostBatch | None:
        item, self._next = self._next, None
        return next(self._batches, None) if item is None else item


def stacked(batches: Sequence[Batch], size: int) -> Batch:
    """Batches of one shape as one, with another axis in front: filled up to `size` by the last."""
    filled = [*batches, *[batches[-1]] * (size - len(batches))]

    def stack(*leaves: Any) -> Any:
        library: Any = jnp if any(isinstance(leaf, jax.Array) for leaf in leaves) else np
        if all(leaf is leaves[0] for leaf in leaves):  # the weights of whole batches, for one
            return library.broadcast_to(leaves[0], (size, *leaves[0].shape))
        return library.stack(leaves)

    found: Batch = sent(jax.tree.map(stack, *filled))
    return found


def _shapes(item: HostBatch) -> Any:
    leaves, tree = jax.tree.flatten(item.batch)
    return tree, [(leaf.shape, leaf.dtype) for leaf in leaves]


def _copied(batch: Batch) -> Batch:
    found: Batch = jax.tree.map(
        lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, batch
    )
    return found
