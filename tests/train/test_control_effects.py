"""What each control does to a real run, and what its acknowledgement says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import anyio
import jax
import numpy as np
import pytest

import fitbus
from fitbus import (
    Applied,
    BatchBegin,
    BatchEnd,
    Control,
    ControlApplied,
    ControlRejected,
    EpochBegin,
    EpochEnd,
    Evaluate,
    Event,
    Pause,
    RestoreCheckpoint,
    Resume,
    Run,
    RunPaused,
    RunResumed,
    SaveCheckpoint,
    ScaleLearningRate,
    SetHyperparameter,
    SetLearningRate,
    StopEpoch,
    StopTraining,
    TestBatchEnd,
    TestBegin,
    TestEnd,
    TrainBegin,
    TrainState,
    UpdateState,
)
from fitbus.errors import ControlRejectedError
from fitbus.testing import EventRecorder, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(64, 4)
X, Y = PROBLEM.x, PROBLEM.y
FOREVER = 10**6


class Halve(Control):
    """A control of one's own: halves all parameters."""

    factor: float = 0.5


class Quarter(Halve):
    """A kind of it, which needs no function of its own."""


class Nobodys(Control):
    """One that the task wasn't told of."""


class Rated:
    """The toy task; its logs tell the learning rate that each step used."""

    def __init__(self) -> None:
        self.optimizer = PROBLEM.task.optimizer
        self.controls = {Halve: self.halve}
        self.eval_step = PROBLEM.task.eval_step
        self.predict_step = PROBLEM.task.predict_step

    def train_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        new, metrics = PROBLEM.task.train_step(state, batch)
        return new, {**metrics, "rate": state.opt_state.hyperparams["learning_rate"]}

    def halve(self, state: TrainState, control: Halve) -> TrainState:
        halved = jax.tree.map(lambda leaf: leaf * control.factor, state.params)
        return dataclasses.replace(state, params=halved)


SHARED = fitbus.Trainer(Rated(), PROBLEM.params)


@pytest.fixture(params=[True, False], ids=["exact", "ahead"])
def recorder(request: pytest.FixtureRequest) -> Any:
    """Training waits for it at each event, or runs ahead of it."""
    return EventRecorder(), {"wait": request.param}


def status_of(run: Run[Any]) -> str:
    """Its status, which type checkers would take for unchanging."""
    return run.status


async def steered(run: Run[Any], recorder: Any, *controls: Control) -> list[Applied]:
    """Sends controls in the middle of a run, then stops it."""
    found, options = recorder
    run.add(found, Event, **options)
    async with run:
        await run.wait_for(EpochEnd)
        applied = [await run.send(control, 10, source="a test") for control in controls]
        await run.wait_for(BatchEnd, where=lambda event: event.step > applied[-1].step)
        await run.send(StopTraining())
    return applied


@pytest.mark.parametrize(
    ("control", "rate"),
    [
        (SetLearningRate(0.03), 0.03),
        (ScaleLearningRate(0.25), 0.02),
        (SetHyperparameter("learning_rate", 0.05), 0.05),
    ],
)
async def test_the_learning_rate_is_another_from_the_acknowledged_step_on(
    trainer: fitbus.Trainer, recorder: Any, control: Control, rate: float
) -> None:
    """No event before it reflects the change, and every one after it does."""
    run = trainer.run(X, Y, batch_size=8, epochs=FOREVER)
    run.post(SetLearningRate(0.08))
    (applied,) = await steered(run, recorder, control)
    events = recorder[0].events
    (told,) = [e for e in events if isinstance(e, ControlApplied) and e.control is control]
    assert (told.step, told.epoch) == (applied.step, applied.epoch)
    assert (told.source, told.result, applied.result) == ("a test", None, None)
    ends = [e for e in events if isinstance(e, BatchEnd)]
    before = [e for e in ends if e.seq < told.seq]
    after = [e for e in ends if e.seq > told.seq]
    assert before[-1].step == applied.step
    assert after[0].step == applied.step + 1
    assert {e.batch_logs["rate"] for e in before} == {float(np.float32(0.08))}
    assert {e.batch_logs["rate"] for e in after} == {float(np.float32(rate))}
    assert trainer.state.opt_state.hyperparams["learning_rate"] == np.float32(rate)


