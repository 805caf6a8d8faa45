"""What a handler's error does: to itself, to its run, and to nobody else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import pytest

from fitbus import Bus, EpochEnd, Event, HandlerFailed, Pause, StopTraining
from fitbus.bus import OnError
from fitbus.errors import FitbusError, HandlerTimeoutError, InvalidHandlerError
from fitbus.testing import EventRecorder, Gate

pytestmark = pytest.mark.anyio

T = TypeVar("T")
MODES = [(colour, wait) for colour in ("def", "async def") for wait in (True, False)]
modes = pytest.mark.parametrize(("colour", "wait"), MODES)


class Tick(Event):
    """What these tests publish."""

    number: int


class OwnError(Exception):
    """What handlers raise here."""


async def in_thread(function: Callable[[], T]) -> T:
    """Runs a training loop by hand in a thread."""
    with anyio.fail_after(30):
        return await anyio.to_thread.run_sync(function, abandon_on_cancel=True)


def breaking(colour: str, calls: list[int], at: int = 0) -> Callable[[Tick], Any]:
    """A handler that raises at each event from `at` on."""

    def call(event: Tick) -> None:
        calls.append(event.number)
        if event.number >= at:
            raise OwnError(f"at {event.number}")

    async def acall(event: Tick) -> None:
        call(event)

    return call if colour == "def" else acall


async def publish_three(
    handler: Callable[[Any], Any], **options: Any
) -> tuple[list[Any], BaseException | None, EventRecorder]:
    """Trains for three events; then the controls and the error that the boundary gave."""
    recorder = EventRecorder()
    async with Bus() as bus:
        bus.add(recorder, HandlerFailed)
        bus.add(handler, Tick, name="broken", **options)
        publisher = bus.publisher()

        def publish() -> None:
            for number in range(3):
                publisher.barrier(Tick(number=number))

        def end() -> tuple[list[Any], BaseException | None]:
            try:
                return [*publisher.boundary()], None
            except (OwnError, FitbusError) as error:
                return [], error
            finally:
                publisher.close()

        await in_thread(publish)
        await bus.drain(None, 30)
        controls, error = await in_thread(end)
    return controls, error, recorder


@modes
async def test_raise_fails_the_run_at_its_next_boundary(colour: str, wait: bool) -> None:
    """With the error as itself; the handler gets no further event."""
    calls: list[int] = []
    controls, error, recorder = await publish_three(breaking(colour, calls, at=1), wait=wait)
    assert isinstance(error, OwnError)
    assert str(error) == "at 1"
    assert controls == []
    assert calls == [0, 1]
    (failed,) = recorder.of(HandlerFailed)
    assert (failed.subscriber, failed.error, failed.event_seq) == ("broken", "OwnError: at 1", 1)


@modes
async def test_log_goes_on(colour: str, wait: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Each error is logged with its traceback and told by an event; the handler stays."""
    calls: list[int] = []
    handler = breaking(colour, calls, at=1)
    controls, error, recorder = await publish_three(handler, wait=wait, on_error="log")
    assert (controls, error) == ([], None)
    assert calls == [0, 1, 2]
    assert [failed.error for failed in recorder.of(HandlerFailed)] == [
        "OwnError: at 1",
        "OwnError: at 2",
    ]
    logged = [record for record in caplog.records if record.name == "fitbus"]
    assert [record.levelno for record in logged] == [logging.ERROR] * 2
    assert all(record.exc_info and record.exc_info[0] is OwnError for record in logged)


@modes
async def test_stop_sends_a_stop_that_names_the_cause(colour: str, wait: bool) -> None:
    calls: list[int] = []
    handler = breaking(colour, calls)
    controls, error, _ = await publish_three(handler, wait=wait, on_error="stop")
    assert error is None
    (stop,) = controls
    assert isinstance(stop, StopTraining)
    assert "broken raised OwnError: at 0" in stop.reason
    assert calls == [0]


@modes
async def test_unsubscribe_leaves_training_alone(colour: str, wait: bool) -> None:
    calls: list[int] = []
    handler = breaking(colour, calls)
    controls, error, recorder = await publish_three(handler, wait=wait, on_error="unsubscribe")
    assert (controls, error) == ([], None)
    assert calls == [0]
    assert len(recorder.events) == 1


@modes
@pytest.mark.parametrize("on_error", ["raise", "log"])
async def test_an_error_of_a_predicate_is_its_subscribers(
    colour: str, wait: bool, on_error: OnError
) -> None:
    """Dealt with as an error of the handler, which isn't called."""

    def judge(event: Tick) -> bool:
        raise OwnError(f"judged {event.number}")

    calls: list[int] = []
    _, error, recorder = await publish_three(
        breaking(colour, calls), wait=wait, where=judge, on_error=on_error
    )
    told = [failed.error for failed in recorder.of(HandlerFailed)]
    assert calls == []
    if on_error == "raise":
        assert isinstance(error, OwnError)
        assert told == ["OwnError: judged 0"]
    else:
        assert error is None
        assert told == [f"OwnError: judged {number}" for number in range(3)]


async def test_the_error_of_the_lowest_seq_leads_whenever_it_came() -> None:
    """A slow handler fails at an early event after others failed at a later one."""
    gate = Gate()

    async def slow(event: Tick) -> None:
        await gate.pass_async()
        raise OwnError("early event")

    def quick(event: EpochEnd) -> None:
        raise OwnError("late event")

    async with Bus() as bus:
        bus.add(quick)
        bus.add(slow, Tick, wait=False)
        publisher = bus.publisher()
        publisher.publish(Tick(number=0))
        await in_thread(lambda: publisher.barrier(EpochEnd()))
        with pytest.raises(OwnError, match="late event"):
            publisher.boundary()
        gate.open()
        await bus.drain(None, 30)
        with pytest.raises(OwnError, match="early event"):
            publisher.boundary()
        report = await bus.aclose()
    assert [note.split(",")[0] for note in report.errors] == [
        f"{name} raised OwnError: {what}"
        for name, what in (
            (quick.__qualname__, "late event"),
            (slow.__qualname__, "early event"),
        )
    ]


