"""The record that `fit` returns, on every way that a run can go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import fitbus
from fitbus import BatchEnd, EpochBegin, EpochEnd, History, StopEpoch, StopTraining, TrainEnd
from fitbus.testing import EventRecorder, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(64, 4)
X, Y = PROBLEM.x, PROBLEM.y
SHARED = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
NAMES = ["loss", "mean_absolute_error"]


def columns(ends: list[EpochEnd]) -> dict[str, list[float]]:
    return {name: [end.logs[name] for end in ends] for name in ends[0].logs}


async def test_it_holds_the_logs_of_each_epoch(trainer: fitbus.Trainer) -> None:
    """Those of the events, under sorted names, as plain floats; validation's among them."""
    recorder = EventRecorder()
    history = await trainer.fit(
        X, Y, batch_size=32, epochs=3, validation_split=0.5, callbacks=[recorder]
    )
    assert isinstance(history, History)
    assert history.epoch == [0, 1, 2]
    assert list(history.history) == [*NAMES, *(f"val_{name}" for name in NAMES)]
    assert history.history == columns(recorder.of(EpochEnd))
    assert {type(value) for values in history.history.values() for value in values} == {float}
    assert recorder.of(TrainEnd)[0].logs == {n: v[-1] for n, v in history.history.items()}


async def test_several_fits_have_one_each(trainer: fitbus.Trainer) -> None:
    """The first isn't touched by the second, which begins where it is told to."""
    first = await trainer.fit(X, Y, batch_size=32, epochs=2)
    kept = {name: list(values) for name, values in first.history.items()}
    recorder = EventRecorder()
    second = await trainer.fit(X, Y, batch_size=32, initial_epoch=2, epochs=5, callbacks=[recorder])
    assert (first.epoch, second.epoch) == ([0, 1], [2, 3, 4])
    assert first.history == kept
    assert [event.epoch for event in recorder.of(EpochBegin)] == [2, 3, 4]
    assert [len(values) for values in second.history.values()] == [3, 3]
    assert second.history == columns(recorder.of(EpochEnd))


@pytest.mark.parametrize(("initial_epoch", "epochs"), [(0, 0), (3, 3), (4, 3)])
async def test_without_an_epoch_it_is_empty(
    trainer: fitbus.Trainer, initial_epoch: int, epochs: int
) -> None:
    """Begin and end are told all the same, and the state stays as it is."""
    recorder = EventRecorder()
    step = int(trainer.state.step)
    history = await trainer.fit(
        X, Y, initial_epoch=initial_epoch, epochs=epochs, callbacks=[recorder]
    )
    assert (history.epoch, history.history) == ([], {})
    assert recorder.names == ["TrainBegin", "TrainEnd"]
    assert int(trainer.state.step) == step
    assert repr(history) == "<History of 0 epochs>"


async def test_it_keeps_what_keras_keeps_as_params(trainer: fitbus.Trainer) -> None:
    """Batches in an epoch where that is known."""
    history = await trainer.fit(X, Y, batch_size=24, epochs=2)
    assert history.params == {"verbose": 0, "epochs": 2, "steps": 3}
    history = await trainer.fit(iter([(X, Y)]))
    assert history.params == {"verbose": 0, "epochs": 1, "steps": None}
    history = await trainer.fit(X, Y, batch_size=8, steps_per_epoch=5)
    assert history.params["steps"] == 5


async def test_repr_shows_the_last_values() -> None:
    history = History()
    history.record(0, {"loss": 2.0, "accuracy": 0.25})
    history.record(1, {"loss": 1 / 3, "accuracy": 0.5})
    assert repr(history) == "<History of 2 epochs: loss=0.333333, accuracy=0.5>"


STOPS: dict[str, tuple[Any, Callable[[Any], Any], list[int]]] = {
    "in the middle of an epoch": (
        BatchEnd,
        lambda event: StopTraining() if event.epoch == 1 else None,
        [0, 1],
    ),
    "at the end of an epoch": (
        EpochEnd,
        lambda event: StopTraining() if event.epoch == 1 else None,
        [0, 1],
    ),
    "an epoch only": (
        BatchEnd,
        lambda event: StopEpoch() if event.epoch == 1 else None,
        [0, 1, 2],
    ),
}


@pytest.mark.parametrize("when", STOPS)
async def test_an_epoch_that_is_cut_short_is_in_it(trainer: fitbus.Trainer, when: str) -> None:
    """With the means of the batches that it had."""
    kind, answer, epochs = STOPS[when]
    recorder = EventRecorder()
    callbacks = [recorder, fitbus.handler(kind)(answer)]
    history = await trainer.fit(X, Y, batch_size=32, epochs=3, callbacks=callbacks)
    assert history.epoch == epochs
    assert history.history == columns(recorder.of(EpochEnd))
    last = {event.epoch: event for event in recorder.of(BatchEnd)}
    assert history.history["loss"] == [last[epoch].logs["loss"] for epoch in epochs]


async def test_an_epoch_without_a_batch_adds_no_values(trainer: fitbus.Trainer) -> None:
    """It is counted, and there is nothing to tell of it."""
    stop = fitbus.handler(EpochBegin)(lambda event: StopEpoch() if event.epoch == 1 else None)
    history = await trainer.fit(X, Y, batch_size=32, epochs=3, callbacks=[stop])
    assert history.epoch == [0, 1, 2]
    assert [len(values) for values in history.history.values()] == [2, 2]


async def test_it_can_be_watched_while_it_grows(trainer: fitbus.Trainer) -> None:
    """A failed run has none to return: a callback's history holds what there was."""
    kept = fitbus.callbacks.History()

    def breaks(event: EpochEnd) -> None:
        if event.epoch == 1:
            raise ZeroDivisionError("a handler's")

    with pytest.raises(ZeroDivisionError, match="a handler's"):
        await trainer.fit(X, Y, batch_size=32, epochs=3, callbacks=[kept, breaks])
    assert kept.epoch == [0, 1]
    assert [len(values) for values in kept.history.values()] == [2, 2]
