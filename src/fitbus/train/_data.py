"""Where batches come from: arrays, iterables, async iterables, and factories of them."""

from __future__ import annotations

import contextlib
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sized,
)
from typing import Any, final

import jax
import numpy as np

from fitbus.errors import DataError, InvalidArgumentError
from fitbus.train._arrays import ArraySource, Shuffle, pick_rows, rows, tupled
from fitbus.train._context import ones, sent
from fitbus.train._pass import Pass, Pull
from fitbus.train._source import HostBatch, Source
from fitbus.train._task import Batch
from fitbus.train._weights import check_class_weight, check_weight, weight_by_class

__all__ = ["IterableSource", "arrays_of", "is_arrays", "lists_told", "source"]


@final
class IterableSource(Source):
    """Batches that an iterable, or a factory of iterables, gives.

    Args:
        argument: The name of the argument, for messages.
        data: The iterable or async iterable, or a function that returns one.
        pull: Turns an async iterator into one of the training thread.
        pad: Whether batches shorter than the first one are filled up.
        class_weight: Multiplies into the sample weights.
        as_given: Whether weights are left as they are: None, or any pytree of arrays.
        order: What the order of the batches of a dataset like Keras' is made from, anew for each
            pass, where they can be picked; None leaves them as they come.
    """

    def __init__(
        self,
        argument: str,
        data: Any,
        pull: Pull,
        *,
        pad: bool,
        class_weight: Mapping[int, float] | None,
        as_given: bool = False,
        order: tuple[int, ...] | None = None,
    ) -> None:
        self._argument = argument
        self._data = data
        told = hasattr(data, "on_epoch_end") and hasattr(data, "__getitem__")
        self.order = (order or ()) if told else ()
        self._pull = pull
        self._pad = pad
        self._class_weight = class_weight
        self._as_given = as_given
        self._size: int | None = None
        self._ones: Any = None
        self.steps = None
        if isinstance(data, Sized):
            with contextlib.suppress(TypeError):  # a loader may find that it can't tell
                self.steps = len(data)
        self.may_block = not isinstance(data, list)
        self.restarts = not isinstance(data, Iterator | AsyncIterator)

    def begin(self, number: int, first: int = 0) -> Iterator[HostBatch]:
        """Begins a pass."""
        del first
        data = self._data() if callable(self._data) else self._data
        if isinstance(data, AsyncIterable):
            items = aiter(data)
            pulled = self._pull(items, owned=items is not self._data)
            return Pass(pulled, self._complete, pulled.close)
        if isinstance(data, Iterable) and not isinstance(data, str | bytes):
            told = hasattr(data, "on_epoch_end")
            batches = _told(data, self._picked(number)) if told else iter(data)
            close = getattr(batches, "close", None) if batches is not self._data else None
            return Pass(batches, self._complete, close)
        raise DataError(
            self._argument,
            f"found {type(data).__name__}; give arrays, or an iterable, an async iterable, or"
            " a function that returns one, of batches x, (x, y) or (x, y, sample_weight)",
        )

    def _picked(self, number: int) -> Iterable[int] | None:
        """The places of a pass' batches in a dataset that is shuffled."""
        if not self.order or self.steps is None:
            return None
        picked: list[int] = (
            np.random.default_rng([*self.order, number]).permutation(self.steps).tolist()
        )
        return picked

    def _complete(self, item: Any) -> HostBatch:
        x, y, weight = _parts(self._argument, item)
        count = rows(x, f"{self._argument} batch")
        if count == 0:
            raise DataError(f"{self._argument} batch", "it is empty; leave such batches out")
        _same_length(f"{self._argument} batch: x", count, "y", y)
        if self._size is None:
            self._size = count
        is_whole = count >= self._size or not self._pad
        if weight is None and self._class_weight is None and is_whole:
            if self._as_given:
                return HostBatch(sent(Batch(x, y, None)), count)
            if self._ones is None or len(self._ones) != count:
                self._ones = ones(count)
            return HostBatch(sent(Batch(x, y, self._ones)), count)
        if weight is None:
            weight = np.ones(count, np.float32)
        else:
            argument = f"{self._argument} batch: sample_weight"
            weight = _weights(argument, weight, count, as_given=self._as_given)
        if self._class_weight is not None:
            weight = _by_class(self._class_weight, y, weight)
        if is_whole:
            return HostBatch(sent(Batch(x, y, weight)), count)
        picked = np.minimum(np.arange(self._size), count - 1)
        pick = lambda leaf: pick_rows(leaf, picked)  # noqa: E731  # for both trees
        weight = np.concatenate([weight, np.zeros(self._size - count, np.float32)])
        batch = Batch(jax.tree.map(pick, x), jax.tree.map(pick, y), weight)
        return HostBatch(sent(batch), count)


