"""Two trainers: their runs have the same ids, on buses of their own, and are told apart."""

from __future__ import annotations

from collections.abc import Iterator

import anyio.from_thread
import numpy as np
import pytest

import fitbus
from fitbus import BatchEnd, EpochEnd, StopTraining, TrainState
from fitbus.errors import WouldDeadlockError, WrongThreadError
from fitbus.testing import toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(64, 4)
X, Y = PROBLEM.x, PROBLEM.y
FOREVER = 10**6


@pytest.fixture
def two() -> Iterator[tuple[fitbus.Trainer, fitbus.Trainer]]:
    """Fresh ones: the first run of each has the same id."""
    first, second = (fitbus.Trainer(PROBLEM.task, PROBLEM.params) for _ in range(2))
    yield first, second
    for trainer in (first, second):
        assert trainer.bus.statistics().subscriptions == ()


async def test_a_waiting_handler_trains_another_one(
    two: tuple[fitbus.Trainer, fitbus.Trainer],
) -> None:
    """It waits for a run of the same id, which goes on while its own stands still."""
    outer, inner = two
    ids: list[str] = []

    async def train(event: EpochEnd) -> None:
        async with inner.run(X, Y) as run:
            ids.extend((event.run, run.id))
            await run.wait_for(EpochEnd)
            await run.wait()

    await outer.fit(X, Y, callbacks=[train])
    assert ids == ["fit-1", "fit-1"]
    assert int(inner.state.step) == 2


async def test_a_def_handler_sends_to_another_run(
    two: tuple[fitbus.Trainer, fitbus.Trainer],
) -> None:
    """Through the loop: its own run it would wait for in vain, the other one answers."""
    steps: list[int] = []

    def send(event: EpochEnd) -> None:
        steps.append(anyio.from_thread.run(other.send, StopTraining("from outside")).step)
        with pytest.raises(WouldDeadlockError, match=r"use run\.post"):
            anyio.from_thread.run(own.send, StopTraining())

    own = two[0].run(X, Y, callbacks=[send])
    async with two[1].run(X, Y, batch_size=16, epochs=FOREVER) as other:
        await other.wait_for(BatchEnd)
        async with own:
            await own.wait()
        await other.wait()
    assert (own.status, other.status) == ("completed", "stopped")
    assert steps == [int(two[1].state.step)]


async def test_the_state_of_another_run_is_out_of_reach(
    two: tuple[fitbus.Trainer, fitbus.Trainer],
) -> None:
    """It may be donated at any moment; a snapshot of it is a copy."""
    copies: list[TrainState] = []

    def look(event: EpochEnd) -> None:
        with pytest.raises(WrongThreadError, match="snapshot"):
            _ = other.state
        copies.append(anyio.from_thread.run(other.snapshot))

    own = two[0].run(X, Y, epochs=20, callbacks=[look])
    async with two[1].run(X, Y, batch_size=16, epochs=FOREVER) as other:
        await other.wait_for(BatchEnd)
        async with own:
            await own.wait()
        await other.send(StopTraining())
    assert len(copies) == 20
    assert all(isinstance(copy.params["w"], np.ndarray) for copy in copies)
    assert [int(copy.step) for copy in copies] == sorted(int(copy.step) for copy in copies)
