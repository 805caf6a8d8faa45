"""A loop by hand: its events in order, its controls acknowledged, on every way out."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import jax.numpy as jnp
import numpy as np
import pytest

import fitbus
from fitbus.errors import ControlRejectedError
from fitbus.examples.loop_by_hand import (
    BATCHES,
    EPOCHS,
    Steering,
    data,
    step,
    train,
    train_applying,
)
from fitbus.testing import EventRecorder

pytestmark = pytest.mark.anyio

EPOCH = ["EpochBegin", *["BatchEnd"] * BATCHES, "EpochEnd"]


def expected(rates: list[float]) -> Any:
    """The weights after one step at each of the rates."""
    x, y, _ = data()
    w = jnp.zeros(4)
    for number, rate in enumerate(rates):
        w, _ = step(w, rate, x[number % BATCHES], y[number % BATCHES])
    return np.asarray(w)


async def test_the_plain_form_publishes_in_order_with_the_true_places() -> None:
    recorder = EventRecorder()
    async with fitbus.Bus() as bus:
        bus.add(recorder)
        w = await anyio.to_thread.run_sync(train, bus.publisher())
    assert recorder.names == ["TrainBegin", *EPOCH * EPOCHS, "TrainEnd"]
    assert [event.seq for event in recorder.events] == list(range(len(recorder.events)))
    assert [(event.step, event.epoch, event.batch) for event in recorder.of(fitbus.BatchEnd)] == [
        (number + 1, number // BATCHES, number % BATCHES) for number in range(EPOCHS * BATCHES)
    ]
    (end,) = recorder.of(fitbus.TrainEnd)
    assert end.reason == "completed"
    assert end.logs == recorder.of(fitbus.EpochEnd)[-1].logs
    assert w.tobytes() == expected([0.01] * EPOCHS * BATCHES).tobytes()


async def test_a_control_acts_at_the_boundary_and_is_acknowledged_with_its_step() -> None:
    recorder = EventRecorder()

    def hurry(event: fitbus.EpochEnd) -> fitbus.SetLearningRate | None:
        return fitbus.SetLearningRate(0.1) if event.epoch == 0 else None

    async with fitbus.Bus() as bus:
        bus.add(recorder)
        bus.add(hurry, name="hurry")
        publisher = bus.publisher()
        first = publisher.post(fitbus.SetLearningRate(0.02), "before")
        w = await anyio.to_thread.run_sync(train, publisher)
        assert await first == fitbus.Applied(step=0, epoch=0)
    applied = recorder.of(fitbus.ControlApplied)
    assert [(event.source, event.step, event.epoch) for event in applied] == [
        ("before", 0, 0),
        ("hurry", BATCHES, 1),
    ]
    assert recorder.names[:4] == ["TrainBegin", "EpochBegin", "ControlApplied", "BatchEnd"]
    rates = [0.02] * BATCHES + [0.1] * (EPOCHS - 1) * BATCHES
    assert w.tobytes() == expected(rates).tobytes()


async def test_an_unknown_control_is_rejected_with_the_remedy_and_changes_nothing() -> None:
    async with fitbus.Bus() as bus:
        publisher = bus.publisher()
        receipt = publisher.post(fitbus.Pause())
        w = await anyio.to_thread.run_sync(train, publisher)
        with pytest.raises(ControlRejectedError, match="send SetLearningRate or StopTraining"):
            await receipt
        with pytest.raises(ControlRejectedError, match="too late"):
            await publisher.post(fitbus.SetLearningRate(0.1)).wait(5)
    assert w.tobytes() == expected([0.01] * EPOCHS * BATCHES).tobytes()


async def test_a_stop_ends_the_plain_form_before_its_next_step() -> None:
    recorder = EventRecorder()

    def halt(event: fitbus.BatchEnd) -> fitbus.StopTraining | None:
        return fitbus.StopTraining() if (event.epoch, event.batch) == (1, 2) else None

    async with fitbus.Bus() as bus:
        bus.add(recorder)
        bus.add(halt)
        publisher = bus.publisher()
        w = await anyio.to_thread.run_sync(train, publisher)
    assert publisher.step == BATCHES + 3
    assert recorder.names[-4:] == ["BatchEnd", "ControlApplied", "EpochEnd", "TrainEnd"]
    assert recorder.of(fitbus.TrainEnd)[0].reason == "stopped"
    assert w.tobytes() == expected([0.01] * (BATCHES + 3)).tobytes()


async def test_an_epoch_that_is_stopped_before_its_first_step_has_no_logs() -> None:
    recorder = EventRecorder()

    def halt(event: fitbus.EpochEnd) -> fitbus.StopTraining | None:
        return fitbus.StopTraining() if event.epoch == 0 else None

    async with fitbus.Bus() as bus:
        bus.add(recorder)
        bus.add(halt)
        await anyio.to_thread.run_sync(train, bus.publisher())
    assert recorder.names[-4:] == ["EpochBegin", "ControlApplied", "EpochEnd", "TrainEnd"]
    assert [list(event.logs) for event in recorder.of(fitbus.EpochEnd)] == [["loss"], []]


async def test_an_error_of_a_handler_leaves_the_thread_as_itself_after_train_end() -> None:
    recorder = EventRecorder()

    def fail(event: fitbus.EpochEnd) -> None:
        raise LookupError(f"epoch {event.epoch}")

    async with fitbus.Bus() as bus:
        bus.add(recorder)
        bus.add(fail)
        publisher = bus.publisher()
        with pytest.raises(LookupError, match="epoch 0"):
            await anyio.to_thread.run_sync(train, publisher)
        with pytest.raises(ControlRejectedError, match="too late"):
            await publisher.post(fitbus.SetLearningRate(0.1)).wait(5)
    assert recorder.of(fitbus.TrainEnd)[0].reason == "failed"
    assert publisher.step == BATCHES


async def test_cancelling_the_task_ends_the_loop_between_two_steps() -> None:
    recorder = EventRecorder()
    async with fitbus.Bus() as bus:
        bus.add(recorder)
        publisher = bus.publisher()
        with anyio.CancelScope() as scope:

            def cancel(event: fitbus.BatchEnd) -> None:
                if event.batch == 3:
                    anyio.from_thread.run_sync(scope.cancel)

            bus.add(cancel)
            await anyio.to_thread.run_sync(train, publisher)
    assert scope.cancelled_caught
    assert publisher.step == 5  # the handler runs at the boundary before the fifth step
    assert recorder.names[-2:] == ["BatchEnd", "TrainEnd"]


async def test_with_apply_a_control_acts_while_the_loop_waits_for_its_sender() -> None:
    """The async handler awaits the acknowledgement, and the loop stands still for the handler."""
    steering = Steering()
    acknowledged: list[fitbus.Applied] = []
    async with fitbus.Bus() as bus:
        publisher = bus.publisher(apply=steering.apply)

        @bus.on(fitbus.EpochEnd)
        async def hurry(event: fitbus.EpochEnd) -> None:
            if event.epoch == 0:
                acknowledged.append(await publisher.post(fitbus.SetLearningRate(0.1), "hurry"))

        w = await anyio.to_thread.run_sync(train_applying, publisher, steering)
    assert acknowledged == [fitbus.Applied(step=BATCHES, epoch=0, result={"before": 0.01})]
    rates = [0.01] * BATCHES + [0.1] * (EPOCHS - 1) * BATCHES
    assert w.tobytes() == expected(rates).tobytes()


async def test_with_apply_a_stop_ends_it_and_an_unknown_control_is_rejected(
    capsys: pytest.CaptureFixture[str],
) -> None:
    steering = Steering()
    async with fitbus.Bus() as bus:
        publisher = bus.publisher(apply=steering.apply)

        @bus.on(fitbus.EpochEnd, name="halt")
        async def halt(event: fitbus.EpochEnd) -> list[fitbus.Control]:
            return [fitbus.Pause(), fitbus.StopTraining(f"after epoch {event.epoch}")]

        recorder = EventRecorder()
        bus.add(recorder)
        await anyio.to_thread.run_sync(train_applying, publisher, steering)
    assert publisher.step == BATCHES
    assert recorder.names == ["EpochEnd", "ControlRejected", "ControlApplied"]
    (rejected,) = recorder.of(fitbus.ControlRejected)
    assert (rejected.source, rejected.why) == ("halt", "send SetLearningRate or StopTraining")
    assert capsys.readouterr().out == "halt stops it: after epoch 0\n"
