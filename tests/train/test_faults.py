"""Errors in every place: what leaves `fit` is the error itself, and nothing is left behind.

Scenario 27.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import fitbus
from fitbus import (
    BatchBegin,
    BatchEnd,
    EpochBegin,
    EpochEnd,
    Event,
    HandlerFailed,
    TestBatchEnd,
    TestBegin,
    TrainBegin,
    TrainEnd,
    handler,
)
from fitbus.testing import EventRecorder, Gate, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(64, 4)
X, Y = PROBLEM.x, PROBLEM.y
BATCH = (X[:32], Y[:32])
FOREVER = 10**6


class BoomError(Exception):
    """What the tests raise."""


class OddError(BaseException):
    """No `Exception`, as those of some test frameworks."""


@pytest.fixture(scope="module")
def trainer() -> fitbus.Trainer:
    """One for all, so that each test starts with what the last failure left."""
    return fitbus.Trainer(PROBLEM.task, PROBLEM.params)


def check_nothing_is_left(trainer: fitbus.Trainer) -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("fitbus"):
            thread.join(1)
            assert not thread.is_alive(), thread
    assert trainer.bus.statistics().subscriptions == ()
    assert trainer.state.step >= 0


async def failed(
    trainer: fitbus.Trainer,
    error: BaseException,
    x: Any = (X, Y),
    *,
    callbacks: Any = (),
    reason: str = "failed",
    **arguments: Any,
) -> list[Event]:
    """Fits until that error leaves; checks the way out. Returns the recorded events."""
    recorder = EventRecorder()
    arguments = {"batch_size": 32, "epochs": FOREVER, **arguments}
    data: tuple[Any, ...] = x if isinstance(x, tuple) else (x,)
    with pytest.raises(type(error)) as caught:
        await trainer.fit(*data, callbacks=[recorder, *callbacks], **arguments)
    assert caught.value is error
    (end,) = recorder.of(TrainEnd)
    assert end.reason == reason
    if reason == "failed":
        assert end.detail == f"{type(error).__name__}: {error}"
    assert [event.seq for event in recorder.events] == sorted(e.seq for e in recorder.events)
    check_nothing_is_left(trainer)
    before = int(trainer.state.step)
    history = await trainer.fit(X, Y, batch_size=32)
    assert history.epoch == [0]
    assert int(trainer.state.step) == before + 2
    return recorder.events


def raising(error: BaseException, after: int = 0) -> Iterator[Any]:
    yield from itertools.repeat(BATCH, after)
    raise error


async def raising_async(error: BaseException, after: int = 0) -> AsyncIterator[Any]:
    for _ in range(after):
        yield BATCH
    await anyio.lowlevel.checkpoint()
    raise error


# Data.


@pytest.mark.parametrize("after", [0, 3])
async def test_an_error_of_the_data(trainer: fitbus.Trainer, after: int) -> None:
    """At the first batch and in the middle of an epoch; the steps before it count."""
    error, before = BoomError("data"), int(trainer.state.step)
    events = await failed(trainer, error, raising(error, after))
    assert events[-1].step == before + after


@pytest.mark.parametrize("after", [0, 3])
async def test_an_error_of_an_async_source(trainer: fitbus.Trainer, after: int) -> None:
    error, before = BoomError("async data"), int(trainer.state.step)
    events = await failed(trainer, error, raising_async(error, after))
    assert events[-1].step == before + after


async def test_an_error_of_a_factory(trainer: fitbus.Trainer) -> None:
    error = BoomError("factory")

    def factory() -> Any:
        raise error

    await failed(trainer, error, factory)


@pytest.mark.parametrize("after", [0, 1])
async def test_an_error_of_the_validation_data(trainer: fitbus.Trainer, after: int) -> None:
    error = BoomError("validation data")
    await failed(trainer, error, validation_data=lambda: raising(error, after))


async def test_steps_in_flight_are_told_before_the_error(trainer: fitbus.Trainer) -> None:
    """Events of what was computed aren't lost, though the loop ran ahead."""
    error = BoomError("data")
    batches: list[int] = []

    @handler(BatchEnd, wait=False)
    async def keep(event: BatchEnd) -> None:
        batches.append(event.batch)

    with pytest.raises(BoomError):
        await trainer.fit(raising(error, 7), callbacks=[keep])
    assert batches == list(range(7))


