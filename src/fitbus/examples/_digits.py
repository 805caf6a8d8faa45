"""Real handwritten digits, and a network that learns them: for `demo` and the services."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fitbus

__all__ = ["Digits", "digits", "digits_trainer"]

Array = np.ndarray[Any, Any]
Params = list[dict[str, jax.Array]]
SIZES = (64, 512, 512, 10)


def digits_trainer(learning_rate: float) -> fitbus.Trainer:
    """A trainer of that network, before its first step."""
    task = fitbus.Supervised(
        apply=apply,
        loss=optax.softmax_cross_entropy_with_integer_labels,
        optimizer=optax.adam,
        learning_rate=learning_rate,
        metrics={"accuracy": accuracy},
    )
    return fitbus.Trainer(task, parameters())


class Digits(NamedTuple):
    """Images of shape (n, 64) from 0 to 1, and which digits they are."""

    train: tuple[Array, Array]
    held_out: tuple[Array, Array]
    test: tuple[Array, Array]


def digits() -> Digits:
    """The 1,797 images of 8 by 8 that scikit-learn brings, split at random but always alike."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    x, y = (images / 16).astype(np.float32), labels.astype(np.int32)
    split = cast("Callable[..., Any]", functools.partial(train_test_split, random_state=0))
    x, x_test, y, y_test = split(x, y, test_size=360, stratify=y)
    x, x_held, y, y_held = split(x, y, test_size=237, stratify=y)
    return Digits((x, y), (x_held, y_held), (x_test, y_test))


def parameters() -> Params:
    """A network with two hidden layers."""
    keys = jax.random.split(jax.random.key(0), len(SIZES))
    return [
        {"w": jax.random.normal(key, (n, m)) * np.sqrt(2 / n), "b": jnp.zeros(m)}
        for key, n, m in zip(keys, SIZES, SIZES[1:], strict=False)
    ]


def apply(params: Params, x: jax.Array) -> jax.Array:
    """The network: ten scores for each image."""
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"]


def accuracy(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """A metric: 1 for each image that was recognised, else 0."""
    return (scores.argmax(-1) == labels).astype(jnp.float32)
