"""A training loop by hand over a `Publisher`: what it publishes, waits for and is told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import pytest

from fitbus import (
    BatchEnd,
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
    TestEnd,
    TrainBegin,
)
from fitbus.bus import Hook, Options, Publisher
from fitbus.control import Applied, Inbox, Rejected, Superseded
from fitbus.errors import (
    ControlRejectedError,
    InvalidArgumentError,
    RunCancelledError,
    WouldDeadlockError,
)
from fitbus.testing import EventRecorder, Gate

pytestmark = pytest.mark.anyio

T = TypeVar("T")


class Tick(Event):
    """What these tests publish."""

    number: int


class Tock(Tick):
    """A special one."""


async def in_thread(function: Callable[[], T]) -> T:
    """Runs a training loop by hand in a thread."""
    with anyio.fail_after(30):
        return await anyio.to_thread.run_sync(function, abandon_on_cancel=True)


def in_new_thread(function: Callable[[], object]) -> None:
    """Runs something in a thread that isn't the training thread, to its end."""
    thread = threading.Thread(target=function)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()


def test_events_are_stamped_with_where_the_run_is() -> None:
    """Run, place, step, epoch and time; they are the same object for everybody."""
    bus = Bus()
    one, other = EventRecorder(), EventRecorder()
    bus.add(one, Event)
    bus.add(other, Event)
    publisher = bus.publisher(run="mine")
    publisher.barrier(Tick(number=0))
    publisher.step, publisher.epoch = 7, 2
    publisher.barrier(Tick(number=1))
    assert [(e.run, e.seq, e.step, e.epoch) for e in one.events] == [
        ("mine", 0, 0, 0),
        ("mine", 1, 7, 2),
    ]
    assert 0 < one.events[0].time <= one.events[1].time
    assert all(a is b for a, b in zip(one.events, other.events, strict=True))


def test_an_event_published_twice_is_two() -> None:
    """What was handed out first stays as it was, in another run too."""
    bus = Bus()
    recorder = EventRecorder()
    bus.add(recorder, Tick)
    event = Tick(number=5)
    for publisher in (bus.publisher(), bus.publisher()):
        publisher.barrier(event)
        publisher.barrier(event)
    assert [(e.run, e.seq) for e in recorder.events] == [
        ("run-1", 0),
        ("run-1", 1),
        ("run-2", 0),
        ("run-2", 1),
    ]
    assert {e.number for e in recorder.of(Tick)} == {5}


def test_seq_has_no_gaps_whoever_publishes_and_however() -> None:
    """`publish` in two threads, `barrier`, outcomes of controls, failures; but for `skip`."""
    bus = Bus()
    recorder = EventRecorder()
    bus.add(recorder, Event)

    def fail(event: TestEnd) -> None:
        raise ValueError

    bus.add(fail, TestEnd, on_error="log")
    publisher = bus.publisher()
    publisher.barrier(TrainBegin(epochs=1))
    in_new_thread(lambda: publisher.publish(Tick(number=0)))
    publisher.barrier(TestEnd(logs={}))
    publisher.post(Pause())
    assert [*publisher.boundary()] == [Pause()]
    publisher.skip((BatchEnd, BatchEnd))
    publisher.publish(Tick(number=1))
    publisher.close()
    assert [(e.seq, type(e).__name__) for e in sorted(recorder.events, key=lambda e: e.seq)] == [
        (0, "TrainBegin"),
        (1, "Tick"),
        (2, "TestEnd"),
        (3, "HandlerFailed"),
        (4, "ControlApplied"),
        (7, "Tick"),
    ]


def test_runs_have_ids_of_their_own() -> None:
    """Numbered by bus; one that is live can't be taken twice."""
    bus = Bus()
    assert [bus.publisher().run for _ in range(2)] == ["run-1", "run-2"]
    bus.publisher(run="mine")
    with pytest.raises(InvalidArgumentError, match=r"^run: found 'mine'"):
        bus.publisher(run="mine")
    bus.finish_run("mine")
    assert bus.publisher(run="mine").run == "mine"
    assert Bus().publisher().run == "run-1"


def test_what_is_no_event_is_refused() -> None:
    publisher = Bus().publisher()
    nonsense: Any = "EpochEnd"
    for send in (publisher.publish, publisher.barrier):
        with pytest.raises(InvalidArgumentError, match=r"^event: "):
            send(nonsense)


def test_wanted_and_waits_tell_who_listens() -> None:
    """By base classes too, and as of now: subscribing and cancelling change the answers."""
    bus = Bus()
    publisher = bus.publisher()
    answers = [(publisher.wanted(Tock), publisher.waits(Tock))]
    concurrent = bus.add(lambda event: None, Tick, wait=False)
    answers.append((publisher.wanted(Tock), publisher.waits(Tock)))
    waiting = bus.add(lambda event: None, Event)
    answers.append((publisher.wanted(Tock), publisher.waits(Tock)))
    concurrent.cancel()
    answers.append((publisher.wanted(Tock), publisher.waits(Tock)))
    waiting.cancel()
    answers.append((publisher.wanted(Tock), publisher.waits(Tock)))
    assert answers == [(False, False), (True, False), (True, True), (True, True), (False, False)]
    assert not publisher.waits(EpochEnd)


