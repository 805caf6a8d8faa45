"""A plain `model.fit` in a thread publishes what a trainer would."""

from __future__ import annotations

import warnings
from typing import Any

import anyio
import anyio.to_thread
import numpy as np
import pytest

import fitbus
from fitbus import (
    BatchEnd,
    EpochBegin,
    EpochEnd,
    Event,
    PredictBatchEnd,
    TrainBegin,
    TrainEnd,
)
from fitbus.keras import PublishEvents
from fitbus.testing import EventRecorder, Gate

from ._plain_fit import calls
from ._unmodified import Pair, close, dense, x, y

pytestmark = pytest.mark.anyio
SPLIT: dict[str, Any] = {"epochs": 2, "validation_split": 1 / 3}


def told(recorder: EventRecorder) -> list[dict[str, Any]]:
    """What was published, without what Keras doesn't know."""
    without = ("run", "batch_logs")
    return [{k: v for k, v in e.items() if k not in without} for e in recorder.without_time()]


@pytest.mark.parametrize("call", ["fit", "evaluate", "predict"])
async def test_the_events_are_those_of_a_trainer(models: Pair, call: str) -> None:
    """The same sequence, `seq` without a gap, and all fields but the batches' own values."""
    options: dict[str, Any] = SPLIT if call == "fit" else {}
    recorder, expected = EventRecorder(), EventRecorder()
    async with fitbus.Bus() as bus:
        bus.add(recorder)
        events = PublishEvents(bus)
        await calls(events, models.theirs, call, **options)
        assert events.run == f"{call}-1"
    given: dict[str, Any] = {"batch_size": 16, "callbacks": [expected], **options}
    if call == "fit":
        await models.trainer.fit(x, y, shuffle=False, **given)
    else:
        data = (x,) if call == "predict" else (x, y)
        await getattr(models.trainer, call)(*data, **given)
    assert recorder.names == expected.names
    assert len(recorder.events) > 7
    assert [event.seq for event in recorder.events] == list(range(len(recorder.events)))
    assert {event.run for event in recorder.events} == {events.run}
    for mine, their in zip(told(recorder), told(expected), strict=True):
        assert close(mine, their), (mine, their)
    assert all(event.batch_logs == {} for event in recorder.of(BatchEnd))
    assert all(isinstance(e.outputs, np.ndarray) for e in recorder.of(PredictBatchEnd))


async def test_a_second_fit_counts_on(models: Pair) -> None:
    """Another run, whose steps go on where those of the first one ended."""
    recorder = EventRecorder()
    async with fitbus.Bus() as bus:
        bus.add(recorder)
        events = PublishEvents(bus)
        await calls(events, models.theirs)
        await calls(events, models.theirs, initial_epoch=2, epochs=4)
        await calls(events, models.theirs, "evaluate")
    begins = recorder.of(TrainBegin)
    assert [(event.run, event.seq, event.step) for event in begins] == [
        ("fit-1", 0, 0),
        ("fit-2", 0, 3),
    ]
    assert [event.step for event in recorder.of(BatchEnd)] == list(range(1, 10))
    assert [event.epoch for event in recorder.of(EpochEnd)] == [0, 2, 3]
    assert [(e.reason, e.step) for e in recorder.of(TrainEnd)] == [
        ("completed", 3),
        ("completed", 9),
    ]
    assert recorder.events[-1].step == 9
    assert recorder.events[-1].run == "evaluate-3"


@pytest.mark.parametrize("steps", [None, 3])
async def test_steps_are_right_where_keras_runs_several_at_once(steps: int | None) -> None:
    """Three batches, two an execution: Keras tells of batches 1 and 3; the step is 3 at the end."""
    model = dense()
    model.compile("sgd", "mse", steps_per_execution=2)
    recorder = EventRecorder()
    async with fitbus.Bus() as bus:
        bus.add(recorder)
        events = PublishEvents(bus)

        def batches() -> Any:
            for start in range(0, 48, 16):
                yield x[start : start + 16], y[start : start + 16]

        def train() -> None:
            with events, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Keras wonders at the odd number of batches
                if steps is None:
                    model.fit(batches(), callbacks=[events], verbose=0, shuffle=False)
                else:
                    model.fit(x, y, batch_size=16, epochs=2, callbacks=[events], verbose=0)

        await anyio.to_thread.run_sync(train)
    ends = [event.step for event in recorder.of(EpochEnd)]
    assert ends == ([3] if steps is None else [3, 6])
    assert recorder.of(TrainEnd)[0].step == int(model.optimizer.iterations) == ends[-1]
    if steps is not None:
        assert [(e.batch, e.step) for e in recorder.of(BatchEnd)] == [
            (1, 2),
            (2, 3),
            (1, 5),
            (2, 6),
        ]


async def test_waiting_handlers_are_waited_for_and_concurrent_ones_are_not(models: Pair) -> None:
    """Keras stands still for the first; the second gets all, in order."""
    gate = Gate()
    batches: list[int] = []
    trained: list[int] = []

    async def waits(event: EpochBegin) -> None:
        trained.append(int(models.theirs.optimizer.iterations))
        await gate.pass_async()

    async def watches(event: BatchEnd) -> None:
        batches.append(event.step)

    async with fitbus.Bus() as bus:
        bus.add(waits)
        bus.add(watches)
        async with anyio.create_task_group() as group:
            group.start_soon(calls, PublishEvents(bus), models.theirs)
            await gate.wait_arrived()
            assert trained == [0]
            assert batches == []
            gate.open()
    assert batches == [1, 2, 3]


async def test_a_stream_sees_the_fit_as_it_goes(models: Pair) -> None:
    """`subscribe` beside it, on the loop."""
    seen: list[str] = []
    async with (
        fitbus.Bus() as bus,
        bus.subscribe(Event) as stream,
        anyio.create_task_group() as group,
    ):
        group.start_soon(calls, PublishEvents(bus), models.theirs)
        async for event in stream:
            seen.append(type(event).__name__)
            if isinstance(event, TrainEnd):
                break
    assert seen[:2] == ["TrainBegin", "EpochBegin"]
    assert len(seen) == 4 + 2 * 3
