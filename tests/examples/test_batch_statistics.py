"""Running statistics move in training only, and dropout has another key each step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fitbus
from fitbus.callbacks import Callback, Logs
from fitbus.examples.batch_statistics import MOMENTUM, Normalized, build, data, show
from fitbus.train import Metrics

pytestmark = pytest.mark.anyio
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def warm_trainer() -> fitbus.Trainer:
    """One, compiled, for the tests to which it doesn't matter what was learnt before."""
    trainer = build()
    trainer.fit_sync(*data(64), batch_size=64)
    return trainer


async def test_statistics_move_by_momentum_towards_each_batchs_own(
    warm_trainer: fitbus.Trainer,
) -> None:
    """96 examples in batches of 64: the second one is filled up, and the filling isn't counted."""

    class FirstLayer(Callback):
        def __init__(self) -> None:
            self.weights: list[Array] = []

        def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
            self.weights.append(np.array(self.model.state.params["w1"]))

    x, y = data(96)
    layer, (mean, variance) = FirstLayer(), warm_trainer.state.extra
    await warm_trainer.fit(x, y, batch_size=64, shuffle=False, callbacks=[layer])
    for rows, w1 in zip((x[:64], x[64:]), layer.weights, strict=True):
        hidden = rows @ w1
        mean = MOMENTUM * mean + (1 - MOMENTUM) * hidden.mean(0)
        variance = MOMENTUM * variance + (1 - MOMENTUM) * hidden.var(0)
    np.testing.assert_allclose(warm_trainer.state.extra.mean, mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(warm_trainer.state.extra.variance, variance, rtol=1e-4)


async def test_evaluation_and_prediction_use_them_and_leave_them(
    warm_trainer: fitbus.Trainer,
) -> None:
    x, y = data(64)
    before = warm_trainer.state.extra
    logs = await warm_trainer.evaluate(x, y)
    together: Array = await warm_trainer.predict(x, batch_size=64)
    alone: Array = await warm_trainer.predict(x[:1])
    assert warm_trainer.state.extra.mean.tolist() == before.mean.tolist()
    assert warm_trainer.state.extra.variance.tolist() == before.variance.tolist()
    # An example's prediction doesn't depend on its neighbours, and nothing is dropped.
    np.testing.assert_allclose(alone[0], together[0], rtol=1e-5)
    assert logs["loss"] == pytest.approx(np.mean((together - y) ** 2), rel=1e-5)


def test_dropout_differs_by_step_and_by_seed_and_repeats_with_both() -> None:
    """One state, one batch: only what the key gives can differ."""
    x, y = data(32)
    batch = fitbus.Batch(x, y, np.ones(32, np.float32))
    state = build().state
    step: Callable[..., tuple[fitbus.TrainState, Metrics]] = jax.jit(Normalized().train_step)

    def loss(number: int, seed: int) -> float:
        there = dataclasses.replace(state, step=jnp.int32(number), key=jax.random.key(seed))
        new, metrics = step(there, batch)
        assert new.key == there.key  # it stays as it is
        return float(metrics["loss"][0])

    losses = [loss(number, seed) for seed in (0, 1) for number in range(3)]
    assert len(set(losses)) == 6
    assert losses == [loss(number, seed) for seed in (0, 1) for number in range(3)]


async def test_it_learns_in_training_and_by_its_running_statistics() -> None:
    history, state = await show()
    for name in ("loss", "val_loss"):
        assert history.history[name][-1] < history.history[name][0] / 2
    assert np.abs(state.extra.mean).max() > 1
    assert np.abs(np.asarray(state.extra.variance) - 1).max() > 1
