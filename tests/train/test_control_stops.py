"""Stops: at every moment of a run, by several senders, and what is still done after one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest

import fitbus
from fitbus import (
    Applied,
    BatchBegin,
    BatchEnd,
    ControlApplied,
    ControlRejected,
    EpochBegin,
    EpochEnd,
    Event,
    Pause,
    PredictBatchEnd,
    RunPaused,
    RunResumed,
    SetLearningRate,
    StopEpoch,
    StopTraining,
    TestBatchEnd,
    TestBegin,
    TestEnd,
    TrainBegin,
    TrainEnd,
)
from fitbus.control import Rejected
from fitbus.errors import ControlRejectedError
from fitbus.testing import EventRecorder, Gate, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(64, 4)
X, Y = PROBLEM.x, PROBLEM.y
FOREVER = 10**6
SHARED = fitbus.Trainer(PROBLEM.task, PROBLEM.params)


async def test_a_stop_sent_before_fit_ends_it_before_the_first_step(
    trainer: fitbus.Trainer,
) -> None:
    """The data aren't even asked for a batch; begin and end are told all the same."""

    def untouched() -> Iterator[Any]:
        raise AssertionError("nobody should ask for data")

    step = int(trainer.state.step)
    recorder = EventRecorder()
    run = trainer.run(untouched, callbacks=[recorder], epochs=5)
    receipt = run.post(StopTraining("not today"), "the boss")
    async with run:
        history = await run.wait()
    assert recorder.names == ["TrainBegin", "ControlApplied", "TrainEnd"]
    (end,) = recorder.of(TrainEnd)
    assert (end.reason, end.detail, end.source) == ("stopped", "not today", "the boss")
    assert receipt.outcome == Applied(step=step, epoch=0)
    assert run.status == "stopped"
    assert (history.epoch, history.history) == ([], {})
    assert int(trainer.state.step) == step


@pytest.mark.parametrize(
    ("kind", "events"),
    [
        (TrainBegin, ["TrainBegin", "ControlApplied", "TrainEnd"]),
        (
            EpochBegin,
            ["TrainBegin", "EpochBegin", "ControlApplied", "EpochEnd", "TrainEnd"],
        ),
        (
            BatchBegin,  # this batch is still computed, as in Keras
            [
                *("TrainBegin", "EpochBegin", "BatchBegin", "ControlApplied", "BatchEnd"),
                *("TestBegin", "TestBatchBegin", "TestBatchEnd", "TestEnd"),
                *("EpochEnd", "TrainEnd"),
            ],
        ),
        (
            BatchEnd,
            [
                *("TrainBegin", "EpochBegin", "BatchBegin", "BatchEnd", "ControlApplied"),
                *("TestBegin", "TestBatchBegin", "TestBatchEnd", "TestEnd"),
                *("EpochEnd", "TrainEnd"),
            ],
        ),
    ],
)
@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async"])
@pytest.mark.anywhere
async def test_a_waiting_handler_stops_at_its_event(
    trainer: fitbus.Trainer, kind: type[Event], events: list[str], is_async: bool
) -> None:
    """The rest of the epoch that it cuts short still comes, validation included."""
    recorder = EventRecorder()
    run = trainer.run(
        X, Y, batch_size=32, epochs=FOREVER, validation_data=(X[:8], Y[:8]), callbacks=[recorder]
    )

    def stop(event: Event) -> StopTraining:
        return StopTraining("enough")

    async def stop_async(event: Event) -> StopTraining:
        return StopTraining("enough")

    run.add(stop_async if is_async else stop, kind, wait=True, name="stop")
    async with run:
        pass
    assert recorder.names == events
    (applied,) = recorder.of(ControlApplied)
    (end,) = recorder.of(TrainEnd)
    assert (applied.source, end.reason, end.detail, end.source) == (
        *("stop", "stopped"),
        *("enough", "stop"),
    )


async def test_a_stop_on_the_last_step_counts_as_one(trainer: fitbus.Trainer) -> None:
    recorder = EventRecorder()

    def stop(event: BatchEnd) -> StopTraining | None:
        return StopTraining("just in time") if event.batch == 1 else None

    run = trainer.run(X, Y, batch_size=32, validation_split=0, callbacks=[stop, recorder])
    async with run:
        history = await run.wait()
    (end,) = recorder.of(TrainEnd)
    assert (end.reason, end.detail) == ("stopped", "just in time")
    assert run.status == "stopped"
    assert len(recorder.of(BatchEnd)) == 2
    assert end.logs == recorder.of(EpochEnd)[0].logs
    assert history.epoch == [0]


@pytest.mark.parametrize("wait", [True, False], ids=["waiting", "concurrent"])
@pytest.mark.anywhere
async def test_a_stop_at_the_end_of_an_epoch_lets_no_other_begin(
    trainer: fitbus.Trainer, wait: bool
) -> None:
    """One that comes while training goes on may let some further epochs begin, and no more."""
    recorder = EventRecorder()

    async def stop(event: EpochEnd) -> StopTraining:
        return StopTraining()

    run = trainer.run(X, Y, batch_size=32, epochs=FOREVER, callbacks=[recorder])
    run.add(stop, wait=wait)
    async with run:
        pass
    assert "TrainEnd" in recorder.names
    applied = recorder.of(ControlApplied)[0]
    assert [e for e in recorder.of(EpochBegin) if e.seq > applied.seq] == []
    if wait:
        assert len(recorder.of(EpochBegin)) == 1


