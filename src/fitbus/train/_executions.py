"""Steps that are fused into one call of the device: how many, and their batches."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, final

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

_Placed: TypeAlias = tuple[HostBatch, tuple[int, int]]  # and the place in the data after it


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
        kept_from: The index of the first one, if what was taken may be asked to come again; None if
            it never is.

    Attributes:
        place: How far in the data those that were taken reach (`Feed.place`).
    """

    def __init__(self, feed: Feed, kept_from: int | None = None) -> None:
        self._feed = feed
        self._batches = feed.epoch()
        self._waiting: deque[_Placed] = deque()  # to be taken next
        self._kept: deque[_Placed] = deque()  # that were taken, and may have to come again
        self._kept_from = kept_from  # the index of the first of these
        self._error: Exception | None = None
        self.place = self._before = feed.place  # the latter: of the batch before those kept

    def take(self, most: int) -> list[HostBatch]:
        """Up to so many; fewer at the end of the epoch, and none after it."""
        if self._error is not None and not self._waiting:
            raise self._error
        taken: list[HostBatch] = []
        shapes: Any = None  # of the first one
        while len(taken) < most:
            try:
                placed = self._pull()
            except Exception as error:  # of whatever kind: it is raised later
                if not taken:
                    raise
                self._error = error
                break
            if placed is None:
                break
            item, place = placed
            if (most > 1 or self._kept_from is not None) and self._feed.reuses:
                # A generator may fill one buffer again and again.
                item = item._replace(batch=_copied(item.batch))
            if most > 1:
                found = _shapes(item)
                shapes = shapes or found
                if found != shapes:
                    self._waiting.appendleft((item, place))
                    break
            taken.append(item)
            self.place = place
            if self._kept_from is not None:
                self._kept.append((item, place))
        return taken

    def forget(self, batch: int) -> None:
        """Those before this index won't be asked for again."""
        if self._kept_from is not None:
            while self._kept_from < batch:
                _, self._before = self._kept.popleft()
                self._kept_from += 1

    def back_to(self, batch: int, done: int) -> int:
        """Goes back: the batch of this index is the next one again, one that isn't forgotten.

        Args:
            batch: The index, and
            done: how many had been trained on.

        Returns:
            The examples of those between the two.
        """
        assert self._kept_from is not None
        rows = 0
        while (index := self._kept_from + len(self._kept) - 1) >= batch:
            placed = self._kept.pop()
            self._waiting.appendleft(placed)
            rows += placed[0].rows if index < done else 0
        self.place = self._kept[-1][1] if self._kept else self._before
        return rows

    def leave(self, items: Sequence[HostBatch] = ()) -> None:
        """Ends the epoch, maybe early: batches that wait go back to where they came from.

        Args:
            items: Those that were taken last, if they weren't trained on.
        """
        left = [*items, *(item for item, _ in self._waiting)]
        self._waiting.clear()
        if left:
            self._feed.give_back(left)

    def _pull(self) -> _Placed | None:
        if self._waiting:
            return self._waiting.popleft()
        if self._error is not None:
            raise self._error
        item = next(self._batches, None)
        return None if item is None else (item, self._feed.place)


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
