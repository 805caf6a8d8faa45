"""An optimizer whose hyperparameters are in its state, where controls reach them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

__all__ = ["steerable"]

Factory = Callable[..., Any]  # of an optax.GradientTransformation


def steerable(factory: Factory, learning_rate: Any) -> optax.GradientTransformationExtraArgs:
    """Builds an optimizer from a factory such as `optax.adam`.

    Where the parameters have one type of at least 32 bits, all numbers that the factory takes can
    be set. Otherwise only the learning rate, kept in float32: Optax would round the others to the
    type of the first parameter (Adam's `b2` becomes 1 in bfloat16), and let them decide the types
    of the moments.

    Raises:
        TypeError: The factory takes no `learning_rate`.
    """
    others = [name for name in inspect.signature(factory).parameters if name != "learning_rate"]
    every = optax.inject_hyperparams(factory)(learning_rate=learning_rate)
    rate = optax.inject_hyperparams(factory, static_args=others, hyperparam_dtype=jnp.float32)(
        learning_rate=learning_rate
    )

    def chosen(tree: Any) -> optax.GradientTransformationExtraArgs:
        types = {leaf.dtype for leaf in jax.tree.leaves(tree)}
        is_plain = len(types) == 1 and types.pop().itemsize >= 4  # bytes, of float32
        return every if is_plain else rate

    def init(params: optax.Params) -> optax.OptState:
        return chosen(params).init(params)

    def update(
        updates: optax.Updates, state: optax.OptState, params: Any = None, **extra: Any
    ) -> tuple[optax.Updates, optax.OptState]:
        return chosen(updates).update(updates, state, params, **extra)  # type: ignore[no-any-return]  # optax has few types

    return optax.GradientTransformationExtraArgs(init, update)
