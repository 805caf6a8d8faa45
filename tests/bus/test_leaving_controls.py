"""A loop by hand that leaves the `for` over the pending controls early."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

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
from fitbus.control import Applied, Receipt, Rejected, Superseded
from fitbus.testing import EventRecorder

TOO_LATE = Rejected("too late: the run has ended")


def obey_one(publisher: Publisher) -> Control | None:
    """Leaves by `return`."""
    for control in publisher.boundary():
        return control
    return None


def break_off(publisher: Publisher) -> Control | None:
    """Leaves by `break`."""
    found: list[Control] = []
    for control in publisher.boundary():
        found.append(control)
        if found:
            break
    return found[0] if found else None


LEAVE = pytest.mark.parametrize("leave", [obey_one, break_off])
GO_ON: dict[str, Callable[[Publisher], object]] = {
    "boundary": lambda publisher: publisher.boundary(),
    "publish": lambda publisher: publisher.publish(EpochEnd()),
    "barrier": lambda publisher: publisher.barrier(EpochEnd()),
    "stand still": lambda publisher: publisher.stand_still(lambda: True),
    "close": lambda publisher: publisher.close(),
}


@LEAVE
@pytest.mark.parametrize("go_on", GO_ON.values(), ids=GO_ON)
def test_what_it_left_at_acted_there(
    leave: Callable[[Publisher], Control | None], go_on: Callable[[Publisher], object]
) -> None:
    """The next call of the publisher tells it, before all else, and where it acted."""
    bus = Bus()
    recorder = EventRecorder()
    bus.add(recorder, Event)
    publisher = bus.publisher()
    receipt = publisher.post(StopTraining())
    publisher.step, publisher.epoch = 7, 2
    assert leave(publisher) == StopTraining()
    publisher.step, publisher.epoch = 8, 3
    go_on(publisher)
    assert receipt.outcome == Applied(7, 2)
    publisher.publish(EpochEnd())
    publisher.boundary()
    event = recorder.events[0]
    assert isinstance(event, ControlApplied)
    assert (event.step, event.epoch, event.id) == (7, 2, 0)
    assert (publisher.step, publisher.epoch) == (8, 3)


@LEAVE
def test_what_it_did_not_get_waits_for_the_next_boundary(
    leave: Callable[[Publisher], Control | None],
) -> None:
    """In front, in order; one that is sent later for the same thing supersedes one of these."""
    publisher = Bus().publisher()
    controls = [Pause(), SetLearningRate(0.1), ScaleLearningRate(2.0)]
    receipts = [publisher.post(control) for control in controls]
    assert leave(publisher) == Pause()
    assert [receipt.outcome for receipt in receipts[1:]] == [None, None]
    assert len(publisher.inbox) == 2
    receipts += [publisher.post(control) for control in (StopTraining(), SetLearningRate(0.2))]
    assert [*publisher.boundary()] == [ScaleLearningRate(2.0), StopTraining(), SetLearningRate(0.2)]
    assert [receipt.outcome for receipt in receipts] == [
        Applied(0, 0),
        Superseded(4),
        *[Applied(0, 0)] * 3,
    ]


@LEAVE
def test_what_it_did_not_get_is_too_late_at_the_end(
    leave: Callable[[Publisher], Control | None],
) -> None:
    with Bus().publisher() as publisher:
        receipts = [publisher.post(Pause()) for _ in range(3)]
        leave(publisher)
    assert [receipt.outcome for receipt in receipts] == [Applied(0, 0), TOO_LATE, TOO_LATE]


def test_what_it_rejected_before_it_left_stays_rejected() -> None:
    """Also what it rejects just after."""
    publisher = Bus().publisher()
    receipts = [publisher.post(Pause()) for _ in range(2)]
    for _ in publisher.boundary():
        publisher.reject("no pauses")
        break
    break_off(publisher)
    publisher.reject("nor these")
    publisher.boundary()
    assert [receipt.outcome for receipt in receipts] == [
        Rejected("no pauses"),
        Rejected("nor these"),
    ]


def fail() -> None:
    raise ValueError


def fail_at_once(publisher: Publisher) -> None:
    for _ in publisher.boundary():
        raise KeyError("failed")


def in_with(publisher: Publisher) -> None:
    """Closed by its block."""
    with publisher:
        fail_at_once(publisher)


def in_finally(publisher: Publisher) -> None:
    """Tells of its end on every way out, as the guide does."""
    try:
        fail_at_once(publisher)
    finally:
        publisher.publish(EpochEnd())
        publisher.close()


@pytest.mark.parametrize("train", [in_with, in_finally])
@pytest.mark.parametrize("around", [False, True])
def test_an_error_in_its_body_rejects_what_it_was_at(
    train: Callable[[Publisher], None], around: bool
) -> None:
    """Also where all that happens while another error is dealt with."""
    bus = Bus()
    recorder = EventRecorder()
    bus.add(recorder, ControlApplied, ControlRejected)
    publisher = bus.publisher()
    receipts = [publisher.post(Pause()) for _ in range(2)]

    def run() -> None:
        with contextlib.suppress(KeyError):
            train(publisher)

    if around:
        try:
            fail()
        except ValueError:
            run()
    else:
        run()
    why = "the loop raised KeyError before it went on; send it again"
    assert [receipt.outcome for receipt in receipts] == [Rejected(why), TOO_LATE]


def test_an_error_that_is_dealt_with_around_the_loop_is_none_of_its_own() -> None:
    publisher = Bus().publisher()
    receipt = publisher.post(Pause())
    try:
        fail()
    except ValueError:
        with publisher:
            break_off(publisher)
    assert receipt.outcome == Applied(0, 0)


def test_closing_in_the_midst_rejects_what_it_is_at() -> None:
    """And what comes after it: the loop has said that it is over."""
    publisher = Bus().publisher()
    receipts = [publisher.post(Pause()) for _ in range(3)]
    seen = 0
    for _ in publisher.boundary():
        seen += 1
        publisher.close()
        assert {receipt.outcome for receipt in receipts} == {TOO_LATE}
    assert seen == 1
    assert {receipt.outcome for receipt in receipts} == {TOO_LATE}
    assert len(publisher.inbox) == 0


def test_a_boundary_within_the_body_disturbs_nothing() -> None:
    """Each `for` acknowledges its own, and `reject` means the one that was yielded last."""
    publisher = Bus().publisher()
    outer = publisher.post(Pause())
    inner: list[Receipt] = []
    for _ in publisher.boundary():
        inner += [publisher.post(StopTraining(str(n + 1))) for n in range(2)]
        for control in publisher.boundary():
            if control == StopTraining("1"):
                publisher.reject("not that one")
        publisher.reject("nor this")
    assert [receipt.outcome for receipt in (outer, *inner)] == [
        Rejected("nor this"),
        Rejected("not that one"),
        Applied(0, 0),
    ]


@pytest.mark.anyio
async def test_closing_in_another_thread_acknowledges_it_too() -> None:
    """The thread of the loop has ended by then."""
    publisher = Bus().publisher()
    receipt = publisher.post(StopTraining())
    await anyio.to_thread.run_sync(break_off, publisher)
    publisher.publish(EpochEnd())  # by somebody else: says nothing about the loop
    assert receipt.outcome is None
    publisher.close()
    assert await receipt == Applied(0, 0)
