"""The life of a run as a state machine: real training, held at each batch, against a model."""

from __future__ import annotations

import contextlib
import itertools
import queue
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ClassVar

import anyio
import anyio.from_thread
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import fitbus
from fitbus import (
    Applied,
    BatchEnd,
    Control,
    ControlApplied,
    ControlRejected,
    EpochEnd,
    Event,
    Pause,
    Receipt,
    Resume,
    RunPaused,
    SetLearningRate,
    StopTraining,
    TrainEnd,
)
from fitbus.control import Rejected, Superseded
from fitbus.errors import FitbusError, RunCancelledError, RunEndedError, TrainerBusyError
from fitbus.testing import EventRecorder, toy_problem

PROBLEM = toy_problem(64, 4)
TRAINER = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
BATCHES, EPOCHS = 2, 2
FINAL = ("completed", "stopped", "cancelled", "failed")
LEGAL = {
    "pending": {"running", "paused", "failed"},
    "running": {"paused", "finishing", *FINAL},
    "paused": {"running", "finishing", *FINAL},
    "finishing": set(FINAL),
    **{status: set[str]() for status in FINAL},
}
PATIENCE_S = 30


class BrokenError(Exception):
    """Raised by the handler that holds training."""


class LeaveError(Exception):
    """Raised by the body of the run's block."""


