"""A lossless mailbox that is smaller than what is published together loses nothing."""

from __future__ import annotations

import anyio
import pytest

import fitbus
from fitbus import BatchEnd, EpochEnd, Event, SetLearningRate
from fitbus.testing import toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(64, 4)


@pytest.fixture(scope="module")
def trainers() -> dict[int, fitbus.Trainer]:
    """By how many steps may be in flight; 0 for as many as fit."""
    return {
        limit: fitbus.Trainer(PROBLEM.task, PROBLEM.params, max_in_flight=limit or "auto")
        for limit in (0, 64)
    }


@pytest.mark.parametrize("limit", [0, 64])
@pytest.mark.parametrize("kinds", [(BatchEnd, EpochEnd), (Event,)])
async def test_events_that_follow_those_of_many_steps_fit_in(
    trainers: dict[int, fitbus.Trainer], limit: int, kinds: tuple[type[Event], ...]
) -> None:
    """What ends an epoch is told right after its last steps, before training can be held."""
    seen: list[int] = []

    async def slow(event: Event) -> None:
        seen.append(event.seq)
        await anyio.lowlevel.checkpoint()

    run = trainers[limit].run(PROBLEM.x, PROBLEM.y, batch_size=4, epochs=4)
    run.add(slow, *kinds, wait=False, buffer_size=1, overflow="block")
    async with run:
        await run.wait()
    assert run.report is not None
    (entry,) = run.report.subscribers
    assert (entry.dropped, entry.undelivered) == (0, 0)
    expected = 4 * 17 if kinds != (Event,) else seen[-1] + 1
    assert entry.delivered == len(seen) == expected


async def test_acknowledgements_fit_in(trainers: dict[int, fitbus.Trainer]) -> None:
    """Each comes after the steps in flight, with training standing still at a boundary."""
    got: list[Event] = []

    async def keep(event: Event) -> None:
        got.append(event)
        await anyio.lowlevel.checkpoint()

    run = trainers[0].run(PROBLEM.x, PROBLEM.y, batch_size=4, epochs=100_000)
    run.add(keep, Event, wait=False, buffer_size=1, overflow="block")
    async with run:
        for i in range(20):
            await run.send(SetLearningRate(0.01 + i * 1e-4))
        await run.send(fitbus.StopTraining())
        await run.wait()
    assert [event.seq for event in got] == list(range(len(got)))
    assert isinstance(got[-1], fitbus.TrainEnd)
