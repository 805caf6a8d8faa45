"""Where batches come from: arrays, iterables, async iterables, and factories of them."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import jax

from fitbus.errors import DataError, InvalidArgumentError
from fitbus.train._arrays import (
    ArraySource,
    Shuffle,
    arrays_of,
    check_length,
    is_arrays,
    rows,
    tupled,
)
from fitbus.train._iterables import IterableSource
from fitbus.train._pass import Pull
from fitbus.train._source import Source
from fitbus.train._weights import check_class_weight, times_class_weight, weights_of

__all__ = ["lists_told", "source"]


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
    check_length(argument, count, f"{prefix}y", y)
    weight = sample_weight
    if weight is not None:
        weight = weights_of(f"{prefix}sample_weight", weight, count, as_given=as_given)
    if by_class is not None:
        weight = times_class_weight(by_class, y, weight)
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
