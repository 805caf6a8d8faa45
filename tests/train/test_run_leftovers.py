"""What is left of a run when it has ended: no thread, and nothing that the trainer keeps."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

import fitbus
from fitbus import BatchEnd, EpochEnd
from fitbus.testing import toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(64, 4)
X, Y = PROBLEM.x, PROBLEM.y


@pytest.fixture(scope="module")
def trainer() -> fitbus.Trainer:
    return fitbus.Trainer(PROBLEM.task, PROBLEM.params)


def own_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("fitbus")]


async def test_no_thread_is_alive_when_fit_returns(trainer: fitbus.Trainer) -> None:
    alive: list[str] = []
    for _ in range(100):
        await trainer.fit(X, Y)
        alive += own_threads()
    assert alive == []


async def test_nor_one_of_a_concurrent_def_handler(trainer: fitbus.Trainer) -> None:
    alive: list[str] = []
    calls: list[int] = []

    def note(event: BatchEnd) -> None:
        calls.append(event.batch)

    for _ in range(30):
        await trainer.fit(
            X, Y, batch_size=32, callbacks=[fitbus.handler(BatchEnd, wait=False)(note)]
        )
        alive += own_threads()
    assert alive == []
    assert calls == [0, 1] * 30


class Callback(fitbus.Callback):
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Is called."""


async def used(trainer: fitbus.Trainer, data: str) -> dict[str, weakref.ref[Any]]:
    """Trains with data and a callback that nobody else keeps."""
    x, validation = np.array(X), np.array(X)
    callback = Callback()

    def handler(event: EpochEnd) -> None:
        """Is called."""

    async def batches() -> AsyncIterator[Any]:
        yield x, Y

    async def shown() -> AsyncIterator[Any]:
        yield validation, Y

    arguments: Any = (x, Y) if data == "arrays" else (batches,)
    run = trainer.run(
        *arguments,
        validation_data=(validation, Y) if data == "arrays" else shown,
        callbacks=[callback, handler],
    )
    async with run:
        await run.wait()
    kept = {"run": run, "x": x, "validation": validation, "callback": callback, "handler": handler}
    return {name: weakref.ref(value) for name, value in kept.items()}


@pytest.mark.parametrize("data", ["arrays", "async"])
async def test_the_trainer_keeps_nothing_of_its_last_run(
    trainer: fitbus.Trainer, data: str
) -> None:
    left = await used(trainer, data)
    gc.collect()
    assert [name for name, reference in left.items() if reference() is not None] == []
    assert trainer.state.step > 0
