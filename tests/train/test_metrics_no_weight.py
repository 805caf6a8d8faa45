"""Data whose weights are all zero: no loss, no best, and no harm to the parameters."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
import optax
import pytest

import fitbus
from fitbus import BatchEnd, TestEnd
from fitbus.callbacks import EarlyStopping
from fitbus.testing import EventRecorder, toy_problem

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """One loop is enough: what steps compute has nothing to do with it."""
    return "asyncio"


PROBLEM = toy_problem(16, 2)
X, Y = PROBLEM.x, PROBLEM.y
TASK = fitbus.Supervised(
    PROBLEM.task.apply,
    PROBLEM.task.loss,
    optax.adam,
    0.1,
    metrics={"error": lambda predictions, y: abs(predictions - y)},
)
TRAINER = fitbus.Trainer(TASK, PROBLEM.params)
NOTHING = np.zeros(16, np.float32)


async def test_validation_without_weight_has_no_loss_and_no_best() -> None:
    stopping, recorder = EarlyStopping("val_loss", patience=9), EventRecorder()
    history = await TRAINER.fit(
        X, Y, epochs=2, validation_data=[(X, Y, NOTHING)], callbacks=[stopping, recorder]
    )
    for name in ("loss", "error"):
        assert np.isnan(history.history[f"val_{name}"]).all()
        assert np.isnan([end.logs[name] for end in recorder.of(TestEnd)]).all()
        assert np.isfinite(history.history[name]).all()
    assert stopping.best is None


async def test_batches_without_weight_change_nothing_but_their_logs() -> None:
    """Not the parameters, by a NaN; and not the means, once there is something to weigh."""
    batches: Any = [(X[:8], Y[:8], NOTHING[:8]), (X[8:], Y[8:]), (X[:8], Y[:8], NOTHING[:8])]
    recorder = EventRecorder()

    @fitbus.handler(BatchEnd, wait=False)
    def keep(event: BatchEnd) -> None:
        recorder(event)

    await TRAINER.fit(batches, callbacks=[keep])
    ends = recorder.of(BatchEnd)
    assert [math.isnan(end.batch_logs["loss"]) for end in ends] == [True, False, True]
    assert [math.isnan(end.logs["loss"]) for end in ends] == [True, False, False]
    assert ends[1].logs == ends[1].batch_logs == ends[2].logs
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(TRAINER.state.params))


async def test_an_evaluation_without_weight_is_nan() -> None:
    logs = await TRAINER.evaluate([(X, Y, NOTHING)])
    assert all(math.isnan(value) for value in logs.values())
    assert sorted(logs) == ["error", "loss"]
