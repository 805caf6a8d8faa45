"""What is trained: the state, and what can be done with all of it at once."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar, final

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from fitbus.errors import InvalidArgumentError
from fitbus.train._difference import first_difference

__all__ = [
    "TrainState",
    "alike",
    "check_same",
    "copied",
    "from_host",
    "home_of",
    "is_key",
    "is_lost",
    "mesh_of",
    "on_host",
    "placed",
]

T = TypeVar("T")


@final
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a step reads and writes: a frozen pytree of arrays on the device.

    Change it with `dataclasses.replace`. The state is donated to the compiled step, so nobody but
    the loop keeps one; `trainer.state` and `run.snapshot()` give what may be kept.

    Attributes:
        step: int32 scalar: completed optimizer updates. The loop counts it, not the task.
        params: The parameters, a pytree of arrays.
        opt_state: The optimizer's state.
        key: A typed random key (`jax.random.key`). It stays as it is: a step derives its own by
            `jax.random.fold_in(state.key, state.step)`.
        extra: What else a task keeps: running statistics, accumulated gradients, a loss scale.
    """

    step: Any
    params: Any
    opt_state: Any
    key: Any
    extra: Any = None


def is_key(leaf: Any) -> bool:
    """Whether a leaf is an array of typed random keys."""
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def copied(tree: T, argument: str = "params") -> T:
    """Copies every leaf to the device, with its sharding; strong types, so that nothing retraces.

    Raises:
        InvalidArgumentError: A leaf is no array or number.
    """

    def copy(path: Any, leaf: Any) -> Any:
        if isinstance(leaf, jax.Array):
            if is_key(leaf):
                return jnp.copy(leaf)
            return jnp.array(leaf, dtype=leaf.dtype, copy=True)
        if isinstance(leaf, np.ndarray | np.generic | int | float | complex | bool):
            host = np.asarray(leaf)
            if host.dtype != object:
                return jnp.array(host, copy=True)
        raise InvalidArgumentError(
            f"{argument}{jax.tree_util.keystr(path)}", leaf, "give arrays or numbers as leaves"
        )

    return jax.tree_util.tree_map_with_path(copy, tree)  # type: ignore[no-any-return]  # jax returns Any


def placed(state: TrainState) -> TrainState:
    """Puts what isn't there yet where the parameters are: replicated, if those are on a mesh.

    Else the first step, which puts all that it returns there, would be compiled for itself.
    """
    home, mesh = home_of(state.params), mesh_of(state.params)
    if home is None:
        return state

    def place(leaf: Any) -> Any:
        at_home = leaf.committed and getattr(leaf.sharding, "mesh", None) == mesh
        return leaf if at_home else jax.device_put(leaf, home)

    return jax.tree.map(place, state)  # type: ignore[no-any-return]  # jax returns Any


def home_of(tree: Any) -> Any:
    """Where to put what goes along with a tree that was put on a mesh or a device; else None."""
    mesh = mesh_of(tree)
    if mesh is not None:
        return NamedSharding(mesh, PartitionSpec())
    leaves = jax.tree.leaves(tree)
    return next((leaf.sharding for leaf in leaves if getattr(leaf, "committed", False)), None)


def mesh_of(tree: Any) -> Any:
    """The mesh of several devices over which a tree is sharded, or None."""
    for leaf in jax.tree.leaves(tree):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1:
            return sharding.mesh
    return None


def on_host(tree: T) -> T:
    """Copies a tree to NumPy arrays; random keys as their data (`jax.random.wrap_key_data`)."""

    def fetch(leaf: Any) -> Any:
        if is_key(leaf):
            leaf = jax.random.key_data(leaf)
        return np.array(leaf, copy=True)

    return jax.tree.map(fetch, tree)  # type: ignore[no-any-return]  # jax returns Any


def from_host(state: TrainState) -> TrainState:
    """Puts a snapshot back on the device."""
    key = state.key if is_key(state.key) else jax.random.wrap_key_data(jnp.asarray(state.key))
    return copied(dataclasses.replace(state, key=key), "state")


def alike(who: str, old: TrainState, new: TrainState) -> TrainState:
    """Puts a state where another one is: of the same structure, on the same devices.

    Random keys may come as their data, as those of a snapshot do.

    Raises:
        InvalidArgumentError: Names the first place at fault, with what it was and what it became.
    """

    def as_key(was: Any, now: Any) -> Any:
        if is_key(was) and not is_key(now) and jax.random.key_data(was).shape == np.shape(now):
            return jax.random.wrap_key_data(jnp.asarray(now), impl=jax.random.key_impl(was))
        return now

    def place(was: Any, now: Any) -> Any:
        if now is was:
            return now
        if not was.committed:
            return copied(now, "state")
        return jax.device_put(copied(now, "state") if is_key(now) else now, was.sharding)

    old_tree: Any = jax.tree.structure(old)
    if old_tree == jax.tree.structure(new):
        new = jax.tree.map(as_key, old, new)
    check_same(who, old, new)
    return jax.tree.map(place, old, new)  # type: ignore[no-any-return]  # jax returns Any


def is_lost(tree: Any) -> bool:
    """Whether a leaf was donated, or comes from a computation that failed."""
    leaves = jax.tree.leaves(tree)
    if any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in leaves):
        return True
    try:
        jax.block_until_ready(leaves)
    except Exception:  # noqa: BLE001  # whatever the backend raises, the values aren't there
        return True
    return False


def check_same(who: str, old: Any, new: Any) -> None:
    """Refuses a state of another structure, shape or dtype.

    Raises:
        InvalidArgumentError: Names the first place at fault, with what it was and what it became.
    """
    old_tree: Any
    new_tree: Any
    old_leaves, old_tree = jax.tree_util.tree_flatten_with_path(old)
    new_leaves, new_tree = jax.tree_util.tree_flatten_with_path(new)
    if old_tree != new_tree:
        place, had, has = first_difference(old, new) or ("", str(old_tree), str(new_tree))
        raise InvalidArgumentError(
            f"the state from {who}, at {place}", has, f"keep its structure, which has {had} there"
        )
    for (path, was), (_, now) in zip(old_leaves, new_leaves, strict=True):
        before, after = jax.typeof(was), jax.typeof(now)
        if before.shape != after.shape or before.dtype != after.dtype:
            raise InvalidArgumentError(
                f"the state from {who}, leaf {jax.tree_util.keystr(path)}",
                after.str_short(),
                f"keep its shape and dtype, {before.str_short()}",
            )