# Handlers. Each factory makes one that raises.


def def_handler(error: BaseException) -> Any:
    def fail(event: EpochEnd) -> None:
        raise error

    return fail


def async_waiting_handler(error: BaseException) -> Any:
    async def fail(event: EpochEnd) -> None:
        await anyio.lowlevel.checkpoint()
        raise error

    return fail


def async_concurrent_handler(error: BaseException) -> Any:
    @handler(EpochEnd, wait=False)
    async def fail(event: EpochEnd) -> None:
        raise error

    return fail


def def_handler_in_a_worker(error: BaseException) -> Any:
    @handler(EpochEnd, wait=False)
    def fail(event: EpochEnd) -> None:
        raise error

    return fail


def predicate(error: BaseException, wait: bool) -> Any:
    def where(event: EpochEnd) -> bool:
        raise error

    @handler(EpochEnd, where=where, wait=wait)
    async def never(event: EpochEnd) -> None:
        raise AssertionError("its predicate failed")

    return never


def def_hook(error: BaseException) -> Any:
    class Fails(fitbus.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            raise error

    return Fails()


def async_hook(error: BaseException) -> Any:
    class Fails(fitbus.Callback):
        async def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            raise error

    return Fails()


def concurrent_hook(error: BaseException) -> Any:
    class Fails(fitbus.Callback):
        async def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            raise error

    return Fails()


HANDLERS: dict[str, Callable[[BaseException], Any]] = {
    "def handler": def_handler,
    "async waiting handler": async_waiting_handler,
    "async concurrent handler": async_concurrent_handler,
    "def handler in a worker": def_handler_in_a_worker,
    "predicate of a waiting handler": lambda error: predicate(error, wait=True),
    "predicate of a concurrent handler": lambda error: predicate(error, wait=False),
    "def hook": def_hook,
    "async hook": async_hook,
    "concurrent hook": concurrent_hook,
}


@pytest.mark.parametrize("place", HANDLERS)
async def test_an_error_of_a_handler(trainer: fitbus.Trainer, place: str) -> None:
    """It is the error itself, told of as `HandlerFailed`, with a note that says where."""
    error = BoomError(place)
    events = await failed(trainer, error, callbacks=[HANDLERS[place](error)])
    (notice,) = [event for event in events if isinstance(event, HandlerFailed)]
    assert notice.error == f"BoomError: {place}"
    (note,) = error.__notes__
    assert notice.subscriber in note


@pytest.mark.parametrize(
    "kind", [TrainBegin, EpochBegin, BatchBegin, BatchEnd, TestBegin, TestBatchEnd]
)
async def test_an_error_at_each_event(trainer: fitbus.Trainer, kind: type[Event]) -> None:
    error = BoomError(kind.__name__)

    @handler(kind)
    def fail(event: Event) -> None:
        raise error

    await failed(trainer, error, callbacks=[fail], validation_data=(X, Y))


def on_train_end_def(error: BaseException) -> Any:
    def fail(logs: Any) -> None:
        raise error

    return fitbus.callbacks.LambdaCallback(on_train_end=fail)


def on_train_end_async(error: BaseException) -> Any:
    class Fails(fitbus.Callback):
        async def on_train_end(self, logs: Any = None) -> None:
            raise error

    return Fails()


def on_train_end_concurrent(error: BaseException) -> Any:
    @handler(TrainEnd, wait=False)
    async def fail(event: TrainEnd) -> None:
        raise error

    return fail


@pytest.mark.parametrize("make", [on_train_end_def, on_train_end_async, on_train_end_concurrent])
async def test_an_error_of_the_last_hook(trainer: fitbus.Trainer, make: Any) -> None:
    """All had been done by then: the end says so, and the error still leaves."""
    error = BoomError("on_train_end")
    await failed(trainer, error, callbacks=[make(error)], reason="completed", epochs=1)


async def test_an_error_of_the_last_hook_doesnt_hide_the_root(trainer: fitbus.Trainer) -> None:
    root, last = BoomError("root"), BoomError("on_train_end")
    await failed(trainer, root, raising(root, 1), callbacks=[on_train_end_def(last)])
    (note,) = root.__notes__
    assert "on_train_end" in note


async def test_several_errors_at_one_event(trainer: fitbus.Trainer) -> None:
    """The first subscribed leads, each other one is in its notes and has its notice."""
    errors = [BoomError(text) for text in ("one", "two", "three", "four")]
    makers = (async_waiting_handler, def_handler, def_hook, async_hook)
    callbacks = [make(error) for make, error in zip(makers, errors, strict=True)]
    events = await failed(trainer, errors[0], callbacks=callbacks)
    notices = [event.error for event in events if isinstance(event, HandlerFailed)]
    assert sorted(notices) == sorted(f"BoomError: {error}" for error in errors)
    for text in ("two", "three", "four"):
        assert sum(f"BoomError: {text}" in note for note in errors[0].__notes__) == 1


async def test_the_error_of_the_earliest_event_leads(trainer: fitbus.Trainer) -> None:
    """Though a concurrent handler is slow to raise, and a later error comes in before it."""
    gate = Gate()
    early, late = BoomError("early"), BoomError("late")

    @handler(BatchEnd, wait=False)
    async def slow(event: BatchEnd) -> None:
        await gate.pass_async()
        raise early

    def fast(event: EpochEnd) -> None:
        gate.wait_arrived_sync()
        raise late

    def let_go(event: TrainEnd) -> None:
        gate.open()

    with pytest.raises(BoomError) as caught:
        await trainer.fit(X, Y, batch_size=32, callbacks=[slow, fast, let_go])
    assert caught.value is early
    assert any("late" in note for note in early.__notes__)
    check_nothing_is_left(trainer)


async def test_siblings_arent_disturbed(trainer: fitbus.Trainer) -> None:
    """Others get every event up to the end."""
    error = BoomError("one of them")
    got: dict[str, list[str]] = {"async": [], "worker": []}

    @handler(Event, wait=False)
    async def sibling(event: Event) -> None:
        got["async"].append(type(event).__name__)

    @handler(Event, wait=False)
    def worker(event: Event) -> None:
        got["worker"].append(type(event).__name__)

    events = await failed(trainer, error, callbacks=[def_handler(error), sibling, worker])
    names = [type(event).__name__ for event in events]
    assert got == {"async": names, "worker": names}


# Interrupts, and whatever else is no `Exception`.

INTERRUPTS = {name: make for name, make in HANDLERS.items() if "predicate" not in name}


@pytest.mark.parametrize("place", INTERRUPTS)
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, OddError])
async def test_an_interrupt_in_a_handler_leaves_as_itself(
    trainer: fitbus.Trainer, place: str, kind: type[BaseException]
) -> None:
    """It ends the run as cancelled, on every loop."""
    error = kind(place)
    await failed(trainer, error, callbacks=[INTERRUPTS[place](error)], reason="cancelled")


@pytest.mark.parametrize("on_error", ["log", "stop", "unsubscribe"])
async def test_an_interrupt_passes_by_on_error(trainer: fitbus.Trainer, on_error: Any) -> None:
    error = KeyboardInterrupt()

    @handler(BatchEnd, on_error=on_error)
    def fail(event: BatchEnd) -> None:
        raise error

    await failed(trainer, error, callbacks=[fail], reason="cancelled")


@pytest.mark.parametrize("source", [raising, raising_async])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, OddError])
async def test_an_interrupt_in_the_data_leaves_as_itself(
    trainer: fitbus.Trainer, source: Any, kind: type[BaseException]
) -> None:
    error = kind("data")
    await failed(trainer, error, source(error, 2), reason="cancelled")
