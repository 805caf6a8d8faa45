"""How a plain `model.fit` that publishes its events may end, and where it may run."""

from __future__ import annotations

import anyio
import anyio.to_thread
import keras
import pytest

import fitbus
from fitbus import (
    BatchEnd,
    EpochBegin,
    EpochEnd,
    Event,
    StopTraining,
    TrainEnd,
)
from fitbus.errors import FitbusError, InvalidArgumentError
from fitbus.keras import PublishEvents
from fitbus.testing import EventRecorder, Gate

from ._plain_fit import calls
from ._unmodified import Pair, failing, x, y

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("where", [EpochBegin, BatchEnd, EpochEnd, TrainEnd])
async def test_a_handler_that_fails_ends_the_fit_with_its_error(
    models: Pair, where: type[Event]
) -> None:
    """`on_error="raise"`: `model.fit` raises it, as itself, and the end is told."""

    async def breaks(event: Event) -> None:
        raise KeyError("broken")

    recorder = EventRecorder()
    async with fitbus.Bus() as bus:
        bus.add(recorder)
        bus.add(breaks, where, wait=True)
        with pytest.raises(KeyError, match="broken") as caught:
            await calls(PublishEvents(bus), models.theirs, epochs=3)
    ended = recorder.of(TrainEnd)
    assert len(ended) == 1
    assert ended[0].reason == ("completed" if where is TrainEnd else "failed")
    assert any("breaks" in note for note in caught.value.__notes__)


@pytest.mark.parametrize(
    ("error", "reason"), [(OSError("disk"), "failed"), (KeyboardInterrupt(), "cancelled")]
)
async def test_an_exception_in_fit_is_told_by_the_block(
    models: Pair, error: BaseException, reason: str
) -> None:
    """Whoever raised it. The next fit is a run of its own."""
    recorder = EventRecorder()
    waited: list[str] = []

    async def waits(event: TrainEnd) -> None:
        waited.append(event.reason)

    async with fitbus.Bus() as bus:
        bus.add(recorder)
        bus.add(waits)
        events = PublishEvents(bus)
        breaks = failing("on_epoch_end", error)
        with pytest.raises(type(error)):
            await calls(events, models.theirs, callbacks=[events, breaks])
        assert waited == [reason]
        await calls(events, models.theirs)
    ended = [(event.reason, event.run) for event in recorder.of(TrainEnd)]
    assert ended == [(reason, "fit-1"), ("completed", "fit-2")]
    assert type(error).__name__ in recorder.of(TrainEnd)[0].detail


async def test_a_block_on_the_loop_tells_the_end_too(models: Pair) -> None:
    """Where it can't wait for handlers, they are called all the same."""
    ended: list[str] = []

    async def waits(event: TrainEnd) -> None:
        ended.append(event.detail)

    async with fitbus.Bus() as bus:
        bus.add(waits)
        breaks = failing("on_epoch_end", OSError("disk"))
        given = {"callbacks": [events := PublishEvents(bus), breaks]}

        def train() -> None:
            models.theirs.fit(x, y, batch_size=16, verbose=0, **given)

        with pytest.raises(OSError, match="disk"), events:
            await anyio.to_thread.run_sync(train)
    assert ended == ["OSError: disk"]


async def test_without_a_block_the_next_call_tells_that_the_last_one_ended(models: Pair) -> None:
    """An evaluation after a broken fit isn't taken for its validation."""
    recorder = EventRecorder()
    async with fitbus.Bus() as bus:
        bus.add(recorder)
        events = PublishEvents(bus)
        options = {"batch_size": 16, "verbose": 0}

        def train() -> None:
            breaks = failing("on_epoch_end", OSError("disk"))
            with pytest.raises(OSError, match="disk"):
                models.theirs.fit(x, y, callbacks=[events, breaks], **options)
            models.theirs.evaluate(x, y, callbacks=[events], **options)

        await anyio.to_thread.run_sync(train)
    assert [event.run for event in recorder.events][-1] == "evaluate-2"
    ended = recorder.of(TrainEnd)[0]
    assert ended.reason == "failed"
    assert "with events:" in ended.detail


