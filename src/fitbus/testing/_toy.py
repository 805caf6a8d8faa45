"""A problem that is solved in two seconds."""

from __future__ import annotations

import dataclasses
from typing import Any, final

import jax.numpy as jnp
import numpy as np
import optax

from fitbus.train import Supervised

__all__ = ["ToyProblem", "toy_problem"]


@final
@dataclasses.dataclass(frozen=True)
class ToyProblem:
    """A linear regression with a known answer.

    Attributes:
        x: float32 of shape (examples, features).
        y: float32 of shape (examples,).
        params: `w` of shape (features,) and `b` of shape (), all zeros.
        task: Squared error, mean absolute error, and stochastic gradient descent.
        answer: The parameters that the data were made with.
    """

    x: np.ndarray[Any, Any]
    y: np.ndarray[Any, Any]
    params: dict[str, np.ndarray[Any, Any]]
    task: Supervised
    answer: dict[str, np.ndarray[Any, Any]]


def toy_problem(
    examples: int = 256, features: int = 8, *, learning_rate: float = 0.1, seed: int = 0
) -> ToyProblem:
    """Makes one; the same one for the same arguments.

    Args:
        examples: How many examples.
        features: How many features.
        learning_rate: Of the optimizer, which controls can steer.
        seed: Of the data.
    """
    random = np.random.default_rng(seed)
    x = random.normal(size=(examples, features)).astype(np.float32)
    answer: dict[str, np.ndarray[Any, Any]] = {
        "w": random.normal(size=features).astype(np.float32),
        "b": np.asarray(random.normal(), np.float32),
    }
    noise = 0.01 * random.normal(size=examples).astype(np.float32)
    task = Supervised(
        apply=lambda params, inputs: inputs @ params["w"] + params["b"],
        loss=lambda predictions, targets: (predictions - targets) ** 2,
        optimizer=optax.sgd,
        learning_rate=learning_rate,
        metrics={
            "mean_absolute_error": lambda predictions, targets: jnp.abs(predictions - targets)
        },
    )
    return ToyProblem(
        x=x,
        y=x @ answer["w"] + answer["b"] + noise,
        params={"w": np.zeros(features, np.float32), "b": np.zeros((), np.float32)},
        task=task,
        answer=answer,
    )
