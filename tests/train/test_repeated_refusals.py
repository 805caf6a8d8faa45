"""What `fit(controls=...)` refuses to repeat, saying why, before the first step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import fitbus
from fitbus import (
    BatchEnd,
    Control,
    ControlApplied,
    EpochEnd,
    Event,
    PredictBegin,
    ScaleLearningRate,
    Supervised,
    TestBegin,
    TrainBegin,
    journal,
)
from fitbus.callbacks import Journal
from fitbus.errors import FitbusError, InvalidArgumentError, JournalError
from fitbus.testing import toy_problem
from fitbus.train import TrainState
from fitbus.train._record import Place, read_record

from ._repeated import Repeats, controls

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(64, 3)


@pytest.fixture
def anyio_backend() -> str:
    """One loop is enough: all of it is decided in the training thread."""
    return "asyncio"


@pytest.fixture(scope="module")
def repeats() -> Repeats:
    return Repeats(PROBLEM, batch_size=16, epochs=2)


@fitbus.handler(EpochEnd)
def slower(event: EpochEnd) -> Control:
    return ScaleLearningRate(0.5)


@pytest.fixture
async def recorded(repeats: Repeats, tmp_path: Path) -> list[Event]:
    went = await repeats.went(slower, Journal(tmp_path / "journal"))
    return went.recorded


def without_one(events: list[Event]) -> list[Event]:
    return [event for event in events if event.seq != 5]


def without_a_beginning(events: list[Event]) -> list[Event]:
    return events[1:]


def twice(events: list[Event]) -> list[Event]:
    return [*events, *events]


def begun_later(events: list[Event]) -> list[Event]:
    return [msgspec.structs.replace(event, step=event.step + 8) for event in events]


def of_other_data(events: list[Event]) -> list[Event]:
    return [msgspec.structs.replace(events[0], steps_per_epoch=3), *events[1:]]


def of_another_epoch(events: list[Event]) -> list[Event]:
    return [msgspec.structs.replace(events[0], initial_epoch=1), *events[1:]]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (without_one, "events of run 'fit-[0-9]+' are missing: 6 comes where 5 should"),
        (without_a_beginning, "there is no training in it"),
        (twice, "there are several trainings in it"),
        (begun_later, "its run began with step=8, and this one does with step=0"),
        (of_other_data, "its run began with steps_per_epoch=3, and this one does with"),
        (of_another_epoch, "its run began with initial_epoch=1"),
    ],
)
async def test_events_that_are_not_those_of_one_such_training(
    repeats: Repeats, recorded: list[Event], change: Callable[[list[Event]], Any], why: str
) -> None:
    run, recorder = repeats.run(controls=change(recorded))
    with pytest.raises(InvalidArgumentError, match=f"^controls: found 'events'; {why}"):
        async with run:
            await run.wait()
    assert not recorder.of(TrainBegin)
    assert not recorder.of(BatchEnd)


@pytest.mark.parametrize("given", ["", b"bytes", 3, True])
def test_what_is_no_record(repeats: Repeats, given: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"controls: .*give the path of a journal"):
        repeats.run(controls=given)


async def test_what_are_no_events(repeats: Repeats) -> None:
    with pytest.raises(InvalidArgumentError, match=r"controls: .*give events"):
        await repeats.went(controls=[ScaleLearningRate(0.5)])


async def test_a_journal_that_is_not_there(repeats: Repeats, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(JournalError, match="no journal in it"):
        await repeats.went(controls=tmp_path / "empty")
    with pytest.raises(OSError, match="missing"):
        await repeats.went(controls=tmp_path / "missing")


async def test_a_journal_whose_beginning_was_deleted(repeats: Repeats, tmp_path: Path) -> None:
    kept = Journal(tmp_path / "journal", segment_bytes=600, keep_segments=2)
    await repeats.went(slower, kept)
    with pytest.raises(InvalidArgumentError, match="no training in it"):
        await repeats.went(controls=kept)


async def test_a_record_of_other_data_is_noticed_where_it_parts(
    repeats: Repeats, recorded: list[Event]
) -> None:
    """Where the number of batches couldn't be told."""

    def batches(count: int) -> Callable[[], Iterator[Any]]:
        return lambda: iter([(PROBLEM.x[:16], PROBLEM.y[:16])] * count)

    first = await repeats.went(slower, data=(batches(4),))
    again = await repeats.went(controls=first.recorded, data=(batches(4),))
    assert again.state == first.state
    with pytest.raises(FitbusError, match=r"acted at step 4, epoch 0.*never was there"):
        await repeats.went(controls=first.recorded, data=(batches(3),))


class Shrink(Control):
    """A control of one's own."""

    by: float


async def test_a_control_of_ones_own_is_known_from_the_task(tmp_path: Path) -> None:
    """Where it isn't, it says how to tell of it."""

    def shrink(state: TrainState, control: Shrink) -> TrainState:
        params = {name: leaf * control.by for name, leaf in state.params.items()}
        return dataclasses.replace(state, params=params)

    task = PROBLEM.task
    own = Supervised(
        apply=task.apply, loss=task.loss, optimizer=task.optimizer, controls={Shrink: shrink}
    )

    class Problem:
        params, x, y = PROBLEM.params, PROBLEM.x, PROBLEM.y
        task = own

    @fitbus.handler(EpochEnd)
    def shrinks(event: EpochEnd) -> Control:
        return Shrink(0.5)

    repeats = Repeats(Problem, batch_size=16, epochs=2)
    first, again = await repeats.both(tmp_path, shrinks)
    assert again == first
    assert len(controls(again.recorded)) == 2
    with pytest.raises(InvalidArgumentError, match=r"nobody said what control .*Shrink.* is"):
        await repeats.went(controls=journal.read(tmp_path / "journal"))
    told = journal.read(tmp_path / "journal", Shrink)
    assert await repeats.went(controls=told) == first


def test_evaluations_among_the_events_are_passed_over() -> None:
    """As on a bus that several runs share; one whose number fits by chance, too."""
    applied = ControlApplied(
        run="a", seq=2, step=0, epoch=0, id=0, control=ScaleLearningRate(0.5), source=""
    )
    events = [
        PredictBegin(run="p", seq=0),
        TrainBegin(run="a", seq=0, epochs=1, steps_per_epoch=None, initial_epoch=0),
        TestBegin(run="e", seq=0),
        BatchEnd(run="e", seq=1, batch=0, logs={}, batch_logs={}),
        BatchEnd(run="a", seq=1, batch=0, logs={}, batch_logs={}),
        applied,
    ]
    began, acted, guarded = read_record("", events)
    assert not guarded
    assert began.run == "a"
    assert [(each.place, each.control) for each in acted] == [(Place(2), applied.control)]
