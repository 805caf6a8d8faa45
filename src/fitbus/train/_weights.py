"""The weights of examples: given one by one, or by class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from fitbus.errors import DataError, InvalidArgumentError
from fitbus.train._arrays import arrays_of, rows, tupled

__all__ = [
    "check_class_weight",
    "check_weight",
    "times_class_weight",
    "weights_of",
]


def check_weight(
    argument: str, weight: Any, count: int, shape: tuple[int, ...] | None = None
) -> np.ndarray[Any, Any]:
    """Sample weights as float32 of shape (examples,), unless another one is given."""
    try:
        found = np.asarray(weight, np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(argument, f"found {type(weight).__name__}; give numbers") from error
    if found.shape != ((count,) if shape is None else shape):
        raise DataError(
            argument, f"its shape is {found.shape}; give one weight for each of {count}"
        )
    if not np.isfinite(found).all() or (found < 0).any():
        raise DataError(argument, "it holds a weight that is negative, infinite or NaN")
    return found


def check_class_weight(class_weight: Any) -> Mapping[int, float] | None:
    """Class weights with whole numbers as keys, or with texts of those, as JSON has."""
    if class_weight is None:
        return None
    try:
        found = {int(key): float(value) for key, value in dict(class_weight).items()}
    except (TypeError, ValueError):
        found = {}
    whole = len(found) > 0 and all(isinstance(key, str) or key == int(key) for key in class_weight)
    if (
        not whole
        or len(found) < len(class_weight)
        or not all(np.isfinite(v) and v >= 0 for v in found.values())
    ):
        raise InvalidArgumentError(
            "class_weight", class_weight, "give a dict of class indices to finite weights"
        )
    return found


def _by_class(class_weight: Mapping[int, float], y: Any) -> np.ndarray[Any, Any]:
    """The weight of each example's class: labels of shape (examples,), or one-hot; default 1."""
    several = isinstance(tupled(y), tuple | Mapping)  # outputs
    labels: Any = np.asarray(None if several else y)
    if labels.dtype == object or labels.ndim == 0:
        raise InvalidArgumentError(
            "class_weight",
            class_weight,
            f"it needs labels as targets, whole numbers or one-hot; y is {type(y).__name__}; of"
            " several outputs, give sample_weight",
        )
    if labels.ndim == 2 and labels.shape[1] > 1:
        labels = labels.argmax(1)
    labels = labels.reshape(len(labels), -1)[:, 0]
    weight = np.ones(len(labels), np.float32)
    for label, value in class_weight.items():
        weight[labels == label] = value
    return weight


def weights_of(argument: str, weight: Any, count: int, *, as_given: bool) -> Any:
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


def times_class_weight(class_weight: Mapping[int, float], y: Any, weight: Any) -> Any:
    """The weights of the classes of examples that may have weights of their own."""
    found = _by_class(class_weight, y)
    if weight is not None and np.shape(weight) != found.shape:
        raise InvalidArgumentError(
            "class_weight",
            dict(class_weight),
            "multiply it into weights that are by output or time",
        )
    return found if weight is None else weight * found