def _told(data: Any, picked: Iterable[int] | None) -> Iterator[Any]:
    """The batches of a data set that wants to know when a pass begins and ends (Keras' do)."""
    begin = getattr(data, "on_epoch_begin", None)
    if callable(begin):
        begin()
    yield from data if picked is None else map(data.__getitem__, picked)
    data.on_epoch_end()


def source(
    x: Any,
    y: Any,
    sample_weight: Any,
    class_weight: Any,
    *,
    argument: str,
    batch_size: int,
    shuffle: Shuffle,
    seed: tuple[int, ...],
    pad: bool,
    pull: Pull,
    as_given: bool = False,
) -> Source:
    """Makes a source from what `fit` was given.

    Raises:
        DataError: The data are empty, of different lengths, or nothing that can be iterated.
        InvalidArgumentError: An argument doesn't go with the data.
    """
    by_class = check_class_weight(class_weight)
    if y is None and not is_arrays(x):
        if sample_weight is not None:
            raise InvalidArgumentError(
                "sample_weight", sample_weight, "batches bring their own: (x, y, sample_weight)"
            )
        return IterableSource(
            *(argument, x, pull),
            pad=pad,
            class_weight=by_class,
            as_given=as_given,
            order=seed if shuffle else None,
        )
    x, y = arrays_of("x", x), arrays_of("y", y)
    count = rows(x, argument)
    if count == 0:
        raise DataError(argument, "it is empty; there is nothing to go through")
    prefix = "" if argument == "x" else f"{argument}: "
    _same_length(argument, count, f"{prefix}y", y)
    weight = sample_weight
    if weight is not None:
        weight = _weights(f"{prefix}sample_weight", weight, count, as_given=as_given)
    if by_class is not None:
        weight = _by_class(by_class, y, weight)
    if weight is not None and not any(leaf.any() for leaf in jax.tree.leaves(weight)):
        raise DataError(
            f"{prefix}sample_weight", "all weights are zero; there is nothing to learn from"
        )
    return ArraySource(
        *(x, y, weight),
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
        pad=pad,
        as_given=as_given,
    )


def is_arrays(x: Any) -> bool:
    if isinstance(x, np.ndarray | jax.Array):
        return True
    return isinstance(x, Mapping | tuple) and all(
        is_arrays(part) for part in (x.values() if isinstance(x, Mapping) else x)
    )


@contextlib.contextmanager
def lists_told(x: Any, y: Any = None) -> Generator[None, None, None]:
    """Notes on an error that a list of arrays was taken as batches: perhaps it wasn't meant so."""
    try:
        yield
    except Exception as error:
        if y is None and isinstance(x, list) and isinstance(tupled(x), tuple):
            error.add_note(
                "fitbus: x is a list of arrays, and `y` isn't given: each of them was a batch."
                " Several inputs are given as a tuple: (a, b)"
            )
        raise


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
        if array.dtype == object or array.dtype.kind in "USOMm":
            raise DataError(
                argument, f"found {type(leaf).__name__} of {array.dtype}; give arrays of numbers"
            )
        return array

    return jax.tree.map(check, tree)


def _weights(argument: str, weight: Any, count: int, *, as_given: bool) -> Any:
    """Sample weights: one for each example; or, `as_given`, for each output, or each time step."""
    given: Any = tuple(weight) if isinstance(weight, list) else weight
    several = isinstance(given, Mapping | tuple) and all(
        part is None or np.ndim(part) > 0
        for part in (given.values() if isinstance(given, Mapping) else given)
    )
    if not as_given or not (several or getattr(given, "ndim", 1) > 1):
        return check_weight(argument, weight, count)
    tree = arrays_of(argument, given)
    if (found := rows(tree, argument)) != count:
        raise DataError(argument, f"it has weights for {found} examples of {count}")
    return jax.tree.map(
        lambda leaf: check_weight(argument, leaf, count, shape=np.shape(leaf)), tree
    )


def _by_class(class_weight: Mapping[int, float], y: Any, weight: Any) -> Any:
    """The weights of the classes of examples that may have weights of their own."""
    found = weight_by_class(class_weight, y)
    if weight is not None and np.shape(weight) != found.shape:
        raise InvalidArgumentError(
            "class_weight",
            dict(class_weight),
            "multiply it into weights that are by output or time",
        )
    return found if weight is None else weight * found


def _same_length(argument: str, count: int, other: str, tree: Any) -> None:
    if tree is None:
        return
    found = rows(tree, other)
    if found != count:
        raise DataError(other, f"it has {found} examples, and {argument} has {count}")


def _parts(argument: str, item: Any) -> tuple[Any, Any, Any]:
    if not isinstance(item, tuple):
        return item, None, None
    if not 1 <= len(item) <= 3:
        raise DataError(
            argument, f"a batch is a tuple of {len(item)}; give x, (x, y) or (x, y, sample_weight)"
        )
    x, y, weight = (*item, None, None)[:3]
    return x, y, weight