async def test_a_stop_of_another_keras_callback_is_told(models: Pair) -> None:
    """The reason is "stopped", as that of a trainer."""
    recorder = EventRecorder()
    async with fitbus.Bus() as bus:
        bus.add(recorder)
        events = PublishEvents(bus)
        stops = keras.callbacks.EarlyStopping("loss", min_delta=100, patience=1)
        await calls(events, models.theirs, epochs=9, callbacks=[events, stops])
    assert [event.reason for event in recorder.of(TrainEnd)] == ["stopped"]
    assert len(recorder.of(EpochEnd)) == 2


async def test_a_cancelled_fit_ends_at_the_next_batch(models: Pair) -> None:
    """By `publisher.cancel`: `fit` raises it, and the end is told."""
    recorder = EventRecorder()
    events: PublishEvents

    def cancels(event: BatchEnd) -> None:
        assert events.publisher is not None
        events.publisher.cancel(0)

    async with fitbus.Bus() as bus:
        bus.add(recorder)
        bus.add(cancels)
        events = PublishEvents(bus)
        with pytest.raises(fitbus.errors.RunCancelledError):
            await calls(events, models.theirs, epochs=5)
    assert [event.reason for event in recorder.of(TrainEnd)] == ["cancelled"]
    assert len(recorder.of(BatchEnd)) == 1


async def test_a_bus_that_closes_meanwhile_lets_the_fit_end(models: Pair) -> None:
    """What comes later has nobody to hear it; Keras goes on."""
    gate = Gate()
    seen: list[int] = []

    async def watches(event: BatchEnd) -> None:
        seen.append(event.step)

    def holds(event: BatchEnd) -> None:
        if event.step == 2:
            gate.pass_sync()

    bus = fitbus.Bus()
    events = PublishEvents(bus)
    async with anyio.create_task_group() as group, bus:
        bus.add(watches)
        bus.add(holds)
        group.start_soon(calls, events, models.theirs)
        await gate.wait_arrived()
        gate.open()
    assert seen[:2] == [1, 2]
    assert int(models.theirs.optimizer.iterations) == 3


async def test_two_fits_at_once_on_one_bus(models: Pair) -> None:
    """Each a run of its own, in a thread and with an object of its own."""
    recorder = EventRecorder()
    async with fitbus.Bus() as bus:
        bus.add(recorder)
        async with anyio.create_task_group() as group:
            for model in (models.theirs, models.ours):
                group.start_soon(calls, PublishEvents(bus), model)
    for run in ("fit-1", "fit-2"):
        mine = [event.seq for event in recorder.events if event.run == run]
        assert mine == list(range(4 + 2 * 3))


async def test_training_in_the_thread_of_the_loop_is_refused(models: Pair) -> None:
    """Before the first step, with what to do; nothing is left behind."""
    async with fitbus.Bus() as bus:
        bus.add(EventRecorder())
        events = PublishEvents(bus)
        for call in ("fit", "evaluate", "predict"):
            data = (x,) if call == "predict" else (x, y)
            with pytest.raises(fitbus.errors.WouldDeadlockError, match=r"to_thread\.run_sync"):
                getattr(models.theirs, call)(*data, callbacks=[events], verbose=0)
        assert events.run is None
        await calls(events, models.theirs)
    assert int(models.theirs.optimizer.iterations) == 3


def test_a_script_without_a_loop_needs_no_thread(models: Pair) -> None:
    """`def` handlers are called where Keras trains."""
    bus, recorder = fitbus.Bus(), EventRecorder()
    bus.add(recorder)
    bus.add(lambda event: StopTraining(), EpochEnd)
    with PublishEvents(bus) as events:
        models.theirs.fit(x, y, batch_size=16, epochs=5, callbacks=[events], verbose=0)
    assert recorder.of(TrainEnd)[0].reason == "stopped"
    assert int(models.theirs.optimizer.iterations) == 3


def test_what_is_no_bus_is_refused() -> None:
    """At construction."""
    with pytest.raises(InvalidArgumentError, match=r"give a fitbus\.Bus"):
        PublishEvents(object())  # type: ignore[arg-type]  # that is what is tested


def test_a_hook_outside_of_keras_is_refused() -> None:
    """It has no run."""
    with pytest.raises(FitbusError, match=r"model\.fit"):
        PublishEvents(fitbus.Bus()).on_epoch_begin(0)
