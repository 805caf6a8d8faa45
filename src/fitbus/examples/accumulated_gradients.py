"""Shows a task of one's own: gradients of several batches add up to one optimizer update.

For batches that are wanted larger than they fit into memory. The sums are kept in the state's
`extra`, so they are donated, copied and sharded like the rest of it. `optax.MultiSteps` averages
the gradients of batches; this task weights them by example, so that a short batch counts for what
it is.

    python -m fitbus.examples.accumulated_gradients
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


class Sums(NamedTuple):
    """What has been gathered since the last update.

    Attributes:
        gradients: Sums over examples, a pytree like the parameters.
        weight: How much they weigh together: float32 of shape ().
    """

    gradients: Any
    weight: Any


@final
class Accumulated:
    """Linear regression with one update for every so many batches.

    Args:
        every: Batches for one update.
        learning_rate: At the start; `SetLearningRate` changes it.
    """

    def __init__(self, every: int, learning_rate: float) -> None:
        self.every = every
        # Hyperparameters in the optimizer's state are what controls can reach.
        self.optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=learning_rate)

    def init(self, params: Params, key: jax.Array) -> fitbus.TrainState:
        """The first state. Without `extra` a task needs no `init`: `optimizer` would do."""
        return fitbus.TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=self.optimizer.init(params),
            key=key,
            extra=_nothing(params),
        )

    def train_step(
        self, state: fitbus.TrainState, batch: fitbus.Batch
    ) -> tuple[fitbus.TrainState, Metrics]:
        """Adds a batch; every so often, updates. `state.step` counts the batches."""
        loss, gradients = jax.value_and_grad(_summed_loss)(state.params, batch)
        sums = Sums(
            jax.tree.map(jnp.add, state.extra.gradients, gradients),
            state.extra.weight + jnp.sum(batch.weight),
        )
        gathered = dataclasses.replace(state, extra=sums)
        # Both branches are compiled, once, and only one of them runs.
        is_due = (state.step + 1) % self.every == 0
        new: fitbus.TrainState = jax.lax.cond(is_due, self._update, _as_it_is, gathered)
        return new, _metrics(loss, batch)

    def eval_step(self, state: fitbus.TrainState, batch: fitbus.Batch) -> Metrics:
        """The loss."""
        return _metrics(_summed_loss(state.params, batch), batch)

    def predict_step(self, state: fitbus.TrainState, batch: fitbus.Batch) -> jax.Array:
        """One number for each example."""
        return _apply(state.params, batch.x)

    def _update(self, state: fitbus.TrainState) -> fitbus.TrainState:
        sums: Sums = state.extra

        # Sums of batches add up where means don't: only here are they divided, by all the weight.
        def mean(leaf: jax.Array) -> jax.Array:
            return jnp.divide(leaf, sums.weight)

        gradients = jax.tree.map(mean, sums.gradients)
        updates, opt_state = self.optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return dataclasses.replace(
            state, params=params, opt_state=opt_state, extra=_nothing(state.params)
        )


def _as_it_is(state: fitbus.TrainState) -> fitbus.TrainState:
    return state


def _nothing(params: Params) -> Sums:
    return Sums(jax.tree.map(jnp.zeros_like, params), jnp.zeros(()))


def _apply(params: Params, x: jax.Array) -> jax.Array:
    return x @ params["w"] + params["b"]


def _summed_loss(params: Params, batch: fitbus.Batch) -> jax.Array:
    # The rows that fill up a short batch have weight 0: they add nothing.
    return jnp.sum(batch.weight * (_apply(params, batch.x) - batch.y) ** 2)


def _metrics(loss: jax.Array, batch: fitbus.Batch) -> Metrics:
    # A pair (value, weight): the running mean over the epoch weights batches by it.
    weight = jnp.sum(batch.weight)
    return {"loss": (loss / weight, weight)}


async def show() -> tuple[fitbus.TrainState, fitbus.TrainState]:
    """Trains on 64 examples at once, and on four times 16; returns both states."""
    random = np.random.default_rng(0)
    x = random.normal(size=(256, 4)).astype(np.float32)
    y = x @ np.array([1, -2, 3, -4], np.float32) + 1
    params = {"w": jnp.zeros(4), "b": jnp.zeros(())}
    at_once = fitbus.Trainer(Accumulated(every=1, learning_rate=0.1), params)
    in_parts = fitbus.Trainer(Accumulated(every=4, learning_rate=0.1), params)
    # Shuffled alike, since both have the same seed: four batches of 16 are one of 64.
    await at_once.fit(x, y, batch_size=64, epochs=20)
    await in_parts.fit(x, y, batch_size=16, epochs=20)
    return at_once.state, in_parts.state


def main() -> None:
    """Runs it, and prints both results."""
    at_once, in_parts = anyio.run(show)
    for name, state in (("at once ", at_once), ("in parts", in_parts)):
        print(f"{name}: {state.step} batches, w {np.asarray(state.params['w']).round(5)}")


if __name__ == "__main__":
    main()
