"""Shows a task with running statistics and dropout: state besides parameters, and fresh keys.

Batch normalization keeps running means and variances, which no gradient changes: they are in the
state's `extra`. Dropout needs another random key each step, which `state.key` and `state.step`
give: so a run can be repeated, and a snapshot holds all of it.

    python -m fitbus.examples.batch_statistics
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, final

import anyio
import jax
import jax.numpy as jnp
import numpy as np
import optax

import fitbus
from fitbus.train import Metrics

Params = dict[str, jax.Array]
MOMENTUM = 0.9  # how much of the old statistics a step keeps
DROPPED = 0.2  # the fraction of hidden units that dropout silences


class Statistics(NamedTuple):
    """What the hidden layer's activations look like, by unit; each of shape (units,)."""

    mean: jax.Array
    variance: jax.Array


@final
class Normalized:
    """A regression by one hidden layer with batch normalization and dropout.

    Args:
        units: Of the hidden layer.
    """

    def __init__(self, units: int = 32) -> None:
        self.units = units
        self.optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=0.01)

    def init(self, params: Params, key: jax.Array) -> fitbus.TrainState:
        """The first state, with the statistics of nothing."""
        return fitbus.TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=self.optimizer.init(params),
            key=key,
            extra=Statistics(jnp.zeros(self.units), jnp.ones(self.units)),
        )

    def train_step(
        self, state: fitbus.TrainState, batch: fitbus.Batch
    ) -> tuple[fitbus.TrainState, Metrics]:
        """Normalizes by the batch, drops units, and moves the running statistics."""
        # The key itself stays as it is; folding the step in gives each step one of its own.
        key = jax.random.fold_in(state.key, state.step)

        def objective(params: Params) -> tuple[jax.Array, Statistics]:
            hidden = batch.x @ params["w1"]
            of_batch = _statistics(hidden, batch.weight)
            active = _activate(params, hidden, of_batch)
            kept = jax.random.bernoulli(key, 1 - DROPPED, active.shape)
            active = jnp.where(kept, active / (1 - DROPPED), 0)
            return _loss(_out(params, active), batch), of_batch

        (loss, of_batch), gradients = jax.value_and_grad(objective, has_aux=True)(state.params)
        updates, opt_state = self.optimizer.update(gradients, state.opt_state, state.params)
        new = dataclasses.replace(
            state,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            extra=jax.tree.map(_moved, state.extra, of_batch),
        )
        return new, {"loss": (loss, jnp.sum(batch.weight))}

    def eval_step(self, state: fitbus.TrainState, batch: fitbus.Batch) -> Metrics:
        """Normalizes by the running statistics, and drops nothing."""
        loss = _loss(self.predict_step(state, batch), batch)
        return {"loss": (loss, jnp.sum(batch.weight))}

    def predict_step(self, state: fitbus.TrainState, batch: fitbus.Batch) -> jax.Array:
        """The same: an example's prediction doesn't depend on its neighbours."""
        active = _activate(state.params, batch.x @ state.params["w1"], state.extra)
        return _out(state.params, active)


def _statistics(hidden: jax.Array, weight: jax.Array) -> Statistics:
    # Weighted: the rows that fill up a short batch have weight 0, and must not be counted.
    share = (weight / jnp.sum(weight))[:, None]
    mean = jnp.sum(share * hidden, axis=0)
    return Statistics(mean, jnp.sum(share * (hidden - mean) ** 2, axis=0))


def _moved(old: jax.Array, now: jax.Array) -> jax.Array:
    return MOMENTUM * old + (1 - MOMENTUM) * now


def _activate(params: Params, hidden: jax.Array, by: Statistics) -> jax.Array:
    normal = (hidden - by.mean) / jnp.sqrt(by.variance + 1e-5)
    return jax.nn.relu(normal * params["scale"] + params["shift"])


def _out(params: Params, active: jax.Array) -> jax.Array:
    return active @ params["w2"] + params["b2"]


def _loss(predictions: jax.Array, batch: fitbus.Batch) -> jax.Array:
    return jnp.sum(batch.weight * (predictions - batch.y) ** 2) / jnp.sum(batch.weight)


def build(units: int = 32, seed: int = 0) -> fitbus.Trainer:
    """A trainer for inputs of shape (examples, 4)."""
    first, second = jax.random.split(jax.random.key(seed))
    params = {
        "w1": jax.random.normal(first, (4, units)) / 2,  # no bias: `shift` is one
        "scale": jnp.ones(units),
        "shift": jnp.zeros(units),
        "w2": jax.random.normal(second, (units,)) / jnp.sqrt(units),
        "b2": jnp.zeros(()),
    }
    return fitbus.Trainer(Normalized(units), params, seed=seed)


def data(examples: int = 500) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Inputs far from normal, which is what the normalization is for; targets of (examples,)."""
    x = np.random.default_rng(0).normal(3, 2, size=(examples, 4)).astype(np.float32)
    return x, np.sin(x[:, 0]) + x[:, 1] / 2


async def show() -> tuple[fitbus.History, fitbus.TrainState]:
    """Trains; validation uses the running statistics."""
    x, y = data()
    trainer = build()
    history = await trainer.fit(x, y, batch_size=64, epochs=20, validation_split=0.2)
    return history, trainer.state


def main() -> None:
    """Runs it, and prints what became of the statistics."""
    history, state = anyio.run(show)
    for name in ("loss", "val_loss"):
        values = history.history[name]
        print(f"{name}: {values[0]:.3f} after one epoch, {values[-1]:.3f} after {len(values)}")
    mean, variance = (np.asarray(kept[:3]).round(2) for kept in state.extra)
    print(f"running means, from 0: {mean}...; running variances, from 1: {variance}...")


if __name__ == "__main__":
    main()