async def test_among_errors_at_one_event_the_first_subscriber_leads() -> None:
    """Whatever its mode, and whoever raised first; no sibling is cancelled by another's error."""
    gate = Gate()
    finished: list[str] = []

    def first(event: EpochEnd) -> None:
        raise OwnError("first")

    async def second(event: EpochEnd) -> None:
        gate.open()
        raise OwnError("second")

    async def third(event: EpochEnd) -> None:
        await gate.pass_async()
        await anyio.lowlevel.checkpoint()
        finished.append("third")

    async with Bus() as bus:
        for handler in (first, second, third):
            bus.add(handler)
        publisher = bus.publisher()
        await in_thread(lambda: publisher.barrier(EpochEnd()))
        with pytest.raises(OwnError, match="first"):
            publisher.boundary()
    assert finished == ["third"]


async def test_an_error_fails_the_run_of_its_event_only() -> None:
    """A handler that two runs share fails one of them."""
    async with Bus() as bus:
        bus.add(breaking("def", []), Tick)
        broken, whole = bus.publisher(), bus.publisher()
        broken.barrier(Tick(number=0))
        whole.barrier(Tick(number=1))  # nobody is subscribed any more
        with pytest.raises(OwnError):
            broken.boundary()
        assert [*whole.boundary()] == []


@pytest.mark.parametrize("wait", [True, False])
async def test_a_timeout_that_expires_is_an_error(wait: bool) -> None:
    """The call is cancelled where it stands."""
    ends: list[str] = []

    async def hang(event: Tick) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ends.append("cancelled")

    _, error, recorder = await publish_three(hang, wait=wait, timeout=0.01)
    assert isinstance(error, HandlerTimeoutError)
    assert isinstance(error, TimeoutError)
    assert "broken did not return within 0.01 s" in str(error)
    assert ends == ["cancelled"]
    assert len(recorder.events) == 1


@pytest.mark.parametrize("wait", [True, False])
async def test_a_timeout_that_does_not_expire_changes_nothing(wait: bool) -> None:
    async def answer(event: Tick) -> StopTraining | None:
        await anyio.lowlevel.checkpoint()
        return StopTraining("enough") if event.number == 2 else None

    controls, error, _ = await publish_three(answer, wait=wait, timeout=30)
    assert (controls, error) == ([StopTraining("enough")], None)


@modes
async def test_an_answer_is_nothing_or_controls(colour: str, wait: bool) -> None:
    """One, or a list of them; what else is returned is an error that says so."""
    answers: list[Any] = [None, [Pause(), StopTraining("x")], "stop"]

    def call(event: Tick) -> Any:
        return answers[event.number]

    async def acall(event: Tick) -> Any:
        return answers[event.number]

    handler: Callable[[Tick], Any] = call if colour == "def" else acall
    controls, error, _ = await publish_three(handler, wait=wait)
    assert controls == []
    assert isinstance(error, InvalidHandlerError)
    assert "return None, a Control or a list of controls" in str(error)
    answers[2] = StopTraining("y")
    controls, error, _ = await publish_three(handler, wait=wait)
    assert controls == [Pause(), StopTraining("x"), StopTraining("y")]
    assert error is None


@modes
@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
async def test_interrupts_leave_the_boundary_as_themselves(
    colour: str, wait: bool, interrupt: type[BaseException]
) -> None:
    """Whatever `on_error` says, and ahead of every error that came before."""

    def call(event: Tick) -> None:
        raise interrupt

    async def acall(event: Tick) -> None:
        raise interrupt

    async with Bus() as bus:
        bus.add(breaking("def", []), Tick)
        bus.add(call if colour == "def" else acall, Tick, wait=wait, on_error="log")
        publisher = bus.publisher()
        await in_thread(lambda: publisher.barrier(Tick(number=0)))
        await bus.drain(None, 30)
        with pytest.raises(interrupt):
            publisher.boundary()


async def test_a_handler_that_fails_at_failures_is_told_once() -> None:
    """Its own failure makes no further event, or it would go on for ever."""
    calls: list[HandlerFailed] = []

    async def worry(event: HandlerFailed) -> None:
        calls.append(event)
        raise OwnError("at a failure")

    async with Bus() as bus:
        bus.add(worry, on_error="log")
        bus.add(breaking("def", []), Tick, on_error="log")
        publisher = bus.publisher()
        publisher.barrier(Tick(number=0))
        await bus.drain(None, 30)
        publisher.boundary()
    assert [event.event_seq for event in calls] == [0]


@pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)
@pytest.mark.parametrize("wait", [True, False])
async def test_a_handler_whose_task_is_cancelled_natively_fails_alone(wait: bool) -> None:
    """By itself, for one: that is its error. Others go on, and closing isn't held up."""
    numbers: list[int] = []

    async def leave(event: Tick) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await anyio.sleep_forever()

    async def other(event: Tick) -> None:
        numbers.append(event.number)

    async with Bus() as bus:
        bus.add(other, Tick)
        bus.add(leave, Tick, wait=wait)
        publisher = bus.publisher()
        await in_thread(lambda: [publisher.barrier(Tick(number=i)) for i in range(3)])
        await bus.drain(None, 30)
        with pytest.raises(FitbusError, match="was cancelled while it ran"):
            publisher.boundary()
        assert [entry.name for entry in bus.statistics().subscriptions] == [other.__qualname__]
    assert numbers == [0, 1, 2]
