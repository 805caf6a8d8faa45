"""Arrays of examples: trees of them, and batches that are slices of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Literal, TypeAlias, final

import jax
import jax.numpy as jnp
import numpy as np

from fitbus.errors import DataError
from fitbus.train._context import ones, sent, takes_along
from fitbus.train._source import HostBatch, Source
from fitbus.train._stateful import refuse_other
from fitbus.train._task import Batch

__all__ = [
    "ArraySource",
    "Shuffle",
    "arrays_of",
    "check_length",
    "is_arrays",
    "pick_rows",
    "rows",
    "tupled",
]

Shuffle: TypeAlias = bool | Literal["batch"]  # "batch": within each batch only
NO_NUMBERS = "USOMm"  # the kinds of dtypes of texts, objects and dates


@final
class ArraySource(Source):
    """Slices of arrays with a common first dimension, shuffled anew for each pass.

    Arrays stay where they are: host arrays are sliced on the host, device arrays on the device.
    Weights are filled in where there are none, unless wanted `as_given`: then they may be a pytree.
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        weight: Any,
        *,
        batch_size: int,
        shuffle: Shuffle,
        seed: tuple[int, ...],
        pad: bool,
        as_given: bool = False,
    ) -> None:
        # Flattened once: of what a batch costs, walking through trees would be the most.
        self._leaves, tree = jax.tree.flatten((x, y))
        self._unflatten: Callable[[list[Any]], tuple[Any, Any]] = tree.unflatten  # type: ignore[attr-defined]  # jax's trees are untyped
        self._weight = weight
        self._count = rows(x)
        self._size = min(batch_size, self._count)
        self._shuffle = shuffle
        self.order = seed
        self._pad = pad
        self._as_given = as_given
        self._ones: Any = None
        self.steps = -(-self._count // self._size)
        self.may_block = self.reuses = False
        self.restarts = self.seeks = True

    @property
    def facts(self) -> dict[str, Any]:
        """What a place in the data depends on."""
        return {"examples": self._count, "batch_size": self._size, "shuffle": self._shuffle}

    def begin(
        self, number: int, first: int = 0, told: Mapping[str, Any] | None = None
    ) -> Iterator[HostBatch]:
        """Begins a pass."""
        if told is not None:
            refuse_other("x", told, "arrays")
        order: np.ndarray[Any, Any] | None = None
        size = self._size
        if self._shuffle:
            generator = np.random.default_rng([*self.order, number])
            order = generator.permutation(self._count)
            if self._shuffle == "batch":  # sorted by batch; stably
                order = order[np.argsort(order // size, kind="stable")]
        if self._weight is None and not self._as_given:
            self._ones = ones(size)  # here: under the JAX settings of the run
        starts = range(first * size, self._count - size + 1, size)
        leaves, weight = self._leaves, self._ones
        on_host = all(type(leaf) is np.ndarray for leaf in leaves) and takes_along()
        if order is None and on_host and self._weight is None:
            for start in starts:  # what `_batch` would come down to, at a third of the cost
                x, y = self._unflatten([leaf[start : start + size] for leaf in leaves])
                yield HostBatch(Batch(x, y, weight), size)
        else:
            for start in starts:
                stop = start + size
                picked = slice(start, stop) if order is None else order[start:stop]
                yield HostBatch(self._batch(picked, self._weights(picked)), size)
        if (rest := self._count % size) and first * size < self._count:
            yield self._short_batch(np.arange(self._count) if order is None else order, rest)

    def _batch(self, picked: Any, weight: Any) -> Batch:
        x, y = self._unflatten([pick_rows(leaf, picked) for leaf in self._leaves])
        batch: Batch = sent(Batch(x, y, weight))
        return batch

    def _weights(self, picked: Any) -> Any:
        if self._weight is None:
            return self._ones
        return jax.tree.map(lambda leaf: pick_rows(leaf, picked), self._weight)

    def _short_batch(self, order: Any, rest: int) -> HostBatch:
        """The last batch of a pass: filled up with its last row, which then weighs nothing."""
        picked = order[-rest:]
        if not self._pad:
            filled_in = self._weight is None and not self._as_given
            weight = ones(rest) if filled_in else self._weights(picked)
            return HostBatch(self._batch(picked, weight), rest)
        picked = np.concatenate([picked, np.repeat(picked[-1:], self._size - rest)])
        weight = np.ones(self._size) if self._weight is None else np.array(self._weights(picked))
        weight = weight.astype(np.float32)
        weight[rest:] = 0
        return HostBatch(self._batch(picked, weight), rest)


def no_numbers(argument: str, leaf: Any, dtype: Any) -> DataError:
    """What is raised for an array of texts, dates or objects."""
    return DataError(argument, f"found {type(leaf).__name__} of {dtype}; give arrays of numbers")


def rows(tree: Any, argument: str = "x") -> int:
    """The common first dimension of all leaves.

    Raises:
        DataError: There is none, or a leaf holds no numbers.
    """
    leaves = jax.tree.leaves(tree)
    if not leaves:
        raise DataError(argument, f"found {tree!r}, which holds no array")
    counts: set[int] = set()
    for leaf in leaves:
        shape = np.shape(leaf)
        if not shape:
            raise DataError(argument, "found a scalar; the first dimension must be the examples")
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind in NO_NUMBERS:
            raise no_numbers(argument, leaf, leaf.dtype)
        counts.add(shape[0])
    if len(counts) > 1:
        raise DataError(argument, f"its arrays have different lengths: {sorted(counts)}")
    return counts.pop()


def tupled(value: Any) -> Any:
    """A list of arrays, as Keras' users write several inputs or outputs, as a tuple of them."""
    several = isinstance(value, list) and all(
        isinstance(item, np.ndarray | jax.Array) and item.ndim > 0 for item in value
    )
    return tuple(value) if several and value else value


def pick_rows(leaf: Any, picked: Any) -> Any:
    """Some rows of an array, where that is: those of a slice, or of indices."""
    if isinstance(leaf, jax.Array):
        if isinstance(picked, slice):
            picked = np.arange(picked.start, picked.stop)
        return jnp.take(leaf, sent(picked), 0, mode="clip")  # compiled, unlike indexing
    if isinstance(picked, slice):
        return leaf[picked]
    return np.asarray(leaf).take(picked, 0)


def is_arrays(x: Any) -> bool:
    """Whether it is an array, or a dict or a tuple of them."""
    if isinstance(x, np.ndarray | jax.Array):
        return True
    return isinstance(x, Mapping | tuple) and all(
        is_arrays(part) for part in (x.values() if isinstance(x, Mapping) else x)
    )


def arrays_of(argument: str, tree: Any) -> Any:
    """A tree of arrays, of which a list of numbers, or of lists of them, is one.

    Raises:
        DataError: Something isn't an array of numbers.
    """
    tree = tupled(tree)
    if isinstance(tree, Iterator | AsyncIterator):
        raise DataError(
            argument,
            f"found {type(tree).__name__}; x and y are arrays, or batches (x, y) come as x alone",
        )
    if isinstance(tree, list):
        try:
            tree = np.asarray(tree)
        except ValueError as error:
            raise DataError(
                argument, "found a list of parts of different lengths; give arrays of numbers"
            ) from error

    def check(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array):
            return leaf
        array = np.asarray(leaf)
        if array.dtype.kind in NO_NUMBERS:
            raise no_numbers(argument, leaf, array.dtype)
        return array

    return jax.tree.map(check, tree)


def check_length(argument: str, count: int, other: str, tree: Any) -> None:
    """Refuses targets that aren't as many as their examples."""
    if tree is None:
        return
    found = rows(tree, other)
    if found != count:
        raise DataError(other, f"it has {found} examples, and {argument} has {count}")
