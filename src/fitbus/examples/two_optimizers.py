"""Shows a task with two optimizers, each steered by itself: a generator against a discriminator.

Parameters and optimizer states are pytrees, so a task may keep two of each under names. Their
learning rates have names of their own too: `SetHyperparameter` then reaches one of them, where
`SetLearningRate` would set every `learning_rate` that it finds.

    python -m fitbus.examples.two_optimizers
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, final

import anyio
import jax
import jax.numpy as jnp
import numpy as np
import optax

import fitbus
from fitbus.train import Metrics

Array = np.ndarray[Any, Any]
Player = dict[str, jax.Array]
CENTER = (2.0, -1.0)  # of the points that the generator learns to imitate
CALM = 10  # the epoch at whose end the discriminator is slowed down


# `inject_hyperparams` calls a hyperparameter what the factory calls its argument.
def _generator_adam(generator_rate: Any) -> optax.GradientTransformation:
    return optax.adam(generator_rate, b1=0.5)


def _discriminator_adam(discriminator_rate: Any) -> optax.GradientTransformation:
    return optax.adam(discriminator_rate, b1=0.5)


@final
class Adversarial:
    """Two players: one makes points from noise, the other tells them from real ones."""

    def __init__(self) -> None:
        self.optimizers: Mapping[str, optax.GradientTransformation] = {
            "generator": optax.inject_hyperparams(_generator_adam)(generator_rate=0.02),
            "discriminator": optax.inject_hyperparams(_discriminator_adam)(discriminator_rate=0.02),
        }

    def init(self, params: Mapping[str, Player], key: jax.Array) -> fitbus.TrainState:
        """The first state: `params` has the players' parameters under the same two names."""
        return fitbus.TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state={name: self.optimizers[name].init(params[name]) for name in self.optimizers},
            key=key,
        )

    def train_step(
        self, state: fitbus.TrainState, batch: fitbus.Batch
    ) -> tuple[fitbus.TrainState, Metrics]:
        """Both players move at once, each against what the other was before."""
        noise = _noise(state, batch)
        moves = {name: self._move(name, state, batch, noise) for name in self.optimizers}
        new = dataclasses.replace(
            state,
            params={name: move.params for name, move in moves.items()},
            opt_state={name: move.opt_state for name, move in moves.items()},
        )
        weight = jnp.sum(batch.weight)
        return new, {f"{name}_loss": (move.loss, weight) for name, move in moves.items()}

    def eval_step(self, state: fitbus.TrainState, batch: fitbus.Batch) -> Metrics:
        """Both losses, under the names of training."""
        losses = _losses(state.params, batch, _noise(state, batch))
        return {f"{name}_loss": (losses[name], jnp.sum(batch.weight)) for name in self.optimizers}

    def predict_step(self, state: fitbus.TrainState, batch: fitbus.Batch) -> jax.Array:
        """Points of shape (batch, 2), made of the noise that is `batch.x`."""
        return _generate(state.params["generator"], batch.x)

    def _move(
        self, name: str, state: fitbus.TrainState, batch: fitbus.Batch, noise: jax.Array
    ) -> _Move:
        own, opt_state = state.params[name], state.opt_state[name]

        def objective(own: Player) -> jax.Array:
            # Differentiated by a player's own parameters: the other's are constants here.
            return _losses({**state.params, name: own}, batch, noise)[name]

        loss, gradients = jax.value_and_grad(objective)(own)
        updates, opt_state = self.optimizers[name].update(gradients, opt_state, own)
        return _Move(optax.apply_updates(own, updates), opt_state, loss)


class _Move(NamedTuple):
    params: Any
    opt_state: Any
    loss: jax.Array


def _noise(state: fitbus.TrainState, batch: fitbus.Batch) -> jax.Array:
    return jax.random.normal(jax.random.fold_in(state.key, state.step), batch.x.shape)


def _losses(
    params: Mapping[str, Player], batch: fitbus.Batch, noise: jax.Array
) -> dict[str, jax.Array]:
    real = _judge(params["discriminator"], batch.x)
    made = _judge(params["discriminator"], _generate(params["generator"], noise))
    by_player = {
        "generator": jax.nn.softplus(-made),
        "discriminator": jax.nn.softplus(-real) + jax.nn.softplus(made),
    }
    share = batch.weight / jnp.sum(batch.weight)
    return {name: jnp.sum(share * losses) for name, losses in by_player.items()}


def _generate(params: Player, noise: jax.Array) -> jax.Array:
    return noise @ params["w"] + params["b"]


def _judge(params: Player, points: jax.Array) -> jax.Array:
    """How real points look: positive for real, of shape (batch,)."""
    hidden = jnp.tanh(points @ params["w1"] + params["b1"])
    return hidden @ params["w2"] + params["b2"]


def build(seed: int = 0) -> fitbus.Trainer:
    """A trainer for points of shape (examples, 2)."""
    first, second = jax.random.split(jax.random.key(seed))
    generator = {"w": jnp.eye(2), "b": jnp.zeros(2)}
    discriminator = {
        "w1": jax.random.normal(first, (2, 16)),
        "b1": jnp.zeros(16),
        "w2": jax.random.normal(second, (16,)) / 4,
        "b2": jnp.zeros(()),
    }
    params = {"generator": generator, "discriminator": discriminator}
    return fitbus.Trainer(Adversarial(), params, seed=seed)


def points(examples: int = 1024) -> Array:
    """The real ones, of shape (examples, 2)."""
    random = np.random.default_rng(0)
    return random.normal(CENTER, 0.5, size=(examples, 2)).astype(np.float32)


# A waiting `def` handler: the rate changes at the same step in every run of the program.
def calm_the_discriminator(event: fitbus.EpochEnd) -> fitbus.SetHyperparameter | None:
    """Slows one player down, and leaves the other one alone."""
    return fitbus.SetHyperparameter("discriminator_rate", 0.01) if event.epoch == CALM else None


class Shown(NamedTuple):
    """What `show` found."""

    state: fitbus.TrainState
    made: Array


async def show() -> Shown:
    """Trains without targets, then makes points."""
    trainer = build()
    await trainer.fit(points(), batch_size=128, epochs=40, callbacks=[calm_the_discriminator])
    noise = np.random.default_rng(1).normal(size=(512, 2)).astype(np.float32)
    return Shown(trainer.state, await trainer.predict(noise, batch_size=512))


def main() -> None:
    """Runs it, and prints where the points lie."""
    shown = anyio.run(show)
    print(f"the points made lie about {shown.made.mean(0).round(2)}, the real ones about {CENTER}")
    for player, optimizer in shown.state.opt_state.items():
        (rate,) = optimizer.hyperparams.values()
        print(f"the learning rate of the {player} is {rate:.4f}")


if __name__ == "__main__":
    main()
