"""`SaveCheckpoint` and `RestoreCheckpoint`, in a training that has a `BackupAndRestore`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

import fitbus
from fitbus import Control, Event, RestoreCheckpoint, SaveCheckpoint, ScaleLearningRate
from fitbus.callbacks import BackupAndRestore, CSVLogger
from fitbus.errors import ControlRejectedError
from fitbus.testing import EventRecorder, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(72, 5)
STEPS = 24


@pytest.fixture
def anyio_backend() -> str:
    """One loop is enough: all of it is decided in the training thread."""
    return "asyncio"


class Trained:
    """A training of three epochs of eight batches."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.save_freq: Any = 100
        self.trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params, seed=3)
        self.recorder = EventRecorder()
        self.history: dict[str, list[float]] = {}

    def run(self, *callbacks: Any, fused: int = 1, **options: Any) -> fitbus.Run[fitbus.History]:
        return self.trainer.run(
            *(PROBLEM.x, PROBLEM.y),
            batch_size=8,
            epochs=3,
            validation_split=0.1,
            steps_per_epoch=8,
            steps_per_execution=fused,
            callbacks=[
                BackupAndRestore(self.folder / "b", self.save_freq),
                CSVLogger(self.folder / "log.csv"),
                self.recorder,
                *callbacks,
            ],
            **options,
        )

    async def fit(self, *callbacks: Any, fused: int = 1) -> Trained:
        async with self.run(*callbacks, fused=fused) as run:
            self.history = (await run.wait()).history
        return self

    @property
    def steps(self) -> list[int]:
        return [event.step for event in self.recorder.of(fitbus.BatchEnd)]

    def same_as(self, other: Trained) -> bool:
        """In parameters, history and file, bit for bit."""
        mine, others = self.trainer.state.params, other.trainer.state.params
        return (
            all(np.array_equal(mine[name], others[name]) for name in others)
            and self.history == other.history
            and self.csv == other.csv
        )

    @property
    def csv(self) -> bytes:
        return (self.folder / "log.csv").read_bytes()


def is_there(path: Path) -> bool:
    return path.is_file()


def cut(path: Path) -> None:
    """As a disk without room leaves it."""
    path.write_bytes(path.read_bytes()[:-1])


class Held:
    """Training waits after its first batch until it is freed: whatever is sent comes in time."""

    def __init__(self) -> None:
        self.free = anyio.Event()

        @fitbus.handler(fitbus.BatchEnd, wait=True)
        async def hold(event: fitbus.BatchEnd) -> None:
            if event.step == 1:
                await self.free.wait()

        self.handler = hold


def once(kind: type[Event], time: int, *controls: Control) -> Any:
    """Sends controls at the n-th event of a type."""
    seen = 0

    @fitbus.handler(kind, wait=True)
    def send(event: Event) -> list[Control]:
        nonlocal seen
        seen += 1
        return list(controls) if seen == time else []

    return send


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], Trained]:
    def made(name: str) -> Trained:
        (tmp_path / name).mkdir()
        return Trained(tmp_path / name)

    return made


PLACES = [
    (fitbus.BatchEnd, 7),
    (fitbus.BatchEnd, 13),
    (fitbus.BatchBegin, 13),
    (fitbus.EpochBegin, 2),
    (fitbus.TestBegin, 1),
    (fitbus.TestBatchEnd, 3),
    (fitbus.EpochEnd, 1),
    (fitbus.EpochEnd, 3),
]


@pytest.mark.parametrize(("kind", "time"), PLACES)
@pytest.mark.parametrize("fused", [1, 3])
async def test_one_that_went_back_ends_as_one_that_never_did(
    make: Callable[[str], Trained], kind: type[Event], time: int, fused: int
) -> None:
    """From wherever it goes back: what was done since is forgotten, and done again."""
    whole = await make("whole").fit(fused=fused)
    save = once(fitbus.BatchEnd, 6, SaveCheckpoint("mark"))
    back = once(kind, time, RestoreCheckpoint("mark"))
    found = await make("back").fit(save, back, fused=fused)
    assert found.same_as(whole)
    assert whole.steps == list(range(1, STEPS + 1))
    first = next(i for i, step in enumerate(found.steps[1:], 1) if step <= found.steps[i - 1])
    assert found.steps[:first] == list(range(1, first + 1))
    assert found.steps[first:] == list(range(found.steps[first], STEPS + 1))
    assert found.steps[first] <= 8  # the next one after the execution with the sixth
    seqs = [event.seq for event in found.recorder.events]
    assert seqs == list(range(len(seqs)))
    (applied,) = [
        event
        for event in found.recorder.of(fitbus.ControlApplied)
        if isinstance(event.control, RestoreCheckpoint)
    ]
    assert applied.step == found.steps[first] - 1