@pytest.mark.anywhere
async def test_a_stop_while_paused_ends_the_pause_and_the_run(trainer: fitbus.Trainer) -> None:
    recorder = EventRecorder()
    run = trainer.run(X, Y, batch_size=32, epochs=FOREVER, callbacks=[recorder])
    async with run:
        async with run.subscribe(RunPaused) as pauses:
            paused = await run.send(Pause())
            await anext(pauses)
        stopped = await run.send(StopTraining("enough"))
        await run.wait()
    assert stopped.step == paused.step
    assert run.status == "stopped"
    assert not recorder.of(RunResumed)
    after = [type(e) for e in recorder.events if e.step > paused.step]
    assert after == []
    assert recorder.of(TrainEnd)[0].detail == "enough"


@pytest.mark.anywhere
async def test_a_pause_after_a_stop_is_rejected(trainer: fitbus.Trainer) -> None:
    """Even in the validation that still follows: nothing would ever resume it."""
    recorder = EventRecorder()
    run = trainer.run(
        X, Y, batch_size=32, epochs=FOREVER, validation_data=(X, Y), callbacks=[recorder]
    )
    run.add(lambda event: StopTraining(), BatchEnd)
    run.add(lambda event: Pause(), TestBatchEnd)
    async with run:
        pass
    assert {e.why for e in recorder.of(ControlRejected)} == {"the run was asked to stop"}
    assert not recorder.of(RunPaused)
    assert run.status == "stopped"


@pytest.mark.parametrize("validate", [True, False])
async def test_a_stop_in_a_validation_lets_it_finish(
    trainer: fitbus.Trainer, validate: bool
) -> None:
    """What has begun is ended well, so that its means are those of all its examples."""
    recorder = EventRecorder()

    def stop(event: TestBatchEnd) -> StopTraining | None:
        return StopTraining("seen enough", validate=validate) if event.batch == 0 else None

    await trainer.fit(
        X, Y, batch_size=16, epochs=FOREVER, validation_data=(X, Y), callbacks=[stop, recorder]
    )
    assert [e.batch for e in recorder.of(TestBatchEnd)] == [0, 1, 2, 3]
    (end,) = recorder.of(EpochEnd)
    assert end.logs["val_loss"] == recorder.of(TestEnd)[0].logs["loss"]
    assert recorder.of(TrainEnd)[0].detail == "seen enough"


async def test_a_stop_without_validation_leaves_it_out(trainer: fitbus.Trainer) -> None:
    recorder = EventRecorder()

    def stop(event: BatchEnd) -> StopTraining:
        return StopTraining(validate=False)

    await trainer.fit(X, Y, batch_size=16, validation_split=0.5, callbacks=[stop, recorder])
    assert not recorder.of(TestBegin)
    (end,) = recorder.of(EpochEnd)
    assert sorted(end.logs) == ["loss", "mean_absolute_error"]


@pytest.mark.anywhere
async def test_two_stoppers_and_the_first_one_leads(trainer: fitbus.Trainer) -> None:
    """Neither takes the other's back: both act, and if either wants no validation there is none."""
    recorder = EventRecorder()
    run = trainer.run(X, Y, batch_size=16, validation_split=0.5, epochs=9, callbacks=[recorder])
    receipts: list[Any] = []

    def both(event: BatchEnd) -> None:
        receipts.append(run.post(StopTraining("cost", validate=False), "accountant"))
        receipts.append(run.post(StopTraining("plateau"), "scientist"))

    run.add(both)
    async with run:
        pass
    (end,) = recorder.of(TrainEnd)
    assert (end.detail, end.source) == ("cost", "accountant")
    assert [(e.control.reason, e.source) for e in recorder.of(ControlApplied)] == [  # type: ignore[attr-defined]  # all are stops
        ("cost", "accountant"),
        ("plateau", "scientist"),
    ]
    assert all(isinstance(receipt.outcome, Applied) for receipt in receipts)
    assert not recorder.of(TestBegin)


@pytest.mark.parametrize("control", [StopTraining("late"), StopEpoch("late"), Pause()])
@pytest.mark.anywhere
async def test_at_its_end_it_is_too_late(trainer: fitbus.Trainer, control: Any) -> None:
    """The end says what it was, and it stays so."""
    recorder = EventRecorder()
    run = trainer.run(X, Y, batch_size=32, callbacks=[recorder])
    run.add(lambda event: [control, SetLearningRate(0.1)], TrainEnd)
    async with run:
        pass
    assert run.status == "completed"
    assert recorder.of(TrainEnd)[0].reason == "completed"
    (rejected,) = recorder.of(ControlRejected)
    assert (rejected.control, rejected.why) == (control, "too late: the run is at its end")
    assert len(recorder.of(ControlApplied)) == 1  # what changes the state still can


