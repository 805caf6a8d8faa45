"""The network that several benchmarks train, by how long a step of it takes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fitbus

__all__ = ["FEATURES", "SIZES", "Built", "bare", "build", "epoch_s", "updating"]

# (width, batch size, steps) by how long a step takes, about, on two CPU cores.
SIZES = {
    "0.05 ms": (16, 32, 4000),
    "0.1 ms": (64, 96, 2000),
    "0.3 ms": (144, 96, 1000),
    "1 ms": (320, 128, 500),
    "5 ms": (768, 256, 100),
}
FEATURES = 64


class Built(NamedTuple):
    """A task, its parameters, and data."""

    task: fitbus.Supervised
    params: Any
    x: Any
    y: Any


def build(width: int, batch: int, steps: int, layers: int = 1) -> Built:
    """A network of so many hidden layers and one before them, and data for so many steps.

    Args:
        width: Units of each layer.
        batch: Examples in a batch.
        steps: Steps in an epoch; data that would take too much memory are used several times.
        layers: Layers of `width` times `width`.
    """
    random = np.random.default_rng(0)
    rows = min(batch * steps, 200_000 // batch * batch)
    x = random.normal(size=(rows, FEATURES)).astype(np.float32)
    y = random.integers(0, 10, rows).astype(np.int32)
    params: dict[str, Any] = {
        "first": random.normal(size=(FEATURES, width)).astype(np.float32) / 8,
        "last": random.normal(size=(width, 10)).astype(np.float32) / width**0.5,
    }
    for i in range(layers):
        weights = random.normal(size=(width, width)).astype(np.float32) / width**0.5
        params[f"hidden{i}"] = weights

    def apply(params: Any, x: Any) -> Any:
        x = jax.nn.relu(x @ params["first"])
        for i in range(layers):
            x = jax.nn.relu(x @ params[f"hidden{i}"])
        return x @ params["last"]

    task = fitbus.Supervised(
        apply=apply,
        loss=optax.softmax_cross_entropy_with_integer_labels,
        optimizer=optax.sgd,
        learning_rate=0.01,
        metrics={"accuracy": lambda p, y: (p.argmax(-1) == y).astype(jnp.float32)},
    )
    return Built(task, params, x, y)


def updating(task: fitbus.Supervised, batch: int) -> Callable[[Any, Any, Any], Any]:
    """What the step of a loop by hand does: `(state, x, y) -> (state, metrics)`."""
    ones = np.ones(batch, np.float32)

    def update(state: Any, x: Any, y: Any) -> Any:
        state, metrics = task.train_step(state, fitbus.Batch(x, y, ones))
        return dataclasses.replace(state, step=state.step + 1), metrics

    return update


def bare(built: Built, batch: int, steps: int) -> Callable[[], float]:
    """A plain loop over the jitted, donating step, nothing read back: gives seconds a step."""
    task, params, x, y = built
    trainer = fitbus.Trainer(task, params)
    starts = range(0, len(x), batch)
    step = jax.jit(updating(task, batch), donate_argnums=0)

    def measure() -> float:
        state = jax.tree.map(jnp.copy, trainer.state)
        started = time.perf_counter()
        for i in range(steps):
            at = starts[i % len(starts)]
            state, _ = step(state, x[at : at + batch], y[at : at + batch])
        jax.block_until_ready(state)
        return (time.perf_counter() - started) / steps

    measure()  # compiles
    return measure


async def epoch_s(run: fitbus.Run[Any]) -> float:
    """Carries a run of one epoch out; gives the seconds between its begin and its end."""
    times: list[float] = []
    run.add(lambda event: times.append(time.perf_counter()), fitbus.EpochBegin)
    run.add(lambda event: times.append(time.perf_counter()), fitbus.EpochEnd)
    async with run:
        await run.wait()
    return times[1] - times[0]
