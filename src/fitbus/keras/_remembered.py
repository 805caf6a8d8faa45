"""What a checkpoint can keep of an object that knows nothing of checkpoints."""

from __future__ import annotations

import inspect
import logging
import zlib
from collections.abc import Mapping
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Remembered"]

_MOST_BYTES = 256 * 2**20  # what all attributes of one object may take in a checkpoint
_OF_THE_RUN = ("params", "model", "_model")
_DEEPEST = 8

_logger = logging.getLogger("fitbus")


@final
class Remembered:
    """The plain attributes of an object that have changed since it was made.

    Plain are numbers, texts, arrays, and lists, tuples and dicts of them. What has stayed as it was
    is left out, since another object that takes these up was made with its own: it may be other
    data. So is what has the name of a parameter of its constructor, which it may only have put in
    another form. Lists, dicts and NumPy arrays that were changed in place count as changed: each
    checkpoint reads them all, about 1 ms a MiB. What a checkpoint can't keep is left out too, and
    what takes more than 256 MiB in all with a warning in the log.

    Args:
        found: The object, as it was made.
    """

    def __init__(self, found: object) -> None:
        self._found = found
        self._warned = False
        self._made_with = _parameters(type(found))
        self._held = self._plain()  # so that no other array gets the identity of one of these
        self._first = {name: _print_of(value) for name, value in self._held.items()}

    def changed(self) -> dict[str, Any]:
        """Copies of what has changed."""
        kept: dict[str, Any] = {}
        size = 0
        for name, value in self._plain().items():
            if name in self._first and self._first[name] == _print_of(value):
                continue
            size += _bytes_of(value)
            if size > _MOST_BYTES:
                self._warn(name)
                size -= _bytes_of(value)
                continue
            kept[name] = _copied(value)
        return kept

    def _plain(self) -> dict[str, Any]:
        attributes: Mapping[str, Any] = getattr(self._found, "__dict__", {})
        return {
            name: value
            for name, value in attributes.items()
            if name not in _OF_THE_RUN
            and name not in self._made_with
            and _is_plain(value, _DEEPEST)
        }

    def _warn(self, name: str) -> None:
        if not self._warned:
            self._warned = True
            _logger.warning(
                "a checkpoint leaves out `%s` of %s: what it remembers is larger than %d MiB",
                *(name, type(self._found).__qualname__, _MOST_BYTES // 2**20),
            )


def _parameters(made: type) -> frozenset[str]:
    """The names of a constructor's parameters, as far as can be told."""
    try:
        return frozenset(inspect.signature(made).parameters)
    except (TypeError, ValueError):  # written in C
        return frozenset()


def _is_plain(value: Any, depth: int) -> bool:  # noqa: PLR0911  # a case for each kind
    if depth == 0:
        return False  # one that has itself in it, perhaps
    if isinstance(value, np.ndarray | np.generic):
        return not value.dtype.hasobject
    if isinstance(value, jax.Array):
        return not value.is_deleted() and not jnp.issubdtype(value.dtype, jax.dtypes.extended)
    if type(value) is dict:
        return all(
            type(key) in (str, int) and _is_plain(key, depth) and _is_plain(part, depth - 1)
            for key, part in value.items()
        )
    if type(value) in (list, tuple):
        return all(_is_plain(part, depth - 1) for part in value)
    if type(value) is int:
        return -(2**63) <= value < 2**63
    return value is None or type(value) in (bool, float, str)


def _print_of(value: Any) -> Any:
    """What tells whether a value is still the same: equal ones are."""
    if isinstance(value, np.ndarray):
        return id(value), zlib.crc32(value.tobytes())
    if isinstance(value, jax.Array):
        return id(value), 0
    if type(value) is dict:
        return dict, [(key, _print_of(part)) for key, part in value.items()]
    if type(value) in (list, tuple):
        return type(value), [_print_of(part) for part in value]
    return type(value), repr(value)  # NaN too


def _bytes_of(value: Any) -> int:
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return int(value.nbytes)
    if type(value) is dict:
        return sum(_bytes_of(key) + _bytes_of(part) for key, part in value.items())
    if type(value) in (list, tuple):
        return sum(map(_bytes_of, value))
    return len(value) if type(value) is str else 8


def _copied(value: Any) -> Any:
    if isinstance(value, np.ndarray | jax.Array):
        return np.array(value)
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(part) for part in value)
    return value