@pytest.mark.anywhere
async def test_after_its_end_it_is_too_late(trainer: fitbus.Trainer) -> None:
    run = trainer.run(X, Y, batch_size=32)
    async with run:
        await run.wait()
        assert run.post(StopTraining()).outcome == Rejected("too late: the run has ended")
    with pytest.raises(ControlRejectedError, match="too late: the run has ended"):
        await run.send(SetLearningRate(0.1))


async def test_what_still_waits_when_the_run_ends_is_told_so(trainer: fitbus.Trainer) -> None:
    """A control that a handler sends after the last boundary, when `TrainEnd` is out."""
    receipts: list[Any] = []
    recorder = EventRecorder()
    run = trainer.run(X, Y, batch_size=32, callbacks=[recorder])
    gate = Gate()

    async def late(event: TrainEnd) -> None:
        await gate.pass_async()
        receipts.append(run.post(SetLearningRate(0.1), "late"))

    run.add(late, wait=False)
    async with run:
        await gate.wait_arrived()
        gate.open()
    assert receipts[0].outcome == Rejected("too late: the run has ended")


async def test_a_stop_ends_an_evaluation_and_a_prediction(trainer: fitbus.Trainer) -> None:
    """What has been gone through by then is what they return."""

    def stop(event: Event) -> StopTraining | None:
        return StopTraining() if getattr(event, "batch", 0) == 1 else None

    recorder = EventRecorder()
    tested = fitbus.handler(TestBatchEnd)(stop)
    logs = await trainer.evaluate(X, Y, batch_size=8, callbacks=[tested, recorder])
    assert logs == recorder.of(TestBatchEnd)[1].logs
    assert len(recorder.of(TestBatchEnd)) == 2

    def stop_predicting(event: PredictBatchEnd) -> StopTraining | None:
        return stop(event)

    outputs = await trainer.predict(X, batch_size=8, callbacks=[stop_predicting])
    assert outputs.shape == (16,)


@pytest.mark.parametrize("before", [0, 3], ids=["first batch", "mid-epoch"])
@pytest.mark.parametrize("steps", [None, 10])
async def test_a_stop_acts_while_an_async_source_stalls(
    trainer: fitbus.Trainer, before: int, steps: int | None
) -> None:
    """No warning that data ran out, no error that there were none: it was asked for."""
    gate = Gate()

    async def stalling() -> AsyncIterator[Any]:
        for _ in range(before):
            yield X[:32], Y[:32]
        await gate.pass_async()
        raise AssertionError("nobody opens it")

    recorder = EventRecorder()
    run = trainer.run(stalling, epochs=2, steps_per_epoch=steps, callbacks=[recorder])
    async with run:
        await gate.wait_arrived()
        with anyio.fail_after(10):
            applied = await run.send(StopTraining("tired of waiting"))
            await run.wait()
    assert run.status == "stopped"
    (end,) = recorder.of(TrainEnd)
    assert (end.step, end.detail) == (applied.step, "tired of waiting")
    assert len(recorder.of(BatchEnd)) == before


async def test_stop_epoch_acts_while_an_async_source_stalls(trainer: fitbus.Trainer) -> None:
    """The next epoch begins a pass of its own."""
    gate = Gate()
    passes = 0

    async def stalling_at_first() -> AsyncIterator[Any]:
        nonlocal passes
        passes += 1
        yield X[:32], Y[:32]
        if passes == 1:
            await gate.pass_async()
        yield X[32:], Y[32:]

    recorder = EventRecorder()
    run = trainer.run(stalling_at_first, epochs=2, callbacks=[recorder])
    async with run:
        await gate.wait_arrived()
        with anyio.fail_after(10):
            await run.send(StopEpoch())
            await run.wait()
    assert [(e.epoch, e.batch) for e in recorder.of(BatchEnd)] == [(0, 0), (1, 0), (1, 1)]


@pytest.mark.parametrize("source", ["send", "post", "thread", "stop_training"])
async def test_every_way_to_stop_is_the_same_stop(trainer: fitbus.Trainer, source: str) -> None:
    recorder = EventRecorder()
    run = trainer.run(X, Y, batch_size=32, epochs=FOREVER, callbacks=[recorder])
    model = run.model("a callback")
    ways: dict[str, Callable[[], Any]] = {
        "send": lambda: run.send(StopTraining("now"), source="a test"),
        "post": lambda: run.post(StopTraining("now"), "a test").wait(),
        "thread": lambda: anyio.to_thread.run_sync(
            lambda: run.post(StopTraining("now"), "a test").result()
        ),
    }
    async with run:
        await run.wait_for(BatchEnd)
        if source == "stop_training":
            model.stop_training = True
        else:
            applied = await ways[source]()
            assert isinstance(applied, Applied)
    (end,) = recorder.of(TrainEnd)
    (told,) = recorder.of(ControlApplied)
    assert end.reason == "stopped"
    assert end.source == told.source == ("a callback" if source == "stop_training" else "a test")
    assert end.step == told.step
