"""Controls that handlers return: what becomes of those that can't be sent, or don't act."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import pytest

from fitbus import (
    Bus,
    Control,
    EpochEnd,
    Event,
    Pause,
    ScaleLearningRate,
    SetLearningRate,
    StopTraining,
)
from fitbus.bus import Publisher
from fitbus.control import Applied, Rejected
from fitbus.errors import ControlRejectedError, InvalidArgumentError, InvalidHandlerError

pytestmark = pytest.mark.anyio

T = TypeVar("T")


class Tick(Event):
    """What these tests publish."""


class Bad(Control):
    """Its key raises."""

    @property
    def key(self) -> str | None:
        """An author's mistake."""
        raise KeyError("layer")


class Unprintable:
    """A result that no message can hold."""

    def __repr__(self) -> str:
        raise OSError("no words")


async def in_thread(function: Callable[[], T]) -> T:
    with anyio.fail_after(30):
        return await anyio.to_thread.run_sync(function, abandon_on_cancel=True)


def refuse(control: Control, source: str) -> object:
    """Applies nothing but a `Pause`."""
    if isinstance(control, Pause):
        return None
    raise ControlRejectedError(control, f"no {type(control).__name__} here")


async def published(bus: Bus, publisher: Publisher, times: int = 3) -> None:
    """Publishes a few, and lets all that comes of it be applied."""

    def train() -> None:
        for _ in range(times):
            publisher.barrier(Tick())
            publisher.boundary()

    await in_thread(train)
    await bus.drain(None, 30)
    await in_thread(publisher.boundary)


def handler_of(result: Callable[[], object], *, is_async: bool) -> Callable[[Event], Any]:
    """A handler that returns something."""

    def steer(event: Event) -> object:
        return result()

    async def steer_async(event: Event) -> object:
        return result()

    return steer_async if is_async else steer


HANDLERS = pytest.mark.parametrize(
    ("is_async", "wait"), [(False, True), (False, False), (True, True), (True, False)]
)


