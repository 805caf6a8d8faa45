"""Two optimizers, each with a learning rate of its own."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

import fitbus
from fitbus.errors import ControlRejectedError
from fitbus.examples.two_optimizers import CENTER, build, points, show

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def warm_trainer() -> fitbus.Trainer:
    """One, compiled, for the tests to which it doesn't matter what was learnt before."""
    trainer = build()
    trainer.fit_sync(points(128), batch_size=128)
    return trainer


def rates(state: fitbus.TrainState) -> dict[str, float]:
    """Both learning rates, as the optimizers' states have them."""
    return {
        name: float(value)
        for optimizer in state.opt_state.values()
        for name, value in optimizer.hyperparams.items()
    }


def moved(before: Any, after: Any) -> set[bool]:
    """For all leaves: whether it is another one."""
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return {not np.array_equal(old, new) for old, new in pairs}


async def test_one_player_is_calmed_and_the_points_made_come_to_lie_by_the_real_ones() -> None:
    shown = await show()
    assert rates(shown.state) == pytest.approx(
        {"generator_rate": 0.02, "discriminator_rate": 0.01}, rel=1e-6
    )
    assert shown.made.shape == (512, 2)
    np.testing.assert_allclose(shown.made.mean(0), CENTER, atol=0.5)


async def test_each_rate_is_set_by_its_name_and_acts_on_its_player_alone(
    warm_trainer: fitbus.Trainer,
) -> None:
    before = warm_trainer.state.params
    run = warm_trainer.run(points(256), batch_size=128)
    run.post(fitbus.SetHyperparameter("generator_rate", 0))
    run.post(fitbus.SetHyperparameter("discriminator_rate", 0.05))
    async with run:
        await run.wait()
    after = warm_trainer.state
    assert rates(after) == pytest.approx({"generator_rate": 0, "discriminator_rate": 0.05})
    assert moved(before["generator"], after.params["generator"]) == {False}
    assert moved(before["discriminator"], after.params["discriminator"]) == {True}


async def test_both_players_move_and_evaluation_has_the_names_of_training(
    warm_trainer: fitbus.Trainer,
) -> None:
    before = warm_trainer.state.params
    run = warm_trainer.run(points(256), batch_size=128, validation_data=(points(128),))
    run.post(fitbus.SetHyperparameter("generator_rate", 0.02))
    async with run:
        history = await run.wait()
    after = warm_trainer.state.params
    assert moved(before, after) == {True}
    names = ["discriminator_loss", "generator_loss"]
    assert sorted(history.history) == [*names, *(f"val_{name}" for name in names)]


async def test_a_rate_that_neither_has_is_rejected_with_the_names_there_are(
    warm_trainer: fitbus.Trainer,
) -> None:
    run = warm_trainer.run(points(128), epochs=0)
    receipt = run.post(fitbus.SetLearningRate(0.1))
    async with run:
        with pytest.raises(ControlRejectedError, match=r"\['discriminator_rate', 'generator_rate'"):
            await receipt
