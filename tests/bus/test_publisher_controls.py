"""How a training loop by hand takes, applies, rejects and acknowledges controls."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import pytest

from fitbus import (
    Bus,
    Control,
    ControlApplied,
    ControlRejected,
    EpochEnd,
    Event,
    Pause,
    ScaleLearningRate,
    SetLearningRate,
    StopTraining,
)
from fitbus.bus import Publisher
from fitbus.control import Applied, Inbox, Rejected, Superseded
from fitbus.errors import (
    ControlRejectedError,
    WouldDeadlockError,
)
from fitbus.testing import EventRecorder, Gate

pytestmark = pytest.mark.anyio

T = TypeVar("T")


class Tick(Event):
    """What these tests publish."""

    number: int


async def in_thread(function: Callable[[], T]) -> T:
    """Runs a training loop by hand in a thread."""
    with anyio.fail_after(30):
        return await anyio.to_thread.run_sync(function, abandon_on_cancel=True)


def test_a_boundary_yields_controls_and_going_on_acknowledges_them() -> None:
    """In the order of sending, with the step and the epoch; then an event tells it."""
    bus = Bus()
    recorder = EventRecorder()
    bus.add(recorder, ControlApplied, ControlRejected)
    publisher = bus.publisher()
    receipts = [
        publisher.post(Pause(), "one"),
        publisher.post(SetLearningRate(0.1), "two"),
        publisher.post(ScaleLearningRate(2.0), "three"),
        publisher.post(SetLearningRate(0.2), "four"),
    ]
    publisher.step, publisher.epoch = 3, 1
    outcomes: list[list[Any]] = []
    controls: list[Control] = []
    for control in publisher.boundary():
        outcomes.append([receipt.outcome for receipt in receipts])
        controls.append(control)
        if isinstance(control, ScaleLearningRate):
            publisher.reject("no scaling here")
    publisher.boundary()
    applied = Applied(step=3, epoch=1, result=None)
    assert outcomes[0] == [None, None, None, None]
    assert outcomes[1][0] == applied
    kinds = [type(receipt.outcome) for receipt in receipts]
    assert kinds.count(Superseded) == 1
    assert receipts[2].outcome == Rejected("no scaling here")
    assert receipts[3].outcome == applied
    told = [(type(e), e.id, e.source) for e in recorder.of(ControlApplied)]
    assert told == [(ControlApplied, 0, "one"), (ControlApplied, 3, "four")]
    assert [(e.id, e.why) for e in recorder.of(ControlRejected)] == [
        (1, "superseded by 3"),
        (2, "no scaling here"),
    ]
    assert [*publisher.boundary()] == []


def test_with_apply_a_boundary_applies_controls_itself() -> None:
    """With its result, or the reason why not; it yields none, and training is never raised to."""
    applied: list[tuple[Control, str]] = []

    def apply(control: Control, source: str) -> object:
        if isinstance(control, Pause):
            raise ControlRejectedError(control, "no pauses")
        if isinstance(control, ScaleLearningRate):
            raise KeyError("factor")
        applied.append((control, source))
        return {"rate": 0.1}

    publisher = Bus().publisher(apply=apply)
    receipts = [
        publisher.post(control, "me")
        for control in (
            SetLearningRate(0.1),
            Pause(),
            ScaleLearningRate(2.0),
            SetLearningRate(0.2),
        )
    ]
    assert [receipt.outcome for receipt in receipts] == [None] * 4
    assert [*publisher.boundary()] == []
    assert applied == [(SetLearningRate(0.2), "me")]
    assert receipts[0].outcome == Superseded(3)
    assert receipts[3].outcome == Applied(0, 0, {"rate": 0.1})
    assert receipts[3].result() == Applied(0, 0, {"rate": 0.1})
    assert receipts[1].outcome == Rejected("no pauses")
    assert receipts[2].outcome == Rejected("applying it raised KeyError: 'factor'")


def test_with_apply_a_def_handlers_control_acts_on_the_spot() -> None:
    """The next handler sees it; its sender may ask for the result. Without, that is refused."""
    rates = [0.1]
    seen: list[float] = []

    def apply(control: Control, source: str) -> None:
        assert isinstance(control, SetLearningRate)
        rates.append(control.value)

    for bus, given in ((Bus(), apply), (Bus(), None)):
        publisher = bus.publisher(apply=given)

        def post(event: Tick, publisher: Any = publisher, given: Any = given) -> Control:
            receipt = publisher.post(SetLearningRate(0.2))
            if given is None:
                with pytest.raises(WouldDeadlockError, match="let the handler return"):
                    receipt.result()
            else:
                assert receipt.result() == Applied(0, 0)
                seen.append(rates[-1])
            return SetLearningRate(0.3)

        bus.add(post, Tick)
        bus.add(lambda event: seen.append(rates[-1]), Tick)
        publisher.barrier(Tick(number=0))
        publisher.boundary()
    assert seen == [0.2, 0.3, 0.3]


async def test_controls_of_waiting_async_handlers_are_applied_in_subscription_order() -> None:
    """After all have returned, however long each took, and before the first `def` handler."""
    applied: list[Control] = []
    at_def: list[int] = []
    second = Gate()

    async def slow(event: EpochEnd) -> list[Control]:
        await second.pass_async()
        return [ScaleLearningRate(0.5), Pause()]

    async def quick(event: EpochEnd) -> Control:
        second.open()
        return StopTraining("quick")

    async with Bus() as bus:
        bus.add(lambda event: at_def.append(len(applied)), EpochEnd)
        bus.add(slow)
        bus.add(quick)
        publisher = bus.publisher(apply=lambda control, source: applied.append(control))
        await in_thread(lambda: publisher.barrier(EpochEnd()))
    assert applied == [ScaleLearningRate(0.5), Pause(), StopTraining("quick")]
    assert at_def == [3]


async def test_standing_still_serves_the_inbox_until_something_holds() -> None:
    """In the training thread; a control wakes it."""
    applied: list[tuple[Control, int]] = []
    ticks: list[int] = []
    bus = Bus()
    publisher = bus.publisher(
        apply=lambda control, source: applied.append((control, threading.get_ident()))
    )
    publisher.on_standstill = lambda: ticks.append(threading.get_ident())
    standing = Gate()

    def train() -> int:
        def until() -> bool:
            standing.open()
            return len(applied) == 3

        publisher.stand_still(until)
        return threading.get_ident()

    result: list[int] = []

    async def run() -> None:
        result.append(await in_thread(train))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await standing.pass_async()
        for factor in (1.0, 2.0, 3.0):
            receipt = publisher.post(ScaleLearningRate(factor))
            with anyio.fail_after(30):
                assert await receipt == Applied(0, 0)
    assert applied == [(ScaleLearningRate(factor), result[0]) for factor in (1.0, 2.0, 3.0)]
    assert set(ticks) == set(result)


async def test_waiting_for_handlers_serves_the_inbox() -> None:
    """A waiting handler sends a control, and is answered before it returns."""
    answers: list[Applied] = []
    async with Bus() as bus:
        publisher = bus.publisher(apply=lambda control, source: source)

        async def steer(event: EpochEnd) -> None:
            with anyio.fail_after(30):
                answers.append(await publisher.post(Pause(), "steer"))

        bus.add(steer)
        await in_thread(lambda: publisher.barrier(EpochEnd()))
    assert answers == [Applied(0, 0, "steer")]


def test_controls_sent_before_the_loop_starts_wait_in_its_inbox() -> None:
    """One that was made before the run, and is given to it."""
    inbox = Inbox()
    receipt = inbox.post(StopTraining("early"))
    publisher = Publisher(Bus(), inbox=inbox)
    assert [*publisher.boundary()] == [StopTraining("early")]
    assert receipt.outcome == Applied(0, 0)
