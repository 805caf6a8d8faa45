"""Many senders at once: each control is acknowledged, in a told order."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import anyio
import anyio.to_thread
import pytest

import fitbus
from fitbus import (
    Applied,
    BatchEnd,
    Control,
    ControlApplied,
    ControlRejected,
    EpochEnd,
    Evaluate,
    Receipt,
    ScaleLearningRate,
    SetHyperparameter,
    SetLearningRate,
    StopTraining,
)
from fitbus.control import Rejected, Superseded
from fitbus.errors import ControlRejectedError
from fitbus.testing import EventRecorder, Gate, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(64, 4)
X, Y = PROBLEM.x, PROBLEM.y
FOREVER = 10**6
SHARED = fitbus.Trainer(PROBLEM.task, PROBLEM.params)


def control_number(place: int) -> Control:
    """Different ones: some supersede each other, some are rejected, some are neither."""
    return (
        SetLearningRate(0.001 * (1 + place % 7)),
        ScaleLearningRate(1.0),
        SetHyperparameter("b1", 0.5),
        Evaluate(),
    )[place % 4]


@pytest.mark.anywhere
async def test_each_of_many_controls_is_acknowledged_once(trainer: fitbus.Trainer) -> None:
    """From tasks and threads, before the run, during it, and after its end."""
    recorder = EventRecorder()
    run = trainer.run(X, Y, batch_size=32, epochs=FOREVER)
    run.add(recorder, ControlApplied, ControlRejected, wait=False)
    receipts: list[Receipt] = [run.post(control_number(place), "early") for place in range(8)]
    waited: list[int] = []
    stopped = threading.Event()

    def post_in_thread(name: str) -> None:
        place = 0
        while place < 40 or not stopped.is_set():
            receipt = run.post(control_number(place), name)
            receipts.append(receipt)
            with contextlib.suppress(ControlRejectedError):
                receipt.result(30)
            waited.append(receipt.id)
            place += 1

    async def send_in_task(name: str) -> None:
        for place in range(40):
            receipt = run.post(control_number(place), name)
            receipts.append(receipt)
            with contextlib.suppress(ControlRejectedError):
                await receipt.wait(30)
            waited.append(receipt.id)

    async with anyio.create_task_group() as threads, run:
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(send_in_task, f"task {number}")
                threads.start_soon(anyio.to_thread.run_sync, post_in_thread, f"thread {number}")
        await run.send(StopTraining())
        await run.wait()
        late = run.post(SetLearningRate(0.1))
        stopped.set()
        assert late.outcome == Rejected("too late: the run has ended")
    assert sorted(waited) == sorted(receipt.id for receipt in receipts[8:])
    check_acknowledged(receipts, recorder)
    assert {type(receipt.outcome) for receipt in receipts} == {Applied, Superseded, Rejected}


def check_acknowledged(receipts: list[Receipt], recorder: EventRecorder) -> None:
    """Each has one number, one outcome and, unless it came after the end, one event of it."""
    by_id = {receipt.id: receipt for receipt in receipts}
    assert len(by_id) == len(receipts)
    told = {event.id: event for event in recorder.of(ControlApplied)}
    refused = {event.id: event for event in recorder.of(ControlRejected)}
    assert len(told) + len(refused) == len(recorder.events)
    for receipt in receipts:
        match receipt.outcome:
            case Applied(step, epoch):
                event = told.pop(receipt.id)
                assert (event.step, event.epoch, event.source) == (step, epoch, receipt.source)
            case Superseded(by):
                assert refused.pop(receipt.id).why == f"superseded by {by}"
                winner = by_id[by]
                assert by > receipt.id
                assert winner.control.key == receipt.control.key
                assert not isinstance(winner.outcome, Superseded)
            case Rejected(why):
                assert why.startswith(("there is no", "too late"))
                refused.pop(receipt.id, None)
            case None:
                pytest.fail("an open receipt")
    assert [type(event.control) for event in told.values()] == [StopTraining]
    assert not refused


@pytest.mark.anywhere
async def test_controls_sent_together_act_in_the_order_of_sending(trainer: fitbus.Trainer) -> None:
    recorder = EventRecorder()
    run = trainer.run(X, Y, batch_size=32, callbacks=[recorder])
    receipts = [
        run.post(control)
        for control in (
            SetLearningRate(0.25),  # superseded by the third
            ScaleLearningRate(0.5),
            SetLearningRate(0.5),
            ScaleLearningRate(0.25),
        )
    ]
    async with run:
        pass
    assert [type(receipt.outcome) for receipt in receipts] == [
        Superseded,
        Applied,
        Applied,
        Applied,
    ]
    assert receipts[0].outcome == Superseded(by=2)
    with pytest.raises(ControlRejectedError, match="superseded by control 2"):
        await receipts[0]
    events = [e for e in recorder.events if isinstance(e, ControlApplied | ControlRejected)]
    assert [event.id for event in events] == [0, 1, 2, 3]
    assert events[0].why == "superseded by 2"  # type: ignore[union-attr]  # it is a rejection
    assert await run.hyperparameters() == {"learning_rate": 0.125}


@pytest.mark.parametrize("first_to_return", ["a", "b", "c"])
@pytest.mark.anywhere
async def test_waiting_handlers_that_disagree_are_heard_in_the_order_of_subscribing(
    trainer: fitbus.Trainer, first_to_return: str
) -> None:
    """Whichever returns first: of async ones the last wins, then each `def` one acts in turn."""
    recorder = EventRecorder()
    run = trainer.run(X, Y, batch_size=64, callbacks=[recorder])
    returned = anyio.Event()
    rates = {"a": 0.5, "b": 0.25, "c": 0.125}

    def make(name: str) -> Any:
        async def answer(event: EpochEnd) -> list[Control]:
            if name == first_to_return:
                returned.set()
            await returned.wait()
            return [SetLearningRate(rates[name]), ScaleLearningRate(0.5)]

        return answer

    def check(event: EpochEnd) -> Control:
        seen.append(run.model("check").optimizer.learning_rate)
        return SetLearningRate(1.0)

    seen: list[float] = []
    run.add(check, name="d")
    for name in "abc":
        run.add(make(name), name=name)
    run.add(check, name="e")
    async with run:
        pass
    events = [e for e in recorder.events if isinstance(e, ControlApplied | ControlRejected)]
    assert [(e.source, type(e).__name__, type(e.control).__name__) for e in events] == [
        ("a", "ControlRejected", "SetLearningRate"),
        ("a", "ControlApplied", "ScaleLearningRate"),
        ("b", "ControlRejected", "SetLearningRate"),
        ("b", "ControlApplied", "ScaleLearningRate"),
        ("c", "ControlApplied", "SetLearningRate"),
        ("c", "ControlApplied", "ScaleLearningRate"),
        ("d", "ControlApplied", "SetLearningRate"),
        ("e", "ControlApplied", "SetLearningRate"),
    ]
    assert seen == [0.0625, 1.0]  # `c` won, then its scale; and what `d` returned acted at once


@pytest.mark.anywhere
async def test_a_send_that_times_out_may_still_be_applied(trainer: fitbus.Trainer) -> None:
    """Training is in a `def` handler, where nothing can be applied; after it both are."""
    recorder = EventRecorder()
    gate = Gate()
    run = trainer.run(X, Y, batch_size=64, callbacks=[recorder])

    def hold(event: EpochEnd) -> None:
        gate.pass_sync()

    run.add(hold)
    async with run:
        await gate.wait_arrived()
        receipt = run.post(ScaleLearningRate(0.5), "posted")
        with pytest.raises(TimeoutError, match="it may still be applied"):
            await run.send(ScaleLearningRate(0.25), timeout=0.001, source="sent")
        with pytest.raises(TimeoutError, match="it may still be applied"):
            await receipt.wait(0.001)
        assert receipt.outcome is None
        gate.open()
        applied = await receipt.wait(10)
    assert applied == receipt.outcome
    assert [e.source for e in recorder.of(ControlApplied)] == ["posted", "sent"]


@pytest.mark.anywhere
async def test_a_send_that_is_cancelled_may_still_be_applied(trainer: fitbus.Trainer) -> None:
    recorder = EventRecorder()
    gate = Gate()
    run = trainer.run(X, Y, batch_size=64, callbacks=[recorder])

    def hold(event: EpochEnd) -> None:
        gate.pass_sync()

    run.add(hold)
    async with run:
        await gate.wait_arrived()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run.send, ScaleLearningRate(0.5))
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        gate.open()
    assert [type(e.control) for e in recorder.of(ControlApplied)] == [ScaleLearningRate]


@pytest.mark.anywhere
async def test_a_concurrent_handler_steers_by_what_it_returns(trainer: fitbus.Trainer) -> None:
    """Its controls count as sent by it, and act at the next boundary."""
    recorder = EventRecorder()
    run = trainer.run(X, Y, batch_size=32, epochs=FOREVER, callbacks=[recorder])

    async def steer(event: BatchEnd) -> list[Control]:
        return [ScaleLearningRate(0.5), StopTraining("steered")]

    run.add(steer, where=lambda event: event.epoch == 1, name="pilot")
    async with run:
        pass
    applied = recorder.of(ControlApplied)
    assert [type(e.control) for e in applied[:2]] == [ScaleLearningRate, StopTraining]
    assert {e.source for e in applied} == {"pilot"}
    assert applied[0].epoch >= 1