@HANDLERS
async def test_a_rejected_one_is_logged_once(
    is_async: bool, wait: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """For each handler and reason, with both: nobody else has its receipt."""
    results: list[Control] = [ScaleLearningRate(0.1), StopTraining(), ScaleLearningRate(0.1)]
    async with Bus() as bus:
        publisher = bus.publisher(apply=refuse)
        for name in ("one", "two"):
            left = list(results)
            steer = handler_of(lambda left=left: [left.pop(), Pause()], is_async=is_async)  # type: ignore[misc]
            bus.add(steer, Tick, wait=wait, name=name)
        with caplog.at_level(logging.WARNING, "fitbus"):
            await published(bus, publisher)
    told = [record.getMessage() for record in caplog.records if record.name == "fitbus"]
    assert sorted(told) == [
        f"run 'run-1': handler '{name}' returned {control!r}, which was rejected: {why}"
        for name in ("one", "two")
        for control, why in (
            (ScaleLearningRate(0.1), "no ScaleLearningRate here"),
            (StopTraining(), "no StopTraining here"),
        )
    ]
    assert {record.levelname for record in caplog.records} == {"WARNING"}


async def test_each_run_logs_it_again(caplog: pytest.LogCaptureFixture) -> None:
    async with Bus() as bus:
        bus.add(handler_of(StopTraining, is_async=False), Tick, name="steer")
        for _ in range(2):
            with bus.publisher(apply=refuse) as publisher:
                await published(bus, publisher)
    assert [record.getMessage()[:11] for record in caplog.records] == ["run 'run-1'", "run 'run-2'"]


async def test_a_loop_by_hand_that_rejects_one_logs_it(caplog: pytest.LogCaptureFixture) -> None:
    async with Bus() as bus:
        bus.add(handler_of(StopTraining, is_async=True), Tick, wait=True, name="steer")
        publisher = bus.publisher()

        def train() -> None:
            publisher.barrier(Tick())
            for _ in publisher.boundary():
                publisher.reject("not now")

        await in_thread(train)
    (record,) = caplog.records
    assert record.getMessage() == (
        f"run 'run-1': handler 'steer' returned {StopTraining()!r}, which was rejected: not now"
    )


async def test_what_is_no_news_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Superseded, too late, sent with a receipt, or applied."""
    rates = iter([SetLearningRate(0.1), SetLearningRate(0.2)] * 2)
    late: list[Control] = [Pause()]

    def refuse_late(control: Control, source: str) -> None:
        if isinstance(control, StopTraining):
            raise ControlRejectedError(control, "too late: the run is at its end")
        if source == "sender":
            raise ControlRejectedError(control, "no")

    async with Bus() as bus:
        publisher = bus.publisher(apply=refuse_late)
        for name in ("one", "two"):
            bus.add(
                handler_of(lambda: [next(rates), *late], is_async=True), Tick, wait=True, name=name
            )
        bus.add(handler_of(StopTraining, is_async=False), Tick)
        receipt = publisher.post(Pause(), "sender")
        await published(bus, publisher, 2)
        assert receipt.outcome == Rejected("no")
        bus.add(handler_of(Pause, is_async=True), EpochEnd, wait=False)
        publisher.publish(EpochEnd())
        await bus.drain(None, 30)
        assert len(publisher.inbox) == 1
        publisher.close("that was it")  # with one waiting, and others to come
    assert caplog.records == []


@HANDLERS
async def test_one_that_cannot_be_sent_is_an_error_of_its_handler(
    is_async: bool, wait: bool
) -> None:
    """As what it raises would be; those before it in its list are sent."""
    async with Bus() as bus:
        publisher = bus.publisher(apply=refuse)
        subscription = bus.add(
            handler_of(lambda: [Pause(), Bad()], is_async=is_async), Tick, wait=wait
        )
        with pytest.raises(InvalidArgumentError, match=r"Bad\.key must be a text or None; it rai"):
            await published(bus, publisher)
        assert subscription.statistics().errors == 1
        publisher.close()


async def test_one_that_cannot_be_sent_leaves_others_alone() -> None:
    """With `on_error="log"` training goes on, and so does the handler."""
    async with Bus() as bus:
        publisher = bus.publisher(apply=refuse)
        bad = [
            bus.add(handler_of(Bad, is_async=True), Tick, wait=wait, on_error="log")
            for wait in (True, False)
        ]
        # One that waits, for what another thread published, isn't waited for: its answer is posted.
        publisher.publish(Tick())
        await published(bus, publisher, 2)
        assert [s.statistics().delivered for s in bad] == [3, 3]
        assert [s.statistics().errors for s in bad] == [3, 3]


@HANDLERS
@pytest.mark.parametrize("in_list", [False, True])
async def test_a_class_is_refused_with_what_was_meant(
    is_async: bool, wait: bool, in_list: bool
) -> None:
    async with Bus() as bus:
        publisher = bus.publisher(apply=refuse)
        result: Any = [Pause(), StopTraining] if in_list else StopTraining
        bus.add(handler_of(lambda: result, is_async=is_async), Tick, wait=wait)
        with pytest.raises(InvalidHandlerError) as caught:
            await published(bus, publisher)
        assert caught.value.allowed == (
            "return None, a Control or a list of controls; StopTraining is the class: return an"
            " instance, `StopTraining()`"
        )
        publisher.close()


async def test_a_notice_that_cannot_be_published_still_settles_the_receipt() -> None:
    """And those after it: whatever ends a run, nobody waits for ever."""
    bus = Bus()
    publisher = bus.publisher(apply=lambda control, source: Unprintable())
    receipts = [publisher.post(Pause()) for _ in range(3)]
    with pytest.raises(OSError, match="no words"):
        publisher.boundary()
    assert isinstance(receipts[0].outcome, Applied)
    left_off = Rejected("the loop left off before it acted on it; send it again")
    assert [receipt.outcome for receipt in receipts[1:]] == [left_off, left_off]
    with anyio.fail_after(30):
        with pytest.raises(ControlRejectedError):
            await receipts[2]
