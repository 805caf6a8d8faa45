"""What a checkpoint can keep of an object that knows nothing of checkpoints."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import numpy as np

__all__ = ["remembered"]

_OF_THE_RUN = ("params", "model", "_model")


def remembered(found: object) -> dict[str, Any]:
    """The plain attributes of an object: numbers, texts, arrays, and lists and dicts of them.

    What it was made with is left out, by the names of its constructor's parameters: another object
    that takes these up was made with its own.
    """
    made_with = inspect.signature(type(found).__init__).parameters
    return {
        name: _copied(value)
        for name, value in vars(found).items()
        if name not in _OF_THE_RUN and name not in made_with and _is_plain(value)
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, np.ndarray | np.generic):
        return not value.dtype.hasobject
    if isinstance(value, dict):
        return all(type(key) in (str, int) for key in value) and all(map(_is_plain, value.values()))
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str) or isinstance(value, jax.Array)


def _copied(value: Any) -> Any:
    if isinstance(value, np.ndarray | jax.Array):
        return np.array(value)
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(part) for part in value)
    return value
