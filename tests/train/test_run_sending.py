"""Sending to a run: what can't be sent is told its sender, and no receipt stays open."""

from __future__ import annotations

import itertools
import logging
import re
import threading
from typing import Any

import anyio
import anyio.to_thread
import pytest

import fitbus
from fitbus import (
    ControlApplied,
    ControlRejected,
    EpochEnd,
    Pause,
    Resume,
    SaveCheckpoint,
    SetLearningRate,
    UpdateState,
)
from fitbus.control import Receipt, Rejected
from fitbus.errors import ControlRejectedError, InvalidArgumentError, ThreadStuckError
from fitbus.testing import EventRecorder, Gate, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(64, 4)
X, Y = PROBLEM.x, PROBLEM.y
FOREVER = 10**6
SHARED = fitbus.Trainer(PROBLEM.task, PROBLEM.params)


class Bad(fitbus.Control):
    """Its key can't be hashed."""

    @property
    def key(self) -> Any:
        """An author's mistake."""
        return ["layer"]


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.anywhere
async def test_what_cannot_be_sent_is_refused_and_the_run_goes_on(
    trainer: fitbus.Trainer, live: bool
) -> None:
    """Before the start and in its midst, by `send` and by `post`: nothing is queued."""
    run = trainer.run(X, Y, batch_size=32, epochs=FOREVER)
    recorder = EventRecorder()
    run.add(recorder, ControlApplied, ControlRejected, wait=False)
    control, source, timeout = "control: found", "source: found", "timeout: found"
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"control": "stop"}, control),
        ({"control": Bad()}, r"Bad\.key: found \['layer'\]"),
        ({"control": Pause(), "source": 3}, source),
        ({"control": Pause(), "source": None}, source),
        ({"control": Pause(), "timeout": "a"}, timeout),
        ({"control": Pause(), "timeout": -1}, timeout),
        ({"control": Pause(), "timeout": float("nan")}, timeout),
        ({"control": Pause(), "timeout": True}, timeout),
    ]

    async def try_all() -> None:
        for arguments, match in wrong:
            with pytest.raises(InvalidArgumentError, match=f"^{match}"):
                await run.send(**arguments)
            if "timeout" not in arguments:
                with pytest.raises(InvalidArgumentError, match=f"^{match}"):
                    run.post(**arguments)

    with anyio.fail_after(30):
        if not live:
            await try_all()
        async with run:
            if live:
                await try_all()
            await run.send(SetLearningRate(0.1), 30, source="me")
            run.post(fitbus.StopTraining())
    assert [(e.id, type(e)) for e in recorder.of(ControlApplied)] == [
        (0, ControlApplied),
        (1, ControlApplied),
    ]
    assert recorder.of(ControlRejected) == []


async def test_a_thread_that_is_stuck_in_a_control_leaves_no_receipt_open() -> None:
    """Neither that of the control, nor of what was taken with it, nor of what still waits."""
    gate = Gate()
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    run = trainer.run(X, Y, batch_size=32, grace_s=0.1)

    def hang(state: fitbus.TrainState) -> fitbus.TrainState:
        gate.pass_sync()
        return state

    recorder = EventRecorder()
    trainer.bus.add(recorder, ControlRejected, wait=False)
    receipts = [run.post(UpdateState(hang)), run.post(SetLearningRate(0.1))]
    too_late = Rejected("too late: the run has ended")

    async def cancelled() -> None:
        async with run:
            await gate.wait_arrived()
            receipts.append(run.post(Pause()))
            raise KeyboardInterrupt

    with anyio.fail_after(30):
        with pytest.raises(ThreadStuckError):
            await cancelled()
        for receipt in receipts:
            with pytest.raises(ControlRejectedError, match="too late"):
                await receipt
        told = [(event.id, event.why) for event in recorder.of(ControlRejected)]
        gate.open()
        with pytest.raises(ControlRejectedError, match="too late"):
            await run.send(Resume())
        for thread in threading.enumerate():
            if thread.name.startswith("fitbus"):
                await anyio.to_thread.run_sync(thread.join, 10)
    assert [receipt.outcome for receipt in receipts] == [too_late] * 3
    assert told == [(id, too_late.why) for id in range(3)]


async def test_a_control_of_a_hook_that_is_rejected_is_logged_once_a_run(
    trainer: fitbus.Trainer, caplog: pytest.LogCaptureFixture
) -> None:
    """However often it is returned; of a callback, and of a handler of each mode."""

    class Save(fitbus.Callback):
        def on_train_batch_end(self, batch: int, logs: object = None) -> SaveCheckpoint:
            return SaveCheckpoint("from a hook")

    async def save(event: EpochEnd) -> SaveCheckpoint:
        return SaveCheckpoint("from a handler")

    with caplog.at_level(logging.WARNING, "fitbus"):
        await trainer.fit(X, Y, batch_size=32, epochs=3, callbacks=[Save(), save])
    told = sorted(record.getMessage() for record in caplog.records)
    for text, who in zip(told, ("Save", "save"), strict=True):
        assert re.search(rf"handler '.*{who}.*' returned SaveCheckpoint\(tag='from a ha?", text)
        assert "which was rejected: nobody keeps checkpoints of this run;" in text


async def test_receipts_of_a_run_that_fails_are_settled(trainer: fitbus.Trainer) -> None:
    """Those of controls that came in while it was failing among them."""
    receipts: list[Receipt] = []

    def fail(event: fitbus.BatchEnd) -> None:
        receipts.extend(run.post(SetLearningRate(0.1 * (n + 1))) for n in range(3))
        anyio.from_thread.run_sync(lambda: receipts.append(run.post(Pause())))
        raise OSError("of the handler")

    run = trainer.run(itertools.repeat((X[:32], Y[:32])), steps_per_epoch=FOREVER)
    run.add(fail)
    with anyio.fail_after(30):
        with pytest.raises(OSError, match="of the handler"):
            async with run:
                await run.wait()
        assert len(receipts) == 4
        assert all(receipt.outcome is not None for receipt in receipts)
