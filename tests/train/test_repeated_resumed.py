"""Trainings that were interrupted, or are told once more, where controls lie close together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fitbus
from fitbus import (
    BatchEnd,
    Control,
    ControlApplied,
    EpochBegin,
    EpochEnd,
    Event,
    RestoreCheckpoint,
    SaveCheckpoint,
    ScaleLearningRate,
    SetLearningRate,
    StopEpoch,
    StopTraining,
    TrainBegin,
    journal,
)
from fitbus.callbacks import BackupAndRestore, Guard, Journal, ParamScheduler
from fitbus.errors import InvalidArgumentError
from fitbus.testing import toy_problem

from ._repeated import Repeats, controls

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(128, 3)


@pytest.fixture
def anyio_backend() -> str:
    """One loop is enough: all of it is decided in the training thread."""
    return "asyncio"


@pytest.fixture(scope="module")
def repeats() -> Repeats:
    return Repeats(PROBLEM, batch_size=16, epochs=4)


class Died(Exception):
    """What ends a training in these tests."""


def at(kind: type[Event], step: int, answer: Control | type[Died], name: str = "decider") -> Any:
    """Answers, or dies, at the first event of a kind at a step."""

    @fitbus.handler(kind, wait=True, name=name)
    def decide(event: Event) -> Control | None:
        if event.step != step:
            return None
        if isinstance(answer, type):
            raise answer
        return answer

    return decide


async def test_controls_at_the_beginning_of_what_goes_on_are_in_the_journal(
    repeats: Repeats, tmp_path: Path
) -> None:
    """Sent again by who sends them when training begins; nothing else is there twice."""

    @fitbus.handler(TrainBegin, name="begins")
    def begins(event: TrainBegin) -> Control:
        return ScaleLearningRate(0.5)

    def kept() -> list[Any]:
        return [BackupAndRestore(tmp_path / "b", 3), begins, Journal(tmp_path / "journal")]

    with pytest.raises(Died):
        await repeats.went(*kept(), at(BatchEnd, 5, Died))
    first = await repeats.went(*kept())
    told = list(journal.read(tmp_path / "journal"))
    assert [event.seq for event in told] == list(range(len(told)))
    assert controls(told) == [(0, "begins"), (3, "begins")]
    assert [event.epoch for event in told if isinstance(event, EpochEnd)] == [0, 1, 2, 3]
    again = await repeats.went(controls=tmp_path / "journal")
    assert (again.state, again.history) == (first.state, first.history)


async def test_an_epoch_that_was_to_end_where_training_was_interrupted_ends(
    repeats: Repeats, tmp_path: Path
) -> None:
    """Both acted at one boundary."""
    ends = at(BatchEnd, 5, StopEpoch())
    first = await repeats.went(ends)
    signal = at(BatchEnd, 5, StopTraining("SIGTERM", resumable=True), "signal")
    await repeats.went(BackupAndRestore(tmp_path), ends, signal)
    again = await repeats.went(BackupAndRestore(tmp_path), ends)
    assert (again.state, again.history) == (first.state, first.history)


async def test_an_interruption_within_fused_steps_is_repeated(
    repeats: Repeats, tmp_path: Path
) -> None:
    """Sent while the events of steps that were done together are told."""

    class Sends(fitbus.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            assert self.run is not None
            if self.run.statistics().step == 6 and batch == 4:
                self.run.post(ScaleLearningRate(0.5), "me")
                self.run.post(StopTraining("for now", resumable=True), "me")

    options: dict[str, Any] = {"steps_per_execution": 3}
    first = await repeats.went(Sends(), Journal(tmp_path / "journal"), **options)
    again = await repeats.went(controls=tmp_path / "journal", **options)
    assert (again.state, again.history) == (first.state, first.history)
    assert controls(again.recorded) == controls(first.recorded)


async def test_a_scheduler_by_steps_repeats_itself(repeats: Repeats, tmp_path: Path) -> None:
    def scheduler() -> ParamScheduler:
        return ParamScheduler("learning_rate", lambda step: 0.1 / (1 + step))

    first = await repeats.went(scheduler(), Journal(tmp_path / "journal"))
    assert await repeats.went(scheduler(), controls=tmp_path / "journal") == first
    assert (await repeats.went(controls=tmp_path / "journal")).state == first.state


@pytest.mark.parametrize("kind", [EpochEnd, EpochBegin])
async def test_a_checkpoint_at_the_end_of_an_epoch_has_it(
    repeats: Repeats, tmp_path: Path, kind: type[Event]
) -> None:
    """So nothing is missing in the history when it is gone back to; and that is repeated."""
    back = False

    @fitbus.handler(EpochEnd, name="back")
    def goes_back(event: EpochEnd) -> Control | None:
        nonlocal back
        if event.epoch != 2 or back:
            return None
        back = True
        return RestoreCheckpoint("a")

    saves = at(kind, 16, SaveCheckpoint("a"))
    first = await repeats.went(
        BackupAndRestore(tmp_path / "b"), saves, goes_back, Journal(tmp_path / "journal")
    )
    assert len(first.history["loss"]) == 4
    undisturbed = await repeats.went()
    assert (first.state, first.history) == (undisturbed.state, undisturbed.history)
    again = await repeats.went(BackupAndRestore(tmp_path / "c"), controls=tmp_path / "journal")
    assert (again.state, again.history) == (first.state, first.history)


async def test_what_was_told_before_training_began_is_passed_over(repeats: Repeats) -> None:
    class Mine(Event):
        """An event of one's own."""

    run, recorder = repeats.run(at(EpochEnd, 8, SetLearningRate(0.03)))
    async with run:
        run.publish(Mine())
        history = await run.wait()
    first = repeats.told(recorder.events, history)
    again = await repeats.went(controls=first.recorded)
    assert (again.state, again.history) == (first.state, first.history)


