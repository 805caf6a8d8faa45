"""Trainings that are interrupted, on one trainer that is put back: nothing is compiled twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fitbus
from fitbus import BatchEnd
from fitbus.callbacks import BackupAndRestore, Callback, Logs
from fitbus.testing import toy_problem

PROBLEM = toy_problem(40, 3)
X, Y = PROBLEM.x, PROBLEM.y
TRAINER = fitbus.Trainer(PROBLEM.task, PROBLEM.params, seed=5)  # one for all: compiled once
BEGIN = TRAINER.state
EPOCH = 5  # batches


class Interrupted(Exception):
    """What ends a training in these tests."""


def new_trainer() -> fitbus.Trainer:
    """As in a new process, but nothing is compiled again."""
    TRAINER.keeper.take_back(fitbus.Trainer(PROBLEM.task, BEGIN).state)
    return TRAINER


def fail_after(batches: int) -> Callable[[BatchEnd], None]:
    """Fails when so many batches are done, over all epochs."""
    seen = 0

    @fitbus.handler(BatchEnd, wait=True)
    def fail(event: BatchEnd) -> None:
        nonlocal seen
        seen += 1
        if seen == batches:
            raise Interrupted

    return fail


class Remembers(Callback):
    """Counts its hooks, and remembers the count; `on_train_begin` resets it."""

    def __init__(self) -> None:
        self.count = 0
        self.resumed: Any = "not asked"

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.count = 0
        assert self.run is not None
        self.resumed = self.run.preparation.resumed

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self.count += 1

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.count += 100

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: Any) -> None:
        self.count = state["count"]


async def interrupted(
    directory: Path, after: int, *callbacks: Any, save_freq: Any = "epoch", **options: Any
) -> None:
    """A training that fails after so many batches."""
    backup = BackupAndRestore(directory, save_freq)
    with pytest.raises(Interrupted):
        await new_trainer().fit(
            X, Y, batch_size=8, callbacks=[backup, *callbacks, fail_after(after)], **options
        )


def names(directory: Path) -> list[str]:
    """What is in a directory."""
    return sorted(path.name for path in directory.iterdir())
