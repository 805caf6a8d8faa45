"""`steps_per_execution="auto"`: what it measures, and what it makes of it."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import pytest

import fitbus
from fitbus import BatchEnd, Event
from fitbus.errors import InvalidArgumentError
from fitbus.testing import EventRecorder
from fitbus.train._executions import Executions

from ._bad_input import refused
from ._spin import spin

MANY = 10**9
STEP_S = 0.005  # so long, there is nothing to save


@pytest.fixture
def anyio_backend() -> str:
    """One loop is enough: what is asked here is decided in the training thread."""
    return "asyncio"


def measured(executions: Executions, steps: int, *, exact: bool = False) -> int:
    """What it decides when executions have so many steps each, and take five milliseconds."""
    before = executions.steps
    executions.pause()
    end = time.perf_counter() + 0.2  # several times as long as it has to look
    while executions.steps == before and time.perf_counter() < end:
        executions.done(steps, exact=exact)
        spin(STEP_S)
    return executions.steps


def test_a_number_is_what_it_is() -> None:
    """Whatever is measured, and whoever is waited for."""
    for number in (1, 3, 100):
        executions = Executions(number)
        assert measured(executions, MANY) == number
        assert executions.size(exact=False) == executions.size(exact=True) == number


def test_slow_steps_stay_single() -> None:
    executions = Executions("auto")
    assert measured(executions, 1) == 1
    assert measured(executions, MANY) == 1  # it has decided


def test_fast_steps_are_fused_if_that_is_faster() -> None:
    """Up to 64; and decided once."""
    executions = Executions("auto")
    assert executions.steps == executions.size(exact=False) == 1
    assert measured(executions, MANY // 1000) == 64
    assert measured(executions, MANY) == 64
    assert measured(executions, 1) == executions.size(exact=False) == 64


def test_it_logs_what_it_decided(caplog: pytest.LogCaptureFixture) -> None:
    executions = Executions("auto")
    with caplog.at_level("INFO", "fitbus"):
        measured(executions, MANY // 1000)
        assert not caplog.messages
        measured(executions, MANY)
    (message,) = caplog.messages
    assert message.startswith("steps_per_execution='auto' is 64 from here on: a step took ")
    assert message.endswith(" with 64 fused")


def test_fast_steps_are_not_fused_if_that_is_no_faster() -> None:
    executions = Executions("auto")
    assert measured(executions, MANY) == 64
    assert measured(executions, 1) == 1
    assert measured(executions, MANY) == 1


def test_where_handlers_of_batches_are_waited_for_nothing_is_tried() -> None:
    """And of what was decided before, nothing is done."""
    executions = Executions("auto")
    assert measured(executions, MANY, exact=True) == 1
    assert measured(executions, MANY) == 64
    assert executions.size(exact=True) == 1
    assert executions.size(exact=False) == 64


class Counts:
    """The fastest of steps: adds 1, and tells so."""

    def train_step(self, state: fitbus.TrainState, batch: fitbus.Batch) -> Any:
        params = {"w": state.params["w"] + batch.x.sum()}
        return dataclasses.replace(state, params=params), {"count": params["w"]}

    def eval_step(self, state: fitbus.TrainState, batch: fitbus.Batch) -> Any:
        return {"count": state.params["w"]}

    def predict_step(self, state: fitbus.TrainState, batch: fitbus.Batch) -> Any:
        return batch.x


STEPS = 4000
ONE = [np.ones((1, 1), np.float32)]


def test_whatever_it_decides_every_step_is_told_of(compiled: list[str]) -> None:
    """Of a training that is long enough to try and to decide."""
    trainer = fitbus.Trainer(Counts(), {"w": np.float32(0)})
    recorder = EventRecorder()
    record = fitbus.handler(Event, wait=False)(recorder)
    options: Any = {"epochs": 2, "steps_per_epoch": STEPS, "steps_per_execution": "auto"}
    trainer.fit_sync(ONE, callbacks=[record], **options)
    assert [e.seq for e in recorder.events] == list(range(len(recorder.events)))
    ends = recorder.of(BatchEnd)
    assert [e.batch for e in ends] == [*range(STEPS)] * 2
    assert [e.step for e in ends] == [e.batch_logs["count"] for e in ends]
    assert [e.step for e in ends] == [*range(1, 2 * STEPS + 1)]
    assert compiled.count("jit(step)") == 1
    assert compiled.count("jit(steps)") <= 1


@pytest.mark.anyio
async def test_waiting_handlers_of_batches_see_single_steps(compiled: list[str]) -> None:
    """And what they return acts at their step."""
    trainer = fitbus.Trainer(Counts(), {"w": np.float32(0)})
    seen: list[float] = []

    def look(event: BatchEnd) -> fitbus.StopTraining | None:
        seen.append(float(run.state.params["w"]))
        return fitbus.StopTraining() if event.batch == 300 else None

    recorder = EventRecorder()
    run = trainer.run(
        ONE, steps_per_epoch=STEPS, steps_per_execution="auto", callbacks=[look, recorder]
    )
    async with run:
        pass
    assert seen == [*range(1, 302)]
    assert compiled.count("jit(steps)") == 0


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "autom", None, "8"])
def test_what_is_no_number_of_steps_is_refused(value: Any) -> None:
    trainer = fitbus.Trainer(Counts(), {"w": np.float32(0)})
    remedy = 'give a whole number of at least 1, or "auto"'
    with refused(InvalidArgumentError, "steps_per_execution", repr(value), remedy):
        trainer.fit_sync(ONE, steps_per_execution=value)
