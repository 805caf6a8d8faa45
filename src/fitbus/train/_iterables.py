"""Batches that an iterable gives, or an async one, or a factory of either."""

from __future__ import annotations

import contextlib
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Sized,
)
from typing import Any, NoReturn, final

import jax
import numpy as np

from fitbus.errors import DataError
from fitbus.train._arrays import check_length, pick_rows, rows
from fitbus.train._context import ones, sent
from fitbus.train._pass import Pass, Pull
from fitbus.train._source import HostBatch, Source
from fitbus.train._stateful import Stateful, refuse_other
from fitbus.train._task import Batch
from fitbus.train._weights import times_class_weight, weights_of

__all__ = ["IterableSource"]


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
        self._ones: Any = None
        self.steps = None
        if isinstance(data, Sized):
            with contextlib.suppress(TypeError):  # a loader may find that it can't tell
                self.steps = len(data)
        self.may_block = not isinstance(data, list)
        self.restarts = not isinstance(data, Iterator | AsyncIterator)
        self.own_thread = not isinstance(data, AsyncIterable)
        self.stateful = None if callable(data) else Stateful.of(argument, data)
        self.seeks = self.steps is not None and (told or isinstance(data, Sequence))

    def begin(
        self, number: int, first: int = 0, told: Mapping[str, Any] | None = None
    ) -> Iterator[HostBatch]:
        """Begins a pass."""
        data = self._data() if callable(self._data) else self._data
        stateful = None if self.stateful is not None else Stateful.of(self._argument, data)
        if stateful is not None and told is not None:
            stateful.put(told)
        if isinstance(data, AsyncIterable):
            items: Any = aiter(data)
            batches: Any = self._pull(items, owned=items is not self._data)
            close = batches.close
        elif isinstance(data, Iterable) and not isinstance(data, str | bytes):
            items = batches = self._iterator(data, number, first)
            close = getattr(items, "close", None) if items is not self._data else None
        else:
            self._refuse(data)
        if stateful is None and self.stateful is None:
            stateful = Stateful.of(self._argument, items)
            if stateful is not None and told is not None:
                stateful.put(told)
            elif told is not None:
                refuse_other(self._argument, told, type(data).__qualname__)
        return Pass(batches, self._complete, close, stateful)

    def _iterator(self, data: Any, number: int, first: int) -> Iterator[Any]:
        """The items of a pass, from the first one that is wanted."""
        picked = self._picked(number)
        if first and self.steps is not None:
            if self.rows is None:  # as the very first batch says
                self._complete(data[(self._picked(0) or [0])[0]])
            picked = (range(self.steps) if picked is None else picked)[first:]
        if hasattr(data, "on_epoch_end"):
            return _told(data, picked)
        return iter(data) if picked is None else map(data.__getitem__, picked)

    def _refuse(self, data: Any) -> NoReturn:
        raise DataError(
            self._argument,
            f"found {type(data).__name__}; give arrays, or an iterable, an async iterable, or"
            " a function that returns one, of batches x, (x, y) or (x, y, sample_weight)",
        )

    def _picked(self, number: int) -> Sequence[int] | None:
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
        check_length(f"{self._argument} batch: x", count, "y", y)
        if self.rows is None:
            self.rows = count
        is_whole = count >= self.rows or not self._pad
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
            weight = weights_of(argument, weight, count, as_given=self._as_given)
        if self._class_weight is not None:
            weight = times_class_weight(self._class_weight, y, weight)
        if is_whole:
            return HostBatch(sent(Batch(x, y, weight)), count)
        picked = np.minimum(np.arange(self.rows), count - 1)
        pick = lambda leaf: pick_rows(leaf, picked)  # noqa: E731  # for both trees
        weight = np.concatenate([weight, np.zeros(self.rows - count, np.float32)])
        batch = Batch(jax.tree.map(pick, x), jax.tree.map(pick, y), weight)
        return HostBatch(sent(batch), count)


def _told(data: Any, picked: Iterable[int] | None) -> Iterator[Any]:
    """The batches of a data set that wants to know when a pass begins and ends (Keras' do)."""
    begin = getattr(data, "on_epoch_begin", None)
    if callable(begin):
        begin()
    yield from data if picked is None else map(data.__getitem__, picked)
    data.on_epoch_end()


def _parts(argument: str, item: Any) -> tuple[Any, Any, Any]:
    if not isinstance(item, tuple):
        return item, None, None
    if not 1 <= len(item) <= 3:
        raise DataError(
            argument, f"a batch is a tuple of {len(item)}; give x, (x, y) or (x, y, sample_weight)"
        )
    x, y, weight = (*item, None, None)[:3]
    return x, y, weight