class RunMachine(RuleBasedStateMachine):
    """Training stands in a handler after each batch, or in a pause, or has ended: its `place`.

    There controls act one by one, so that the model knows what each has to do.
    """

    backend: ClassVar[tuple[str, dict[str, Any]]]

    def __init__(self) -> None:
        super().__init__()
        self.exit = contextlib.ExitStack()
        name, options = self.backend
        portal = anyio.from_thread.start_blocking_portal(name, options)
        self.portal = self.exit.enter_context(portal)

    @initialize()
    def make(self) -> None:
        """A run that is pending; the model of it."""
        state = TRAINER.state
        self.start_step = int(state.step)
        self.rate = float(state.opt_state.hyperparams["learning_rate"])
        self.steps = 0
        self.status = "pending"
        self.place = "nowhere"
        self.stopping = self.failing = self.leaving = False
        self.receipts: list[Receipt] = []
        self.expected: list[type[Applied | Rejected | Superseded] | None] = []
        self.outcomes: dict[int, Any] = {}
        self.waiters: list[Future[Any]] = []
        self.told: list[str] = ["pending"]
        self.places: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.recorder = EventRecorder()
        self.run = TRAINER.run(
            PROBLEM.x, PROBLEM.y, batch_size=64 // BATCHES, epochs=EPOCHS, shuffle=False
        )
        self.run.add(self.recorder)
        self.run.add(lambda event: self.told.append(self.run.status), Event)
        self.run.add(self.hold, wait=True)
        self.run.add(self.note_pause)

    # What runs in the loop.

    async def hold(self, event: BatchEnd) -> None:
        self.gate = anyio.Event()
        self.places.put("batch")
        await self.gate.wait()
        if self.failing:
            raise BrokenError

    async def note_pause(self, event: RunPaused) -> None:
        self.places.put("pause")

    async def drive(self) -> None:
        leave = anyio.Event()
        self.leave = leave.set
        self.run.at_end(leave.set)
        try:
            async with anyio.create_task_group() as tasks:
                with contextlib.suppress(BrokenError, LeaveError):
                    async with self.run:
                        await leave.wait()
                        if self.leaving:
                            tasks.start_soon(self.open_gate)  # runs when the run is cancelled
                            raise LeaveError
        finally:
            self.places.put("end")

    async def open_gate(self) -> None:
        if self.place == "batch":
            self.gate.set()

    # The rules.

    def go_on(self) -> None:
        """Training has been let go: where it has to come to, and that it does."""
        if self.leaving:
            place = "end"
        elif self.failing and self.place == "batch":
            self.status, place = "failed", "end"
        elif self.stopping:
            self.status, place = "stopped", "end"
        elif self.status == "paused":
            place = "pause"
        elif self.steps == BATCHES * EPOCHS:
            self.status, place = "completed", "end"
        else:
            self.steps += 1
            place = "batch"
        self.place = self.places.get(timeout=PATIENCE_S)
        assert self.place == place

    def act(self, control: Control) -> type[Applied | Rejected]:
        """What a control does, where it is looked at."""
        match control:
            case StopTraining():
                self.stopping = True
                if self.status == "paused":
                    self.status = "running"
            case Pause():
                if self.stopping:
                    return Rejected
                self.status = "paused"
            case Resume():
                if self.status != "paused":
                    return Rejected
                self.status = "running"
            case SetLearningRate(value):
                self.rate = value
            case _:
                raise AssertionError(control)
        return Applied

    def send(self, control: Control) -> None:
        receipt = self.run.post(control, "a test")
        self.receipts.append(receipt)
        if self.status == "pending":
            self.expected.append(None)
            return
        if self.status in FINAL:
            self.expected.append(Rejected)
            assert "too late" in str(receipt.outcome)
            return
        was_paused = self.status == "paused"
        self.expected.append(self.act(control))
        with contextlib.suppress(FitbusError):
            receipt.result(PATIENCE_S)
        if self.place == "pause" and was_paused and self.status != "paused":
            self.go_on()

    @rule(control=st.sampled_from([Pause(), Resume(), StopTraining("enough")]))
    def steer(self, control: Control) -> None:
        self.send(control)

    @rule(rate=st.sampled_from([0.0625, 0.125]))
    def set_rate(self, rate: float) -> None:
        self.send(SetLearningRate(rate))

    @precondition(lambda self: self.status == "pending")
    @rule()
    def start(self) -> None:
        """What was sent before acts together, before the first step."""
        self.status = "running"
        rates = [i for i, r in enumerate(self.receipts) if isinstance(r.control, SetLearningRate)]
        for index, receipt in enumerate(self.receipts):
            late = index in rates[:-1]
            self.expected[index] = Superseded if late else self.act(receipt.control)
        self.driving = self.portal.start_task_soon(self.drive)
        self.go_on()

    @precondition(lambda self: self.place == "batch")
    @rule(failing=st.sampled_from([False, False, False, True]))
    def pass_batch(self, failing: bool) -> None:
        """The handler returns, or raises."""
        self.failing = failing
        self.portal.call(self.open_gate)
        self.go_on()

    @precondition(lambda self: self.status in ("running", "paused"))
    @rule()
    def cancel(self) -> None:
        """The body of the block raises."""
        self.leaving, self.status = True, "cancelled"
        self.portal.call(self.leave)
        self.go_on()

    @rule()
    def wait(self) -> None:
        """Somebody waits for the end, or asks again for what there was."""
        self.waiters.append(self.portal.start_task_soon(self.run.wait))

    @precondition(lambda self: self.status != "pending")
    @rule()
    def enter_again(self) -> None:
        with pytest.raises(FitbusError, match="was started before"):
            self.portal.call(self.run.__aenter__)

    @rule()
    def snapshot(self) -> None:
        state = self.portal.call(self.run.snapshot)
        assert int(state.step) == self.start_step + self.steps
        # What was sent before the start acts at the start.
        assert float(state.opt_state.hyperparams["learning_rate"]) == np.float32(self.rate)

    @precondition(lambda self: self.status in FINAL)
    @rule()
    def subscribe_late(self) -> None:
        with pytest.raises(RunEndedError):
            self.run.add(print, TrainEnd)
        with pytest.raises(RunEndedError):
            self.portal.call(self.run.wait_for, TrainEnd)

    @precondition(lambda self: self.status in FINAL)
    @rule()
    def another(self) -> None:
        """The trainer is free for the next one."""
        self.check_end()
        self.make()

    # What always holds.

    @invariant()
    def its_status_is_as_it_has_to_be(self) -> None:
        assert self.run.status == self.status
        assert self.run.stopping == self.stopping
        assert (self.run.report is not None) == (self.status in FINAL)

    @invariant()
    def each_receipt_is_settled_once_as_it_has_to_be(self) -> None:
        for receipt, expected in zip(self.receipts, self.expected, strict=True):
            assert (receipt.outcome is None) == (expected is None)
            if expected is not None:
                assert isinstance(receipt.outcome, expected)
                assert self.outcomes.setdefault(receipt.id, receipt.outcome) is receipt.outcome

    @invariant()
    def its_state_can_be_had_unless_it_is_live(self) -> None:
        if self.status in ("running", "paused"):
            with pytest.raises(TrainerBusyError):
                _ = TRAINER.state
        else:
            state = TRAINER.state
            assert int(state.step) == self.start_step + self.steps
            assert float(state.opt_state.hyperparams["learning_rate"]) == np.float32(self.rate)

    @invariant()
    def its_end_is_told_once(self) -> None:
        reasons = [event.reason for event in self.recorder.of(TrainEnd)]
        assert reasons == ([self.status] if self.status in FINAL else [])

    def check_end(self) -> None:
        """All that was told, and what everybody gets who waits."""
        self.driving.result(PATIENCE_S)
        events = self.recorder.events
        assert [event.seq for event in events] == list(range(len(events)))
        assert isinstance(events[-1], TrainEnd)
        assert [event.step for event in self.recorder.of(BatchEnd)] == [
            self.start_step + 1 + step for step in range(self.steps)
        ]
        told = [e.id for e in events if isinstance(e, ControlApplied | ControlRejected)]
        assert len(told) == len(set(told))
        in_time = [r for r in self.receipts if "too late" not in str(r.outcome)]
        assert sorted(told) == [receipt.id for receipt in in_time]
        self.told.append(self.run.status)
        for one, other in itertools.pairwise(self.told):
            assert one == other or other in LEGAL[one]
        ended = self.portal.start_task_soon(self.run.wait)
        for waiter in (*self.waiters, ended):
            error = waiter.exception(PATIENCE_S)
            if self.status == "failed":
                assert isinstance(error, BrokenError)
            elif self.status == "cancelled":
                assert isinstance(error, RunCancelledError)
            else:
                history = waiter.result()
                assert history is ended.result()
                epochs = [event.epoch for event in self.recorder.of(EpochEnd)]
                assert history.epoch == epochs == list(range(-(-self.steps // BATCHES)))

    def teardown(self) -> None:
        """Ends it, whatever it is at, so that nothing is left for the next one."""
        try:
            if hasattr(self, "run"):
                if self.status == "pending":
                    self.start()
                if self.status in ("running", "paused"):
                    self.cancel()
                self.check_end()
                assert TRAINER.bus.statistics().subscriptions == ()
        finally:
            self.exit.close()


def on(name: str, backend: tuple[str, dict[str, Any]]) -> type[RunMachine]:
    return type(name, (RunMachine,), {"backend": backend})


def case(machine: type[RunMachine]) -> Callable[..., Any]:
    test: Any = machine.TestCase
    test.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)
    return pytest.mark.slow(test)  # type: ignore[no-any-return]


TestOnAsyncio = case(on("OnAsyncio", ("asyncio", {})))
TestOnUvloop = case(on("OnUvloop", ("asyncio", {"use_uvloop": True})))
TestOnTrio = case(on("OnTrio", ("trio", {})))
