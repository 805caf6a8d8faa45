"""The network that the callbacks of `keras_guide` watch: it learns to add sixteen numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fitbus

__all__ = ["build", "data", "hidden"]

Array = np.ndarray[Any, Any]
Params = list[tuple[jax.Array, jax.Array]]


def data(examples: int = 1000) -> tuple[Array, Array]:
    """Inputs of shape (examples, 16), and targets of shape (examples,)."""
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, size=(examples, 16)).astype(np.float32)
    return x, x.sum(1)


def build(seed: int = 0) -> fitbus.Trainer:
    """A network with one hidden layer, RMSprop, and the learning rate before the table's first."""
    first, second = jax.random.split(jax.random.key(seed))
    params = [
        (jax.random.normal(first, (16, 16)) / 4, jnp.zeros(16)),
        (jax.random.normal(second, (16, 1)) / 4, jnp.zeros(1)),
    ]
    task = fitbus.Supervised(
        apply=apply,
        loss=lambda predictions, y: (predictions - y) ** 2,
        optimizer=optax.rmsprop,
        learning_rate=0.1,
        metrics={"mean_absolute_error": error},
    )
    return fitbus.Trainer(task, params)


def error(predictions: jax.Array, y: jax.Array) -> jax.Array:
    """A metric: one value for each example."""
    return jnp.abs(predictions - y)


def apply(params: Params, x: jax.Array) -> jax.Array:
    """The network: one number for each example."""
    (w1, b1), (w2, b2) = params
    return (jax.nn.relu(x @ w1 + b1) @ w2 + b2)[:, 0]


def hidden(weights: Sequence[Array], x: Array) -> Array:
    """Its hidden layer, on the host: `get_weights()` lists w1, b1, w2, b2."""
    activations: Array = np.maximum(x @ weights[0] + weights[1], 0)
    return activations
