"""Accumulated gradients give what one big batch gives."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitbus
from fitbus.examples.accumulated_gradients import Accumulated, show

pytestmark = pytest.mark.anyio

PARAMS = {"w": jnp.zeros(4), "b": jnp.zeros(())}


def data(examples: int) -> tuple[Any, Any]:
    random = np.random.default_rng(1)
    x = random.normal(size=(examples, 4)).astype(np.float32)
    return x, x.sum(1) + 1


def assert_close(found: Any, expected: Any) -> None:
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5)


async def test_four_batches_of_16_update_as_one_of_64() -> None:
    at_once, in_parts = await show()
    assert (int(at_once.step), int(in_parts.step)) == (80, 320)
    assert_close(in_parts.params, at_once.params)
    assert float(jnp.abs(at_once.params["w"]).min()) > 0.5  # it has learnt something


async def test_it_equals_supervised_on_the_big_batch_with_weights_and_a_short_last_batch() -> None:
    """120 examples: batches of 64 and 56, or seven of 16 and one of 8."""
    x, y = data(120)
    weight = np.linspace(0.5, 2, 120, dtype=np.float32)
    big = fitbus.Trainer(
        fitbus.Supervised(
            apply=lambda params, x: x @ params["w"] + params["b"],
            loss=lambda predictions, y: (predictions - y) ** 2,
            optimizer=optax.adam,
            learning_rate=0.1,
        ),
        PARAMS,
    )
    small = fitbus.Trainer(Accumulated(every=4, learning_rate=0.1), PARAMS)
    expected = await big.fit(x, y, batch_size=64, epochs=3, sample_weight=weight)
    found = await small.fit(x, y, batch_size=16, epochs=3, sample_weight=weight)
    assert_close(small.state.params, big.state.params)
    assert found.history["loss"] == pytest.approx(expected.history["loss"], rel=1e-5)
    logs = await small.evaluate(x, y)
    assert logs == pytest.approx(await big.evaluate(x, y), rel=1e-5)


async def test_sums_wait_in_extra_until_they_are_due_also_over_two_fits() -> None:
    x, y = data(64)
    trainer = fitbus.Trainer(Accumulated(every=4, learning_rate=0.1), PARAMS)
    await trainer.fit(x[:48], y[:48], batch_size=16)
    waiting = trainer.state
    assert waiting.params["w"].tolist() == [0] * 4
    assert float(waiting.extra.weight) == 48
    assert jnp.abs(waiting.extra.gradients["w"]).min() > 0
    await trainer.fit(x[48:], y[48:], batch_size=16)
    updated = trainer.state
    assert jnp.abs(updated.params["w"]).min() > 0
    assert float(updated.extra.weight) == 0
    assert updated.extra.gradients["w"].tolist() == [0] * 4

    run = trainer.run(x, y, epochs=0)
    receipt = run.post(fitbus.SetLearningRate(0.25))
    async with run:
        await receipt
    assert float(trainer.state.opt_state.hyperparams["learning_rate"]) == 0.25
