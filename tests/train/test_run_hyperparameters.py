"""What the optimizer's hyperparameters are at present."""

from __future__ import annotations

import optax
import pytest

import fitbus
from fitbus.testing import toy_problem

pytestmark = pytest.mark.anyio
PROBLEM = toy_problem(64)


async def test_they_can_be_read_before_during_and_after_a_run() -> None:
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    run = trainer.run(PROBLEM.x, PROBLEM.y, batch_size=16, epochs=10_000)
    assert await run.hyperparameters() == {"learning_rate": pytest.approx(0.1)}
    async with run:
        await run.send(fitbus.SetLearningRate(0.5))
        assert await run.hyperparameters() == {"learning_rate": 0.5}
        await run.send(fitbus.StopTraining())
    assert await run.hyperparameters() == {"learning_rate": 0.5}


async def test_an_optimizer_that_keeps_none_has_none() -> None:
    task = fitbus.Supervised(
        apply=PROBLEM.task.apply, loss=PROBLEM.task.loss, optimizer=optax.sgd(0.1)
    )
    run = fitbus.Trainer(task, PROBLEM.params).run(PROBLEM.x, PROBLEM.y, epochs=1)
    assert await run.hyperparameters() == {}
