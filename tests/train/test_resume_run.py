"""Runs that begin elsewhere: where a boundary lies, `start_at`, and what `restore` gives."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

import fitbus
from fitbus import BatchEnd, EpochEnd, TrainBegin, TrainEnd, TrainState
from fitbus.callbacks import Callback, Logs
from fitbus.errors import DataError, InvalidArgumentError, WrongThreadError
from fitbus.testing import EventRecorder, toy_problem
from fitbus.train import Position, Restored
from fitbus.train._state import on_host

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(40, 3)
X, Y = PROBLEM.x, PROBLEM.y
TRAINER = fitbus.Trainer(PROBLEM.task, PROBLEM.params, seed=5)  # one for all: compiled once
BEGIN = TRAINER.state
ROWS = [(X[start : start + 8], Y[start : start + 8]) for start in range(0, 40, 8)]


def new_trainer(state: TrainState = BEGIN) -> fitbus.Trainer:
    TRAINER.keeper.take_back(fitbus.Trainer(PROBLEM.task, state).state)
    return TRAINER


def bits(state: TrainState) -> list[bytes]:
    return [np.asarray(state.params[name]).tobytes() for name in sorted(state.params)]


class Copy(Callback):
    """Keeps, in memory, what is there after some batches; another one goes on with it."""

    def __init__(self, step: int = -1, found: Restored | None = None) -> None:
        self.step, self.found = step, found

    def attach(self, run: Any) -> None:
        super().attach(run)
        run.preparation.boundaries.append(self.look)

    def look(self, engine: Any) -> None:
        if engine.updates == self.step and self.found is None:
            self.found = Restored(on_host(engine.state), engine.position())

    def restore(self) -> Restored | None:
        return self.found if self.step < 0 else None


async def agenerator() -> AsyncIterator[Any]:
    for rows in ROWS:
        yield rows


def generator() -> Iterator[Any]:
    yield from ROWS


@pytest.mark.parametrize("done", [1, 4, 5, 7])
@pytest.mark.parametrize("steps_per_epoch", [None, 3])
@pytest.mark.parametrize(
    "data", [ROWS, generator, agenerator, "iterator"], ids=["list", "generator", "async", "once"]
)
async def test_a_run_goes_on_whatever_its_data_are(
    data: Any, steps_per_epoch: int | None, done: int
) -> None:
    def given() -> Any:
        return iter(ROWS * 3) if data == "iterator" else data

    once = data == "iterator" and steps_per_epoch is None
    options: Any = {"epochs": 1 if once else 2, "steps_per_epoch": steps_per_epoch}
    whole = EventRecorder()
    if not once and steps_per_epoch and done == 7:
        return  # there are six steps
    copy = Copy(done)
    history = await new_trainer().fit(given(), callbacks=[copy, whole], **options)
    expected = bits(TRAINER.state)
    assert copy.found is not None
    seen = EventRecorder()
    resumed = await new_trainer().fit(given(), callbacks=[Copy(found=copy.found), seen], **options)
    assert bits(TRAINER.state) == expected
    assert [e.step for e in seen.of(BatchEnd)] == list(
        range(done + 1, whole.of(BatchEnd)[-1].step + 1)
    )
    epoch = copy.found.position.epoch
    assert resumed.history["loss"] == history.history["loss"][epoch:]


async def test_a_boundary_is_told_to_waiting_handlers() -> None:
    """Between the epochs too; a batch that has begun isn't done."""
    told: dict[str, Any] = {}

    async with new_trainer().run(X, Y, batch_size=8, epochs=2) as run:
        with pytest.raises(WrongThreadError):
            run.position()
        await run.wait()

    class Tells(Callback):
        def tell(self, name: str) -> None:
            assert self.run is not None
            found = self.run.position()
            told[name] = (found.epoch, found.batch, found.place)
            assert (found.running is None) == (found.batch == 0)
            assert set(found.logs) == ({"loss", "mean_absolute_error"} if found.batch else set())

        def on_train_begin(self, logs: Logs | None = None) -> None:
            self.tell("train begin")

        def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
            self.tell(f"begin {batch}")

        def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
            self.tell(f"end {batch}")
            assert self.run is not None
            assert self.run.position().logs == logs

        def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
            self.tell(f"epoch end {epoch}")

    await new_trainer().fit(X, Y, batch_size=8, epochs=1, callbacks=[Tells()])
    assert told == {
        "train begin": (0, 0, (0, 0)),
        **{f"begin {batch}": (0, batch, (0, batch)) for batch in range(5)},
        **{f"end {batch}": (0, batch + 1, (0, batch + 1)) for batch in range(5)},
        "epoch end 0": (1, 0, (0, 5)),
    }


