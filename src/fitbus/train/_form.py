"""A state as the compiled step takes it: a flat list of arrays."""

from __future__ import annotations

import dataclasses
from typing import Any, final

import jax

from fitbus.train._state import TrainState, is_key

__all__ = ["Form"]


@final
@dataclasses.dataclass(frozen=True)
class Form:
    """How to take a state apart, and to put it together again.

    The loop carries leaves, with random keys as their data. For what a step returns JAX walks
    through the tree and makes an object of each typed key, all in Python: of a fast step that is a
    tenth. Here it is done when somebody looks at the state.

    Attributes:
        tree: The structure.
        keys: By leaf, the implementation of its random keys; None if it has none.
    """

    tree: Any
    keys: tuple[Any, ...]

    @classmethod
    def of(cls, state: TrainState) -> Form:
        """That of a state; traced or not."""
        leaves, tree = jax.tree.flatten(state)
        return cls(tree, tuple(jax.random.key_impl(x) if is_key(x) else None for x in leaves))

    def leaves(self, state: TrainState) -> list[Any]:
        """Takes a state apart. The arrays are the same ones: those of its keys are in them."""
        return [
            leaf if key is None else jax.random.key_data(leaf)
            for leaf, key in zip(jax.tree.leaves(state), self.keys, strict=True)
        ]

    def state(self, leaves: list[Any]) -> TrainState:
        """Puts a state together, also one whose arrays were donated meanwhile."""
        found = [
            leaf if key is None else jax.random.wrap_key_data(leaf, impl=key)
            for leaf, key in zip(leaves, self.keys, strict=True)
        ]
        state: TrainState = jax.tree.unflatten(self.tree, found)
        return state