async def test_it_is_there_when_the_event_says_so_and_stays(
    make: Callable[[str], Trained],
) -> None:
    trained, held = make("one"), Held()
    async with trained.run(held.handler) as run:
        async with run.subscribe(fitbus.CheckpointSaved) as saved:
            path = Path((await run.send(SaveCheckpoint("best"))).result)
            event = await anext(saved)
            assert is_there(path)
            assert (event.path, event.tag) == (str(path), "best")
            step = (await run.send(SaveCheckpoint())).step
            assert (await anext(saved)).path == str(path.with_name(f"checkpoint-step-{step}"))
        held.free.set()
        await run.wait()
    assert is_there(path)


async def test_controls_that_come_with_it_act_on_the_state_of_then(
    make: Callable[[str], Trained],
) -> None:
    """So one can go back and take smaller steps."""
    save = once(fitbus.BatchEnd, 6, SaveCheckpoint())
    back = once(fitbus.BatchEnd, 13, RestoreCheckpoint(), ScaleLearningRate(0.5))
    found = await make("back").fit(save, back)
    (rate,) = {
        float(event.control.factor)
        for event in found.recorder.of(fitbus.ControlApplied)
        if isinstance(event.control, ScaleLearningRate)
    }
    assert rate == 0.5
    assert not found.same_as(await make("whole").fit())
    assert float(found.trainer.state.opt_state.hyperparams["learning_rate"]) == pytest.approx(
        0.5 * float(make("new").trainer.state.opt_state.hyperparams["learning_rate"])
    )


async def test_a_later_run_restores_what_an_earlier_one_saved(
    make: Callable[[str], Trained],
) -> None:
    first, held = make("one"), Held()
    async with first.run(held.handler) as run:
        await run.send(SaveCheckpoint("best"))
        held.free.set()
        await run.wait()
    whole = first.trainer.state.params
    again = Trained(first.folder)
    found = await again.fit(once(fitbus.TrainBegin, 1, RestoreCheckpoint("best")))
    mine = found.trainer.state.params
    assert all(np.array_equal(mine[name], whole[name]) for name in whole)


async def test_what_cannot_be_done_is_rejected_and_says_what_to_do(
    make: Callable[[str], Trained], tmp_path: Path
) -> None:
    """Training goes on as if nobody had asked."""
    trained, held = make("one"), Held()
    rejected: list[str] = []

    async def ask(run: fitbus.Run[Any], control: Control) -> None:
        with pytest.raises(ControlRejectedError) as error:
            await run.send(control)
        rejected.append(str(error.value))

    async with trained.run(held.handler) as run:
        await ask(run, RestoreCheckpoint())
        await ask(run, RestoreCheckpoint("none"))
        await ask(run, SaveCheckpoint("../elsewhere"))
        path = Path((await run.send(SaveCheckpoint("cut"))).result)
        held.free.set()
        await run.wait()
    assert is_there(path)
    for text, says in zip(
        rejected,
        ["no checkpoint 'last' in", "no checkpoint 'none' in", "SaveCheckpoint.tag: found"],
        strict=True,
    ):
        assert says in text
    assert len(trained.steps) == STEPS

    cut(path)
    again, held = Trained(trained.folder), Held()
    async with again.run(held.handler) as run:
        await ask(run, RestoreCheckpoint("cut"))
        held.free.set()
        await run.wait()
    assert "can't be read: its checksum is wrong" in rejected[-1]
    assert is_there(path)


async def test_after_going_back_a_new_backup_counts(make: Callable[[str], Trained]) -> None:
    """Else a process that dies then would go on from a time that was given up."""
    trained = make("one")
    trained.save_freq = "epoch"
    seen: list[int] = []

    @fitbus.handler(fitbus.BatchEnd, wait=True)
    def fail(event: fitbus.BatchEnd) -> None:
        seen.append(event.step)
        if seen.count(7) == 2:
            raise ZeroDivisionError

    save = once(fitbus.BatchEnd, 6, SaveCheckpoint("mark"))
    back = once(fitbus.BatchEnd, 13, RestoreCheckpoint("mark"))
    with pytest.raises(ZeroDivisionError):
        await trained.fit(save, back, fail)
    assert (await Trained(trained.folder).fit()).steps == list(range(7, STEPS + 1))