def standing(event: TrainBegin) -> fitbus.SetLearningRate:
    """Nothing is learned, so that losses tell which batch it was."""
    return fitbus.SetLearningRate(0.0)


def losses(seen: EventRecorder) -> list[float]:
    return [event.batch_logs["loss"] for event in seen.of(BatchEnd)]


async def test_start_at_begins_there() -> None:
    """With the batches that shuffled data have there, and means over what is left."""
    whole, seen = EventRecorder(), EventRecorder()
    await new_trainer().fit(X, Y, batch_size=8, epochs=3, callbacks=[standing, whole])

    class Starts(Callback):
        def on_train_begin(self, logs: Logs | None = None) -> None:
            assert self.run is not None
            self.run.start_at(Position(1, 3))

    history = await new_trainer().fit(
        X, Y, batch_size=8, epochs=3, callbacks=[Starts(), standing, seen]
    )
    assert history.epoch == [1, 2]
    assert losses(seen) == losses(whole)[8:]
    assert [(e.epoch, e.batch) for e in seen.of(BatchEnd)] == [
        (1, 3),
        (1, 4),
        *((2, batch) for batch in range(5)),
    ]
    assert seen.of(BatchEnd)[0].logs == seen.of(BatchEnd)[0].batch_logs


async def test_start_at_counts_from_the_first_epoch_of_the_data() -> None:
    """With `initial_epoch` the data of that epoch are the first ones."""

    class Starts(Callback):
        def on_train_begin(self, logs: Logs | None = None) -> None:
            assert self.run is not None
            self.run.start_at(Position(4))

    options: Any = {"batch_size": 8, "epochs": 5, "initial_epoch": 3}
    first, seen = EventRecorder(), EventRecorder()
    await new_trainer().fit(X, Y, callbacks=[standing, first], **options)
    history = await new_trainer().fit(X, Y, callbacks=[Starts(), standing, seen], **options)
    assert history.epoch == [4]
    assert losses(seen) == losses(first)[5:]


async def test_a_state_of_none_keeps_that_of_the_run_and_only_the_first_answer_counts() -> None:
    begin = EventRecorder()
    first = Copy(found=Restored(None, Position(1, 2)))
    second = Copy(found=Restored(None, Position(2)))
    none = Copy()
    await new_trainer().fit(X, Y, batch_size=8, epochs=3, callbacks=[none, first, second, begin])
    assert begin.of(TrainBegin)[0].initial_epoch == 1
    assert int(TRAINER.state.step) == 3 + 5


async def test_a_training_that_was_done_goes_on_with_nothing() -> None:
    """It has its end, with the logs of before."""
    copy = Restored(None, Position(3), (), ([0, 1, 2], {"loss": [3.0, 2.0, 1.0]}))
    seen = EventRecorder()
    history = await new_trainer().fit(
        X, Y, batch_size=8, epochs=3, callbacks=[Copy(found=copy), seen]
    )
    assert seen.names == ["TrainBegin", "TrainEnd"]
    assert seen.of(TrainEnd)[0].logs == {"loss": 1.0}
    assert history.history == {"loss": [3.0, 2.0, 1.0]}