def test_a_barrier_returns_the_logs_that_hooks_have_added_to() -> None:
    """`def` hooks that share logs see each other's additions; the event stays as it is."""
    bus = Bus()
    seen: list[dict[str, float]] = []
    events: list[EpochEnd] = []

    def add(event: EpochEnd, logs: dict[str, float]) -> None:
        seen.append(dict(logs))
        events.append(event)
        logs[f"added-{len(seen)}"] = 1.0

    for name in ("one", "two"):
        hook = Hook(add, is_async=False, wait=True, shares_logs=True)
        bus.attach_subscription([EpochEnd], Options(), name=name, hook=hook)
    publisher = bus.publisher()
    logs = publisher.barrier(EpochEnd(logs={"loss": 0.5}))
    assert logs == {"loss": 0.5, "added-1": 1.0, "added-2": 1.0}
    assert seen == [{"loss": 0.5}, {"loss": 0.5, "added-1": 1.0}]
    assert events[0].logs == {"loss": 0.5}
    assert publisher.barrier(Tick(number=0)) == {}


def test_def_handlers_of_other_threads_events_are_called_at_the_next_boundary() -> None:
    """In the training thread, in order, each once; a barrier makes up for what was before it."""
    bus = Bus()
    calls: list[tuple[int, int]] = []
    bus.add(lambda event: calls.append((event.number, threading.get_ident())), Tick)
    publisher = bus.publisher()
    here = threading.get_ident()

    def publish() -> None:
        for number in range(3):
            publisher.publish(Tick(number=number))

    in_new_thread(publish)
    publisher.publish(Tick(number=3))
    assert calls == []
    publisher.boundary()
    assert calls == [(number, here) for number in range(4)]
    publisher.boundary()
    in_new_thread(lambda: publisher.publish(Tick(number=4)))
    publisher.barrier(Tick(number=5))
    in_new_thread(lambda: publisher.publish(Tick(number=6)))
    publisher.close()
    assert calls == [(number, here) for number in range(7)]


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


def test_controls_that_a_loop_leaves_off_are_rejected() -> None:
    """The one that it broke off at, and those after it: nobody waits for ever."""
    publisher = Bus().publisher()
    receipts = [publisher.post(Pause()) for _ in range(3)]
    for control in publisher.boundary():
        assert control == Pause()
        if receipts[0].outcome is not None:
            break
    assert isinstance(receipts[0].outcome, Applied)
    for receipt in receipts[1:]:
        assert isinstance(receipt.outcome, Rejected)
        assert "left off" in receipt.outcome.why


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
        for control in (SetLearningRate(0.1), Pause(), ScaleLearningRate(2.0))
    ]
    assert [receipt.outcome for receipt in receipts] == [None] * 3
    assert [*publisher.boundary()] == []
    assert applied == [(SetLearningRate(0.1), "me")]
    assert receipts[0].outcome == Applied(0, 0, {"rate": 0.1})
    assert receipts[0].result() == Applied(0, 0, {"rate": 0.1})
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


async def test_cancelling_ends_all_waits_and_raises_at_the_boundary() -> None:
    """Of a handler for which it waits: after `within_s`. It is then late for the next ones, too."""
    gate = Gate()
    ended: list[str] = []
    async with Bus() as bus:
        publisher = bus.publisher()

        async def hang(event: EpochEnd) -> StopTraining:
            await gate.pass_async()
            return StopTraining("too late to count")

        bus.add(hang)

        def train() -> None:
            publisher.barrier(EpochEnd())
            ended.append("barrier")
            publisher.stand_still(lambda: False)
            ended.append("standstill")
            with pytest.raises(RunCancelledError, match="run 'run-1' was cancelled"):
                publisher.boundary()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(in_thread, train)
            await gate.wait_arrived()
            assert ended == []
            publisher.cancel(within_s=0.0)
        assert ended == ["barrier", "standstill"]
        gate.open()


def test_closing_loses_what_comes_later_and_refuses_controls() -> None:
    """Those that wait and those that come, with the reason; publishing never raises."""
    bus = Bus()
    recorder = EventRecorder()
    bus.add(recorder, Event)
    publisher = bus.publisher()
    waiting = publisher.post(Pause())
    publisher.close("it is over")
    publisher.publish(Tick(number=0))
    assert publisher.barrier(EpochEnd(logs={"loss": 1.0})) == {"loss": 1.0}
    publisher.close()
    assert waiting.outcome == Rejected("it is over")
    assert publisher.post(Pause()).outcome == Rejected("it is over")
    assert recorder.names == ["ControlRejected"]
    assert [*publisher.boundary()] == []
    assert publisher.closed


def test_controls_sent_before_the_loop_starts_wait_in_its_inbox() -> None:
    """One that was made before the run, and is given to it."""
    inbox = Inbox()
    receipt = inbox.post(StopTraining("early"))
    publisher = Publisher(Bus(), inbox=inbox)
    assert [*publisher.boundary()] == [StopTraining("early")]
    assert receipt.outcome == Applied(0, 0)
