"""What type checkers infer for training; run, too, so that the values are what was promised.

mypy and pyright check each `assert_type` here, and that each ignored error is one.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from typing import Any, assert_type

import pytest

from fitbus import (
    Applied,
    BatchEnd,
    EpochBegin,
    EpochEnd,
    History,
    Receipt,
    Run,
    RunHandle,
    Runs,
    SetLearningRate,
    StopTraining,
    Subscription,
    Trainer,
    TrainState,
)
from fitbus.control import Outcome
from fitbus.testing import toy_problem

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    problem = toy_problem(64)
    return Trainer(problem.task, problem.params)


async def test_a_run_gives_history_and_receipts(trainer: Trainer) -> None:
    """`trainer.run`, `run.subscribe`, `run.wait_for`, `run.send`, `run.post`, `run.wait`."""
    problem = toy_problem(64)
    run = trainer.run(problem.x, problem.y, batch_size=32, epochs=2)
    assert_type(run, Run[History])

    @run.on(EpochEnd)
    async def decide(event: EpochEnd) -> StopTraining | None:
        return StopTraining("enough") if event.epoch > 5 else None

    assert_type(run.subscribe(EpochEnd, BatchEnd), Subscription[EpochEnd | BatchEnd])
    receipt = run.post(SetLearningRate(0.05))
    assert_type(receipt, Receipt)
    async with run as entered, run.subscribe(EpochBegin) as begins:
        assert_type(entered, Run[History])
        assert_type(begins, Subscription[EpochBegin])
        applied = await receipt
        assert_type(applied, Applied)
        assert type(applied) is Applied
        assert_type(receipt.outcome, Outcome | None)
        assert_type(await run.snapshot(), TrainState)
        history = await run.wait()
        assert_type(history, History)
    assert type(history) is History
    assert await decide(EpochEnd(logs={})) is None


async def test_sending_gives_what_was_applied(trainer: Trainer) -> None:
    problem = toy_problem(64)
    async with trainer.run(problem.x, problem.y, epochs=1_000_000) as run:
        event = await run.wait_for(EpochEnd)
        assert_type(event, EpochEnd)
        either = await run.wait_for(EpochEnd, BatchEnd)
        assert_type(either, EpochEnd | BatchEnd)
        applied = await run.send(StopTraining("seen enough"), timeout=30)
        assert_type(applied, Applied)
        assert type(applied) is Applied


async def test_the_three_calls_give_history_logs_and_outputs(trainer: Trainer) -> None:
    problem = toy_problem(64)
    history = await trainer.fit(problem.x, problem.y, batch_size=32)
    assert_type(history, History)
    assert_type(history.history, dict[str, list[float]])
    logs = await trainer.evaluate(problem.x, problem.y)
    assert_type(logs, dict[str, float])
    outputs = await trainer.predict(problem.x)
    assert_type(outputs, Any)
    assert_type(trainer.state, TrainState)
    assert type(history) is History
    assert sorted(logs) == ["loss", "mean_absolute_error"]
    assert outputs.shape == (64,)


async def test_runs_hold_runs_of_fit(trainer: Trainer) -> None:
    problem = toy_problem(64)
    async with Runs() as runs:
        run = runs.start(trainer, problem.x, problem.y, epochs=1, run_id="one")
        assert_type(run, Run[History])
        assert_type(runs["one"], Run[History])
        assert type(await run.wait()) is History


async def test_a_run_is_a_handle_of_a_run(trainer: Trainer) -> None:
    problem = toy_problem(64)
    async with trainer.run(problem.x, problem.y, epochs=1) as run:
        handle: RunHandle = run
        assert isinstance(run, RunHandle)
        assert_type(await handle.wait_for(EpochEnd, timeout=60), EpochEnd)


def test_an_argument_that_does_not_exist_is_an_error_for_checkers(trainer: Trainer) -> None:
    """`trainer.run` and `Runs.start` know the arguments of `fit`, and their types."""
    x = toy_problem(64).x
    with pytest.raises(TypeError, match="epoch"):
        trainer.run(x, x, epoch=3)  # type: ignore[call-arg]  # it is `epochs`
    with pytest.raises(TypeError, match="epoch"):
        trainer.fit_sync(x, x, epoch=3)  # type: ignore[call-arg]  # it is `epochs`


def test_the_three_calls_for_scripts_give_the_same(trainer: Trainer) -> None:
    """And they know their arguments."""
    problem = toy_problem(64)
    assert_type(trainer.fit_sync(problem.x, problem.y, verbose="auto"), History)
    logs = trainer.evaluate_sync(problem.x, problem.y, batch_size=None)
    assert_type(logs, dict[str, float])
    assert sorted(logs) == ["loss", "mean_absolute_error"]
    outputs = trainer.predict_sync(problem.x, batch_size=16, verbose=0)
    assert_type(outputs, Any)
    with pytest.raises(TypeError, match="sample_weight"):
        trainer.predict_sync(problem.x, sample_weight=None)  # type: ignore[call-arg]  # evaluate's