async def test_a_stop_that_the_record_has_later_is_no_stop_from_outside(
    repeats: Repeats, tmp_path: Path
) -> None:
    """A handler that sends it without its name, at another moment than then."""
    moments = [20, 3]

    class Stops(fitbus.Callback):
        moment = 0

        def on_train_begin(self, logs: Any = None) -> None:
            self.moment = moments.pop(0)

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            assert self.run is not None
            if self.run.statistics().step == self.moment:
                self.run.post(StopTraining("late enough"))

    first = await repeats.went(Stops(), Journal(tmp_path / "journal"))
    again = await repeats.went(Stops(), controls=tmp_path / "journal")
    assert (again.state, again.history) == (first.state, first.history)


async def test_a_run_with_a_guard_that_left_steps_out_needs_it(
    repeats: Repeats, tmp_path: Path
) -> None:
    x = PROBLEM.x.copy()
    x[40, 1] = float("nan")
    await repeats.went(Guard(), Journal(tmp_path / "journal"), data=(x, PROBLEM.y))
    with pytest.raises(InvalidArgumentError, match="its run had a Guard, which left steps out"):
        await repeats.went(controls=tmp_path / "journal", data=(x, PROBLEM.y))


async def test_controls_that_waited_came_before_those_of_now(
    repeats: Repeats, tmp_path: Path
) -> None:
    """The later one for one thing wins."""

    class Waits(fitbus.Callback):
        def attach(self, run: fitbus.Run[Any]) -> None:
            super().attach(run)

            def visit(engine: Any) -> None:
                if engine.updates == 4 and not run.inbox:
                    run.inbox.post(SetLearningRate(0.5), "then")

            run.preparation.boundaries.append(visit)

    with pytest.raises(Died):
        await repeats.went(Waits(), BackupAndRestore(tmp_path, 4), at(BatchEnd, 5, Died))
    run, recorder = repeats.run(BackupAndRestore(tmp_path, 4))
    run.post(SetLearningRate(0.01), "now")
    async with run:
        await run.wait()
    assert [(e.control, e.source) for e in recorder.of(ControlApplied)] == [
        (SetLearningRate(0.01), "now")
    ]
