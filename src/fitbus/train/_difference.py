"""Where two pytrees differ in structure."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

__all__ = ["Difference", "first_difference"]


class Difference(NamedTuple):
    """The first place where two pytrees differ in structure.

    Attributes:
        path: The place, as `.params['w']`.
        was: What is there in the first tree, in words, and
        now: in the second.
    """

    path: str
    was: str
    now: str


def first_difference(old: Any, new: Any, path: tuple[Any, ...] = ()) -> Difference | None:
    """Finds it, in the order of the leaves; None if the structures are the same."""
    was, old_shape = _parts(old)
    now, new_shape = _parts(new)
    if old_shape == new_shape:
        if () in was:
            return None  # two leaves
        for key, part in was.items():
            found = first_difference(part, now[key], (*path, *key))
            if found is not None:
                return found
        return None
    if type(old) is type(new) and was.keys() != now.keys():
        for key in (*was, *now):
            if key not in now:
                return Difference(_spelled((*path, *key)), _kind(was[key]), "nothing")
            if key not in was:
                return Difference(_spelled((*path, *key)), "nothing", _kind(now[key]))
    kinds = _kind(old), _kind(new)
    if kinds[0] == kinds[1]:  # nodes that carry something else besides their parts
        kinds = str(old_shape), str(new_shape)
    return Difference(_spelled(path), *kinds)


def _parts(tree: Any) -> tuple[dict[tuple[Any, ...], Any], Any]:
    """What is directly below a node, by key; and the node's own structure. A leaf is below ()."""
    parts: Any
    parts, shape = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)
    return dict(parts), shape


def _spelled(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path)


def _kind(tree: Any) -> str:
    """What is there, in a few words."""
    if tree is None:
        return "None"
    parts, _ = _parts(tree)
    if () not in parts:
        return f"{type(tree).__name__} of {len(parts)}"
    try:
        return str(jax.typeof(tree).str_short())
    except TypeError:
        return type(tree).__name__