@pytest.mark.parametrize(
    "change",
    [
        lambda state: dataclasses.replace(state, params={"w": state.params["w"]}),
        lambda state: dataclasses.replace(state, extra=1),
        lambda state: dataclasses.replace(state, params={**state.params, "b": np.zeros(2)}),
    ],
)
async def test_a_state_of_another_structure_is_refused_before_the_first_step(change: Any) -> None:
    found = Restored(change(on_host(BEGIN)), Position(0))
    seen = EventRecorder()
    with pytest.raises(InvalidArgumentError, match="the state from the backup"):
        await new_trainer().fit(X, Y, callbacks=[Copy(found=found), seen])
    assert seen.names == ["TrainEnd"]
    assert bits(TRAINER.state) == bits(BEGIN)


async def test_running_values_of_other_metrics_are_refused() -> None:
    found = Restored(None, Position(0, 2, running=[np.zeros((4, 1), np.float32)]))
    with pytest.raises(InvalidArgumentError, match="the metrics of the backup"):
        await new_trainer().fit(X, Y, batch_size=8, callbacks=[Copy(found=found)])


@pytest.mark.parametrize("data", [lambda: ROWS[:2], lambda: iter(ROWS[:2])])
async def test_too_few_data_are_refused_by_name(data: Any) -> None:
    found = Restored(None, Position(0, 4))
    with pytest.raises(DataError, match="x: it ended before the place to go on at, batch 4"):
        await new_trainer().fit(data(), callbacks=[Copy(found=found)])


async def test_what_a_restore_or_a_callback_that_takes_back_raises_fails_the_run() -> None:
    """With a note that says whose state it was."""

    class Bad(Copy):
        def restore(self) -> Restored | None:
            raise OSError("unreadable")

    with pytest.raises(OSError, match="unreadable"):
        await new_trainer().fit(X, Y, callbacks=[Bad()])

    class Picky(Callback):
        def load_state_dict(self, state: Any) -> None:
            raise KeyError("of another version")

    found = Restored(None, Position(1), [(Picky.__qualname__, {"a": 1})])
    with pytest.raises(KeyError) as caught:
        await new_trainer().fit(X, Y, callbacks=[Copy(found=found), Picky()])
    assert "Picky couldn't take back" in caught.value.__notes__[0]


async def test_a_stop_that_came_before_acts_before_the_place_is_waited_for() -> None:
    """Data that never come don't keep a run that goes on from being stopped."""

    async def stalling() -> AsyncIterator[Any]:
        import anyio

        await anyio.sleep_forever()
        yield ROWS[0]

    found = Restored(None, Position(0, 2))
    run = new_trainer().run(stalling, epochs=2, callbacks=[Copy(found=found)])
    run.post(fitbus.StopTraining("never mind"))
    async with run:
        history = await run.wait()
    assert history.epoch == []
    assert run.status == "stopped"


async def test_boundaries_see_the_state_after_all_handlers() -> None:
    """Controls that handlers send at the end of an epoch are in it, whatever the order."""
    rates: list[tuple[int, int, float]] = []

    class Looks(Callback):
        def attach(self, run: Any) -> None:
            super().attach(run)
            run.preparation.boundaries.append(self.look)

        def look(self, engine: Any) -> None:
            rate = float(engine.state.opt_state.hyperparams["learning_rate"])
            rates.append((engine.epoch, engine.batch, rate))

    def change(event: EpochEnd) -> fitbus.SetLearningRate:
        return fitbus.SetLearningRate(0.5)

    await new_trainer().fit(X, Y, batch_size=20, epochs=2, callbacks=[Looks(), change])
    assert [(epoch, batch, round(rate, 3)) for epoch, batch, rate in rates] == [
        (0, 0, 0.1),
        (0, 1, 0.1),
        (0, 2, 0.1),
        (1, 0, 0.5),
        (1, 0, 0.5),
        (1, 1, 0.5),
        (1, 2, 0.5),
        (2, 0, 0.5),
    ]