async def test_update_state_acts_at_the_acknowledged_step(
    trainer: fitbus.Trainer, recorder: Any
) -> None:
    def solve(state: TrainState) -> TrainState:
        return dataclasses.replace(state, params=PROBLEM.answer)

    run = trainer.run(X, Y, batch_size=8, epochs=FOREVER)
    run.post(UpdateState(lambda state: dataclasses.replace(state, params=PROBLEM.params)))
    run.post(SetLearningRate(0.0))
    (applied,) = await steered(run, recorder, UpdateState(solve))
    ends = recorder[0].of(BatchEnd)
    assert all(e.batch_logs["loss"] > 0.01 for e in ends if e.step <= applied.step)
    assert all(e.batch_logs["loss"] < 0.001 for e in ends if e.step > applied.step)
    assert {e.step for e in ends} >= {applied.step, applied.step + 1}
    jax.tree.map(np.testing.assert_array_equal, trainer.state.params, PROBLEM.answer)


@pytest.mark.parametrize("control", [Halve(0.25), Quarter(0.25)])
async def test_a_control_of_ones_own_is_applied_as_the_task_says(
    trainer: fitbus.Trainer, control: Halve
) -> None:
    """Also one of a subclass; the acknowledgement is like any other."""
    run = trainer.run(X, Y, batch_size=8, epochs=FOREVER)
    recorder = EventRecorder()
    run.add(recorder, ControlApplied)
    async with run:
        await run.send(SetLearningRate(0.0))
        before = await run.snapshot()
        applied = await run.send(control)
        after = await run.snapshot()
        await run.send(StopTraining())
    np.testing.assert_allclose(after.params["w"], before.params["w"] * 0.25, rtol=1e-6)
    assert applied.step <= int(after.step)
    assert [e.control for e in recorder.of(ControlApplied)][1] is control


