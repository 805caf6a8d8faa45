"""`JSONLogger` in a training that goes on from a backup: its lines are those of one training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

import fitbus
from fitbus.callbacks import BackupAndRestore, JSONLogger
from fitbus.testing import EventRecorder, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(72, 5)


@pytest.fixture
def anyio_backend() -> str:
    """One loop is enough: what is asked here is what is in a file."""
    return "asyncio"


async def train(path: Path, *callbacks: Any, append: bool = False) -> list[fitbus.Event]:
    """Trains for three epochs of nine batches; returns its events."""
    recorder = EventRecorder()
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    logger = JSONLogger(path, append=append)
    await trainer.fit(
        *(PROBLEM.x, PROBLEM.y),
        batch_size=8,
        epochs=3,
        callbacks=[logger, recorder, *callbacks],
    )
    return recorder.events


async def interrupted(path: Path, backup: BackupAndRestore, step: int, *, append: bool) -> None:
    """Begins the same, and cancels it right after a step."""
    with anyio.CancelScope() as scope:

        @fitbus.handler(fitbus.BatchEnd, wait=True)
        async def stop(event: fitbus.BatchEnd) -> None:
            if event.step == step:
                scope.cancel()

        await train(path, backup, stop, append=append)
    assert scope.cancelled_caught


def lines_of(path: Path) -> list[dict[str, Any]]:
    """What the file tells, without what differs from one process to the next."""
    return [json.loads(line) | {"time": 0, "run": ""} for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("save_freq", "step"), [(4, 14), (4, 9), ("epoch", 14), (1, 18)])
@pytest.mark.parametrize("append", [False, True])
async def test_no_line_is_missing_and_none_comes_twice(
    tmp_path: Path, save_freq: Any, step: int, append: bool
) -> None:
    """Whether the backup lies within an epoch or between two, and whatever was there before."""
    whole, path = tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl"
    if append:
        for each in (whole, path):
            each.write_text('{"seq": 1000}\n')
    await train(whole, append=append)
    await interrupted(path, BackupAndRestore(tmp_path / "b", save_freq), step, append=append)
    cut = len(lines_of(path))
    events = await train(path, BackupAndRestore(tmp_path / "b", save_freq), append=append)
    assert lines_of(path) == lines_of(whole)
    assert cut < len(lines_of(whole))
    (first, *_, last) = events
    assert isinstance(first, fitbus.TrainBegin)
    assert 0 < first.seq < last.seq == lines_of(whole)[-1]["seq"]


async def test_events_go_on_with_the_seq_that_they_would_have_had(tmp_path: Path) -> None:
    """Also for a stream that asks for what came after a place, which the other process had."""
    undisturbed = {
        (type(event), event.step): event.seq
        for event in await train(tmp_path / "whole.jsonl")
        if isinstance(event, fitbus.BatchEnd | fitbus.EpochEnd | fitbus.TrainEnd)
    }
    backup = BackupAndRestore(tmp_path / "b", 4)
    await interrupted(tmp_path / "a.jsonl", backup, 14, append=False)
    found = {
        (type(event), event.step): event.seq
        for event in await train(tmp_path / "b.jsonl", BackupAndRestore(tmp_path / "b", 4))
        if isinstance(event, fitbus.BatchEnd | fitbus.EpochEnd | fitbus.TrainEnd)
    }
    assert 10 < len(found) < len(undisturbed)
    assert found.items() <= undisturbed.items()
