"""Batches that are slices of arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np

from fitbus.errors import DataError
from fitbus.train._context import sent
from fitbus.train._source import HostBatch, Source
from fitbus.train._task import Batch

__all__ = ["ArraySource", "pick_rows", "rows"]


@final
class ArraySource(Source):
    """Slices of arrays with a common first dimension, shuffled anew for each pass.

    Arrays stay where they are: host arrays are sliced on the host, device arrays on the device.
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        weight: np.ndarray[Any, Any] | None,
        *,
        batch_size: int,
        shuffle: bool,
        seed: tuple[int, ...],
        pad: bool,
    ) -> None:
        self._x, self._y, self._weight = x, y, weight
        self._count = rows(x)
        self._size = min(batch_size, self._count)
        self._shuffle = shuffle
        self._seed = seed
        self._pad = pad
        self._ones = np.ones(self._size, np.float32)
        self.steps = -(-self._count // self._size)
        self.may_block = False
        self.restarts = True

    def begin(self, number: int) -> Iterator[HostBatch]:
        """Begins a pass."""
        order: np.ndarray[Any, Any] | None = None
        if self._shuffle:
            order = np.random.default_rng([*self._seed, number]).permutation(self._count)
        for start in range(0, self._count, self._size):
            yield self._batch(start, min(start + self._size, self._count), order)

    def _batch(self, start: int, stop: int, order: np.ndarray[Any, Any] | None) -> HostBatch:
        real = stop - start
        short = real < self._size and self._pad
        picked: Any = slice(start, stop) if order is None else order[start:stop]
        if short:
            picked = np.arange(start, stop) if order is None else picked
            picked = np.concatenate([picked, np.repeat(picked[-1:], self._size - real)])
        weight = self._ones if self._weight is None else pick_rows(self._weight, picked)
        if short:
            weight = np.array(weight)
            weight[real:] = 0
        elif len(weight) > real:
            weight = weight[:real]
        pick = lambda leaf: pick_rows(leaf, picked)  # noqa: E731  # for both trees
        return HostBatch(
            sent(Batch(jax.tree.map(pick, self._x), jax.tree.map(pick, self._y), weight)), real
        )


def rows(tree: Any, argument: str = "x") -> int:
    """The common first dimension of all leaves.

    Raises:
        DataError: There is none.
    """
    leaves = jax.tree.leaves(tree)
    if not leaves:
        raise DataError(argument, f"found {tree!r}, which holds no array")
    counts: set[int] = set()
    for leaf in leaves:
        shape = np.shape(leaf)
        if not shape:
            raise DataError(argument, "found a scalar; the first dimension must be the examples")
        counts.add(shape[0])
    if len(counts) > 1:
        raise DataError(argument, f"its arrays have different lengths: {sorted(counts)}")
    return counts.pop()


def pick_rows(leaf: Any, picked: Any) -> Any:
    """Some rows of an array, where that is: those of a slice, or of indices."""
    if isinstance(leaf, jax.Array):
        if isinstance(picked, slice):
            picked = np.arange(picked.start, picked.stop)
        return jnp.take(leaf, sent(picked), 0, mode="clip")  # compiled, unlike indexing
    if isinstance(picked, slice):
        return leaf[picked]
    return np.asarray(leaf).take(picked, 0)