@pytest.mark.parametrize(
    ("control", "why"),
    [
        (
            Nobodys(),
            (
                "this task doesn't say how to apply it; give `controls={Nobodys: function}`"
                " (the task's own controls: Halve)"
            ),
        ),
        (
            SaveCheckpoint("best"),
            (
                "nobody keeps checkpoints of this run; give `fit` a BackupAndRestore among its"
                " callbacks, or copy the state with `await run.snapshot()`"
            ),
        ),
        (
            RestoreCheckpoint("best"),
            (
                "nobody keeps checkpoints of this run; give `fit` a BackupAndRestore among its"
                " callbacks, or copy the state with `await run.snapshot()`"
            ),
        ),
        (Evaluate(), "there is no validation data; give fit `validation_data`"),
        (Resume(), "the run isn't paused"),
        (SetHyperparameter("b1", 0.5), "there is no 'b1'; the optimizer has ['learning_rate']"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Control) else "",
)
async def test_what_cannot_be_applied_is_rejected_with_the_remedy(
    trainer: fitbus.Trainer, control: Control, why: str
) -> None:
    """Its sender is told, and so is everybody else; training goes on as it was."""
    run = trainer.run(X, Y, batch_size=8, epochs=FOREVER)
    recorder = EventRecorder()
    run.add(recorder, ControlRejected)
    async with run:
        await run.send(SetLearningRate(0.0))
        before = await run.snapshot()
        with pytest.raises(ControlRejectedError) as caught:
            await run.send(control, source="a test")
        after = await run.snapshot()
        await run.send(StopTraining())
    assert str(caught.value) == f"{type(control).__name__} was rejected: {why}"
    assert caught.value.control is control
    (told,) = recorder.of(ControlRejected)
    assert (told.control, told.why, told.source) == (control, why, "a test")
    jax.tree.map(np.testing.assert_array_equal, before.params, after.params)
    assert before.opt_state.hyperparams == after.opt_state.hyperparams


def wider(state: TrainState) -> TrainState:
    return dataclasses.replace(state, params={**state.params, "w": np.zeros(5, np.float32)})


def other_dtype(state: TrainState) -> TrainState:
    return dataclasses.replace(state, params={**state.params, "w": np.zeros(4, np.int32)})


def other_structure(state: TrainState) -> TrainState:
    return dataclasses.replace(state, params=list(state.params.values()))


def no_state(state: TrainState) -> Any:
    return state.params


def other_step(state: TrainState) -> TrainState:
    return dataclasses.replace(state, step=state.step * 0 - 5)


def raising(state: TrainState) -> TrainState:
    raise RuntimeError("not today")


@pytest.mark.parametrize(
    ("fn", "why"),
    [
        (
            wider,
            "leaf .params['w']: found 'float32[5]'; keep its shape and dtype, float32[4]",
        ),
        (
            other_dtype,
            "leaf .params['w']: found 'int32[4]'; keep its shape and dtype, float32[4]",
        ),
        (
            other_structure,
            "at .params: found 'list of 2'; keep its structure, which has dict of 2 there",
        ),
        (no_state, "UpdateState.fn returned dict; return a TrainState"),
        (other_step, "UpdateState.fn changed `step` from "),
        (raising, "applying it raised RuntimeError: not today"),
    ],
)
async def test_a_state_that_does_not_fit_is_rejected_and_training_is_as_it_was(
    trainer: fitbus.Trainer, fn: Any, why: str
) -> None:
    run = trainer.run(X, Y, batch_size=8, epochs=FOREVER)
    async with run:
        await run.send(SetLearningRate(0.0))
        before = await run.snapshot()
        with pytest.raises(ControlRejectedError) as caught:
            await run.send(UpdateState(fn))
        after = await run.snapshot()
        await run.send(StopTraining())
    assert why in caught.value.why
    jax.tree.map(np.testing.assert_array_equal, before.params, after.params)
    assert int(trainer.state.step) >= int(after.step) > 0


async def test_stop_epoch_ends_the_epoch_and_the_next_one_is_whole(
    trainer: fitbus.Trainer,
) -> None:
    recorder = EventRecorder()

    def stop(event: BatchEnd) -> StopEpoch | None:
        return StopEpoch() if (event.epoch, event.batch) == (0, 2) else None

    await trainer.fit(X, Y, batch_size=8, epochs=2, callbacks=[stop, recorder])
    ends = recorder.of(BatchEnd)
    assert [e.batch for e in ends if e.epoch == 0] == [0, 1, 2]
    assert [e.batch for e in ends if e.epoch == 1] == list(range(8))
    (applied,) = recorder.of(ControlApplied)
    assert applied.step == ends[2].step
    first, second = recorder.of(EpochEnd)
    assert first.logs == ends[2].logs
    assert second.logs == ends[-1].logs


async def test_after_stop_epoch_with_steps_per_epoch_the_data_go_on(
    trainer: fitbus.Trainer,
) -> None:
    """Epochs of a number of steps aren't passes: the next one takes what comes next."""
    seen: list[float] = []
    batches = [(np.full((8, 4), n, np.float32), Y[:8]) for n in range(4)]

    def stop(event: BatchEnd) -> StopEpoch | None:
        return StopEpoch() if (event.epoch, event.batch) == (0, 0) else None

    def tell() -> Iterator[Any]:
        for x, y in batches:
            seen.append(float(x[0, 0]))
            yield x, y

    await trainer.fit(tell, epochs=2, steps_per_epoch=2, callbacks=[stop])
    assert seen == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("kind", [EpochEnd, TrainBegin, TestBegin])
async def test_stop_epoch_is_rejected_where_no_epoch_is_under_way(
    trainer: fitbus.Trainer, kind: type[Event]
) -> None:
    recorder = EventRecorder()
    run = trainer.run(X, Y, batch_size=8, epochs=2, validation_split=0.5, callbacks=[recorder])
    run.add(lambda event: StopEpoch(), kind)
    async with run:
        pass
    why = "no epoch is under way; send it between EpochBegin and the last BatchEnd"
    assert {e.why for e in recorder.of(ControlRejected)} == {why}
    assert len(recorder.of(BatchEnd)) == 8


async def test_stop_epoch_at_its_begin_leaves_it_empty(trainer: fitbus.Trainer) -> None:
    recorder = EventRecorder()

    async def stop(event: EpochBegin) -> StopEpoch | None:
        return StopEpoch() if event.epoch == 0 else None

    history = await trainer.fit(
        X, Y, batch_size=8, epochs=2, validation_split=0.5, callbacks=[stop, recorder]
    )
    assert [e.epoch for e in recorder.of(BatchEnd)] == [1] * 4
    assert [e.epoch for e in recorder.of(TestBegin)] == [1]
    assert recorder.of(EpochEnd)[0].logs == {}
    assert history.epoch == [0, 1]


async def test_evaluate_returns_the_logs_of_the_state_at_that_step(
    trainer: fitbus.Trainer,
) -> None:
    """It publishes nothing but its acknowledgement, which holds the logs too."""
    recorder = EventRecorder()
    run = trainer.run(
        X, Y, batch_size=8, epochs=FOREVER, validation_data=(X[:20], Y[:20]), validation_freq=[99]
    )
    run.add(recorder, ControlApplied, TestBegin, TestBatchEnd, TestEnd)
    async with run:
        await run.send(SetLearningRate(0.0))
        applied = await run.send(Evaluate())
        await run.send(StopTraining(validate=False))
    assert set(applied.result) == {"loss", "mean_absolute_error"}
    assert applied.result == await trainer.evaluate(X[:20], Y[:20], batch_size=8)
    assert [type(e) for e in recorder.events] == [ControlApplied] * 3
    assert recorder.of(ControlApplied)[1].result == applied.result


async def test_evaluate_sent_before_the_run_is_answered_before_the_first_step(
    trainer: fitbus.Trainer,
) -> None:
    expected = await trainer.evaluate(X[32:], Y[32:], batch_size=8)
    run = trainer.run(X, Y, batch_size=8, validation_split=0.5)
    receipt = run.post(Evaluate())
    step = int(trainer.state.step)
    async with run:
        applied = await receipt
    assert applied == Applied(step=step, epoch=0, result=expected)


async def test_evaluate_within_a_validation_does_not_disturb_it(trainer: fitbus.Trainer) -> None:
    recorder = EventRecorder()

    def ask(event: TestBatchEnd) -> Evaluate | None:
        return Evaluate() if event.batch == 1 else None

    await trainer.fit(X, Y, batch_size=8, validation_split=0.5, callbacks=[ask, recorder])
    assert [e.batch for e in recorder.of(TestBatchEnd)] == [0, 1, 2, 3]
    (applied,) = recorder.of(ControlApplied)
    (end,) = recorder.of(TestEnd)
    assert applied.result == end.logs


async def test_evaluate_on_data_that_come_once_is_rejected(trainer: fitbus.Trainer) -> None:
    """It would take them from the validation."""
    run = trainer.run(X, Y, batch_size=8, validation_data=iter([(X[:8], Y[:8])]))
    receipt = run.post(Evaluate())
    async with run:
        history = await run.wait()
    with pytest.raises(ControlRejectedError, match="gone through only once"):
        await receipt
    assert "val_loss" in history.history


async def test_pause_holds_training_until_resume(trainer: fitbus.Trainer) -> None:
    recorder = EventRecorder()
    run = trainer.run(X, Y, batch_size=8, epochs=FOREVER, callbacks=[recorder])
    async with run:
        await run.wait_for(BatchEnd)
        assert status_of(run) == "running"
        async with run.subscribe(RunPaused, RunResumed) as notices:
            applied = await run.send(Pause(), source="the one")
            paused = await anext(notices)
            assert status_of(run) == "paused"
            first = await run.snapshot()
            assert int(first.step) == applied.step == paused.step
            assert (await run.snapshot()).step == first.step
            resumed = await run.send(Resume(), source="the other")
            assert resumed.step == applied.step
            assert isinstance(await anext(notices), RunResumed)
        await run.wait_for(BatchEnd)
        assert status_of(run) == "running"
        await run.send(StopTraining())
    (paused,) = recorder.of(RunPaused)
    (resumed_event,) = recorder.of(RunResumed)
    assert (paused.source, resumed_event.source) == ("the one", "the other")
    held = [e for e in recorder.events if paused.seq < e.seq < resumed_event.seq]
    assert [type(e) for e in held] == [ControlApplied]
    names = recorder.names
    assert names[names.index("RunPaused") - 1] == "ControlApplied"


async def test_a_pause_follows_its_acknowledgement_at_once_whoever_asks(
    trainer: fitbus.Trainer,
) -> None:
    """Also a second one that comes when the first is just over: no step slips through."""
    recorder = EventRecorder()
    run = trainer.run(X, Y, batch_size=8, epochs=FOREVER, callbacks=[recorder])
    pauses = 0

    async def hold(event: RunPaused) -> None:
        await run.send(Resume())

    def again(event: RunResumed) -> Pause | StopTraining:
        """Runs at the boundary at which the pause ended."""
        nonlocal pauses
        pauses += 1
        return Pause() if pauses < 3 else StopTraining()

    run.add(hold)
    run.add(again)
    run.post(Pause())
    async with run:
        pass
    names = recorder.names
    assert pauses == 3
    assert names.count("RunPaused") == names.count("RunResumed") == 3
    assert "BatchEnd" not in names
    assert len({e.step for e in recorder.events}) == 1


async def test_pause_and_resume_at_one_boundary_let_it_go_on(trainer: fitbus.Trainer) -> None:
    recorder = EventRecorder()
    run = trainer.run(X, Y, batch_size=8, callbacks=[recorder])
    receipts = [run.post(Pause()), run.post(Resume())]
    async with run:
        pass
    assert [type(receipt.outcome) for receipt in receipts] == [Applied, Applied]
    assert not recorder.of(RunPaused)
    assert recorder.of(BatchBegin)


async def test_other_controls_are_applied_in_a_pause(trainer: fitbus.Trainer) -> None:
    run = trainer.run(
        X, Y, batch_size=8, epochs=FOREVER, validation_data=(X, Y), validation_freq=[FOREVER]
    )
    async with run:
        paused = await run.send(Pause())
        with anyio.fail_after(10):
            applied = [
                await run.send(control)
                for control in (SetLearningRate(0.0), Halve(1.0), Evaluate(), Pause())
            ]
            await run.send(Resume())
        await run.send(StopTraining(validate=False))
    assert {a.step for a in applied} == {paused.step}
    assert applied[2].result["loss"] >= 0
