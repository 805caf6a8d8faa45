"""A tree as arrays with names, and back."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from fitbus.errors import FitbusError, InvalidArgumentError

__all__ = ["Array", "check_sums", "named_arrays", "put_back", "sums", "without_elements"]

Array = np.ndarray[Any, Any]
T = TypeVar("T")

ALONE = "value"  # the name of a tree that is one leaf


def named_arrays(tree: Any) -> dict[str, Array]:
    """Copies a tree to the host, each leaf under its path: `"dense.kernel"`, `"layers.0.bias"`.

    Dictionary keys, indices and attributes are joined by dots, in the order of the tree's leaves. A
    tree that is a single leaf has the name `"value"`. Random keys become their data. Arrays that
    are sharded over several devices of this process are put together.

    Args:
        tree: A pytree of arrays (of JAX or NumPy, or NumPy's and Python's numbers).

    Raises:
        InvalidArgumentError: There is no leaf; a leaf is no array or number; or two leaves can't be
            told apart, since a key has a dot in it.
    """
    named: dict[str, Array] = {}
    for name, leaf in _leaves(tree):
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | int | float | complex):
            raise InvalidArgumentError(
                f"tree, leaf {name!r}", leaf, "give arrays or numbers as leaves"
            )
        values: Any = jax.random.key_data(leaf) if _is_key(leaf) else leaf  # type: ignore[arg-type]  # a key
        array: Array = np.array(values, order="C", copy=True)
        if array.dtype.hasobject or array.dtype.kind in "SUMm":
            raise InvalidArgumentError(
                f"tree, leaf {name!r}", leaf, "give arrays of numbers or booleans as leaves"
            )
        named[name] = array.astype(array.dtype.newbyteorder("="), copy=False)
    return named


def put_back(like: T, named: Mapping[str, Array], path: Path) -> T:
    """Makes a tree from arrays with names.

    Args:
        like: The tree that it shall be like: structure, shapes, dtypes, and where its leaves lie.
        named: What was read, and
        path: from where.

    Raises:
        InvalidArgumentError: A name, a shape or a dtype is another. The first at fault is named.
    """
    leaves = _leaves(like)
    for name, leaf in leaves:
        shape, dtype = _kind(name, leaf)
        wanted = _spelled(shape, dtype)
        if name not in named:
            raise InvalidArgumentError(
                f"like, leaf {name!r}", wanted, f"{path} has no such leaf, but {_listed(named)}"
            )
        found = named[name]
        if found.shape != shape or found.dtype != dtype:
            raise InvalidArgumentError(
                f"like, leaf {name!r}", wanted, f"{path} has {_spelled(found.shape, found.dtype)}"
            )
    known = {name for name, _ in leaves}
    for name, array in named.items():
        if name not in known:
            raise InvalidArgumentError(
                f"like, leaf {name!r}", None, f"{path} has {_spelled(array.shape, array.dtype)}"
            )
    back = [_placed(named[name], leaf) for name, leaf in leaves]
    return jax.tree.unflatten(jax.tree.structure(like), back)  # type: ignore[no-any-return]  # jax returns Any


def sums(named: Mapping[str, Array]) -> dict[str, int]:
    """A checksum (CRC-32) of each array's bytes."""
    return {
        name: zlib.crc32(array.reshape(-1).view(np.uint8).data) for name, array in named.items()
    }


def without_elements(like: Any) -> dict[str, Array]:
    """The leaves that have no element, by name: there may be nothing of them to read."""
    kinds = {name: _kind(name, leaf) for name, leaf in _leaves(like)}
    return {name: np.zeros(shape, dtype) for name, (shape, dtype) in kinds.items() if 0 in shape}


def check_sums(named: Mapping[str, Array], kept: Mapping[str, int], path: Path) -> None:
    """Refuses arrays that aren't those that were written."""
    for name, found in sums(named).items():
        if kept.get(name, found) != found:
            raise FitbusError(
                f"{path} is corrupted: the bytes of {name!r} aren't those that were written; take"
                " another checkpoint"
            )


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    """All leaves with their names, in order."""
    pairs: list[tuple[Any, Any]] = jax.tree_util.tree_leaves_with_path(tree)
    named = [
        (jax.tree_util.keystr(path, simple=True, separator=".") if path else ALONE, leaf)
        for path, leaf in pairs
    ]
    if not named:
        raise InvalidArgumentError("tree", tree, "give a pytree with at least one array")
    # Neighbours in this order, if one is the other, or what the other lies in.
    names = sorted(name.split(".") for name, _ in named)
    for one, other in itertools.pairwise(names):
        if other[: len(one)] == one:
            raise InvalidArgumentError(
                "tree",
                [".".join(one), ".".join(other)],
                "leaves are named by their paths, joined by dots, and these two can't be told"
                " apart; leave the dots out of the tree's keys",
            )
    return named


def _kind(name: str, leaf: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """The shape and dtype of a leaf, as they are on the host."""
    if _is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    elif not hasattr(leaf, "shape"):
        if not isinstance(leaf, int | float | complex):
            raise InvalidArgumentError(f"like, leaf {name!r}", leaf, "give arrays as leaves")
        leaf = np.asarray(leaf)
    return tuple(leaf.shape), np.dtype(leaf.dtype).newbyteorder("=")  # as it is written


def _placed(array: Array, like: Any) -> Any:
    """An array where, and of the kind that, another one is."""
    if isinstance(like, int | float | complex) and not isinstance(like, np.generic):
        return array.item()
    if isinstance(like, np.ndarray | np.generic):
        return array[()] if isinstance(like, np.generic) else array
    value: Any = jnp.array(array)
    if _is_key(like):
        value = jax.random.wrap_key_data(value, impl=jax.random.key_impl(like))
    sharding = getattr(like, "sharding", None)
    if sharding is None or not getattr(like, "committed", True):
        return value
    return jax.device_put(value, sharding)


def _is_key(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _spelled(shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    return f"{dtype.name}[{','.join(str(size) for size in shape)}]"


def _listed(named: Mapping[str, Array]) -> str:
    names = [repr(name) for name in named]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more
