"""The shortest way through everything."""

from __future__ import annotations

import pytest

import fitbus
from fitbus.testing import EventRecorder, toy_problem

pytestmark = pytest.mark.anyio


async def test_a_fit_publishes_its_life_in_order() -> None:
    problem = toy_problem(64)
    recorder = EventRecorder()
    trainer = fitbus.Trainer(problem.task, problem.params)
    await trainer.fit(problem.x, problem.y, batch_size=32, callbacks=[recorder])
    batch = ["BatchBegin", "BatchEnd"]
    assert recorder.names == ["TrainBegin", "EpochBegin", *batch, *batch, "EpochEnd", "TrainEnd"]
    assert [event.seq for event in recorder.events] == list(range(8))
