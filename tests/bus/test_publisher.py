"""A training loop by hand over a `Publisher`: what it publishes, waits for, and how it ends."""

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
    EpochEnd,
    Event,
    Pause,
    StopTraining,
    TestEnd,
    TrainBegin,
)
from fitbus.bus import Hook, Options
from fitbus.control import Rejected
from fitbus.errors import (
    InvalidArgumentError,
    RunCancelledError,
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
