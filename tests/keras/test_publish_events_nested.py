"""The object of a plain `model.fit` in calls that other callbacks make meanwhile."""
# mypy: allow-subclassing-any

from __future__ import annotations

from typing import Any

import pytest

import fitbus
from fitbus import EpochEnd, TestEnd, TrainEnd
from fitbus.keras import PublishEvents
from fitbus.testing import EventRecorder

from ._plain_fit import calls
from ._unmodified import Base, Pair, failing, x, y

pytestmark = pytest.mark.anyio
OPTIONS: Any = {"verbose": 0, "batch_size": 16}


def breaks() -> Any:
    """Fails in each call, before it has taken the arrays out of the model."""
    return failing("on_predict_begin", OSError("broken"))


def evaluate(model: Any, *callbacks: Any) -> None:
    model.evaluate(x, y, callbacks=list(callbacks), **OPTIONS)


def predict(model: Any, *callbacks: Any) -> None:
    model.predict(x, callbacks=list(callbacks), **OPTIONS)


def fit(model: Any, *callbacks: Any) -> None:
    model.fit(x, y, callbacks=list(callbacks), validation_data=(x, y), **OPTIONS)


def fail(model: Any, *callbacks: Any) -> None:
    with pytest.raises(OSError, match="broken"):
        predict(model, *callbacks, breaks())


class Calls(Base):
    """Makes a call in each epoch, with the object that is in the fit too."""

    def __init__(self, call: Any, other: Any, events: PublishEvents) -> None:
        super().__init__()
        self.call, self.other, self.events = call, other, events
        self.done = 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.call(self.other, self.events)
        self.done += 1


@pytest.mark.parametrize("call", [evaluate, predict, fit, fail])
@pytest.mark.parametrize("first", [False, True])
async def test_nothing_is_told_of_a_call_within_a_call(
    models: Pair, call: Any, first: bool
) -> None:
    """The fit goes on: all of its own is told, its validations too."""
    found: dict[bool, list[str]] = {}
    for nested in (False, True):
        recorder = EventRecorder()
        async with fitbus.Bus() as bus:
            bus.add(recorder)
            events = PublishEvents(bus)
            calling = Calls(call, models.ours, events) if nested else Base()
            attached = [calling, events] if first else [events, calling]
            options: Any = {"callbacks": attached, "validation_data": (x, y)}
            await calls(events, models.theirs, epochs=2, **options)
        assert {event.run for event in recorder.events} == {"fit-1"}
        assert [event.reason for event in recorder.of(TrainEnd)] == ["completed"]
        found[nested] = recorder.names
    assert calling.done == 2
    assert found[True] == found[False]
    assert found[True].count("EpochEnd") == found[True].count("TestEnd") == 2


async def test_the_object_tells_of_the_next_call(models: Pair) -> None:
    """Also where the nested call broke the fit off."""
    recorder = EventRecorder()
    async with fitbus.Bus() as bus:
        bus.add(recorder)
        events = PublishEvents(bus)
        breaking = Calls(lambda model, own: predict(model, own, breaks()), models.ours, events)
        with pytest.raises(OSError, match="broken"):
            await calls(events, models.theirs, callbacks=[events, breaking])
        await calls(events, models.theirs, "evaluate")
    assert [event.reason for event in recorder.of(TrainEnd)] == ["failed"]
    assert [event.run for event in recorder.of(TestEnd)] == ["evaluate-2"]
    assert [event.run for event in recorder.of(EpochEnd)] == ["fit-1"]
