"""A plain `model.fit` in a thread takes controls."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.to_thread
import keras
import pytest

import fitbus
from fitbus import (
    BatchEnd,
    ControlApplied,
    ControlRejected,
    EpochBegin,
    ScaleLearningRate,
    SetLearningRate,
    StopTraining,
    TrainEnd,
)
from fitbus.errors import ControlRejectedError
from fitbus.keras import PublishEvents
from fitbus.testing import EventRecorder, Gate

from ._plain_fit import calls
from ._unmodified import Pair, dense

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("waiting", ["async", "def", "callback"])
async def test_handlers_control_what_keras_does(models: Pair, waiting: str) -> None:
    """A learning rate from EpochBegin on, and a stop: acknowledged, and told at the end."""

    def answer(event: EpochBegin) -> list[fitbus.Control]:
        if event.epoch == 1:
            return [ScaleLearningRate(0.5), StopTraining("seen enough")]
        return [SetLearningRate(0.5)]

    async def answer_async(event: EpochBegin) -> list[fitbus.Control]:
        return answer(event)

    recorder = EventRecorder()
    async with fitbus.Bus() as bus:
        bus.add(recorder)
        bus.add(answer_async if waiting == "async" else answer, EpochBegin)
        await calls(PublishEvents(bus), models.theirs, epochs=5)
    applied = [(event.control, event.step) for event in recorder.of(ControlApplied)]
    stop = StopTraining("seen enough")
    assert applied == [(SetLearningRate(0.5), 0), (ScaleLearningRate(0.5), 3), (stop, 3)]
    assert float(models.theirs.optimizer.learning_rate) == 0.25
    ended = recorder.of(TrainEnd)[0]
    assert (ended.reason, ended.detail, ended.step) == ("stopped", "seen enough", 4)
    assert ended.source.endswith(answer_async.__name__ if waiting == "async" else answer.__name__)


async def test_controls_of_tasks_and_threads_are_acknowledged(models: Pair) -> None:
    """From the loop and from a worker, while Keras trains; the weights tell that they acted."""
    gate = Gate()

    def holds(event: BatchEnd) -> None:
        if event.step == 1:
            gate.pass_sync()

    async with fitbus.Bus() as bus:
        bus.add(holds)
        events = PublishEvents(bus)
        async with anyio.create_task_group() as group:
            group.start_soon(calls, events, models.theirs)
            await gate.wait_arrived()
            rate = events.post(SetLearningRate(0.125), "task")
            stop = await anyio.to_thread.run_sync(events.post, StopTraining("thread"), "thread")
            gate.open()
            assert (await rate.wait(30)).step == (await stop.wait(30)).step == 1
    assert float(models.theirs.optimizer.learning_rate) == 0.125
    assert int(models.theirs.optimizer.iterations) == 1


async def test_a_control_sent_before_the_fit_acts_in_it_and_after_it_is_too_late(
    models: Pair,
) -> None:
    """Keras itself forgets a stop that was set before `fit`."""
    async with fitbus.Bus() as bus:
        events = PublishEvents(bus)
        stop = events.post(StopTraining())
        await calls(events, models.theirs, epochs=5)
        assert (await stop.wait(30)).step == 0
        assert int(models.theirs.optimizer.iterations) == 1
        with pytest.raises(ControlRejectedError, match="too late"):
            await events.post(StopTraining()).wait(30)
        await calls(events, models.theirs)
    assert int(models.theirs.optimizer.iterations) == 4


async def test_a_stop_ends_evaluations_and_predictions(models: Pair) -> None:
    """At the first batch."""
    async with fitbus.Bus() as bus:
        for call in ("evaluate", "predict"):
            recorder, events = EventRecorder(), PublishEvents(bus)
            subscription = bus.add(recorder)
            events.post(StopTraining())
            await calls(events, models.theirs, call)
            assert sum("BatchEnd" in name for name in recorder.names) == 1
            subscription.cancel()


async def test_other_controls_are_rejected_with_what_takes_them(models: Pair) -> None:
    """And training goes on."""
    recorder = EventRecorder()
    async with fitbus.Bus() as bus:
        bus.add(recorder)
        events = PublishEvents(bus)
        receipts = [events.post(fitbus.Pause()), events.post(fitbus.Evaluate())]
        await calls(events, models.theirs)
        for receipt in receipts:
            with pytest.raises(ControlRejectedError, match=r"fitbus\.keras\.KerasTask\(model\)"):
                await receipt.wait(30)
    assert len(recorder.of(ControlRejected)) == 2
    assert recorder.of(TrainEnd)[0].reason == "completed"


async def test_a_learning_rate_with_a_schedule_is_rejected() -> None:
    """With Keras' own words."""
    optimizers: Any = keras.optimizers
    model = dense(optimizers.SGD(optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)))
    async with fitbus.Bus() as bus:
        events = PublishEvents(bus)
        receipt = events.post(SetLearningRate(0.5))
        await calls(events, model)
        with pytest.raises(ControlRejectedError, match="LearningRateSchedule"):
            await receipt.wait(30)
