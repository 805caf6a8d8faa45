"""Rows whose target is their sum, and models of one layer that learn it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt

__all__ = ["one_layer", "sums"]

Array = npt.NDArray[np.float32]


def sums(rows: int, features: int = 4, seed: int = 0) -> tuple[Array, Array]:
    """Random rows, and a column with the sum of each."""
    x = np.random.default_rng(seed).normal(size=(rows, features)).astype(np.float32)
    return x, x.sum(axis=1, keepdims=True)


def one_layer(
    optimizer: Any = "sgd", *, features: int = 4, kernel: str = "zeros", **options: Any
) -> Any:
    """A compiled model, the same one each time."""
    made = keras.Sequential(
        [keras.Input((features,)), keras.layers.Dense(1, kernel_initializer=kernel)]
    )
    made.compile(optimizer, "mse", **options)
    return made
