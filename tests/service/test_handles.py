"""What holds for every handle of a run: of one here, and of one on a service elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio.to_thread
import httpx
import pytest

import fitbus
from fitbus import BatchEnd, EpochEnd, Event, RunHandle, TrainEnd, client, service
from fitbus.errors import ControlRejectedError, InvalidArgumentError, RunEndedError

from ._server import CONTROL, PROBLEM, serving, toy

pytestmark = pytest.mark.anyio

LONG = 100_000
ODD = "enough,\u2028\u0085\r\nthat is"  # with all that some take for the end of a line
Opening = Callable[[], AbstractAsyncContextManager[RunHandle]]


@pytest.fixture(scope="module")
def server() -> Iterator[httpx.Client]:
    app = service.app(None, {"toy": toy}, control_token=CONTROL, max_running=8)
    app.state.fitbus.rights._buckets._per_s = 1e9
    with serving(app) as client:
        yield client


@pytest.fixture(params=["here", "elsewhere"])
def opening(request: pytest.FixtureRequest, server: httpx.Client) -> Opening:
    """Opens a handle of a long run."""

    @contextlib.asynccontextmanager
    async def here() -> AsyncGenerator[RunHandle]:
        trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
        async with trainer.run(PROBLEM.x, PROBLEM.y, batch_size=64, epochs=LONG) as run:
            yield run
            run.post(fitbus.StopTraining("the test is over"))

    @contextlib.asynccontextmanager
    async def elsewhere() -> AsyncGenerator[RunHandle]:
        body: Any = {"factory": "toy", "parameters": {"epochs": LONG}}
        answer = await anyio.to_thread.run_sync(lambda: server.post("/runs", json=body))
        id = answer.json()["id"]
        async with client.connect(
            f"{str(server.base_url).rstrip('/')}/runs/{id}", token=CONTROL
        ) as run:
            yield run
            with contextlib.suppress(ControlRejectedError):
                await run.send(fitbus.StopTraining("the test is over"), 30)

    return {"here": here, "elsewhere": elsewhere}[request.param]


async def test_its_events_come_in_order_each_once_to_the_end(opening: Opening) -> None:
    seqs: list[int] = []
    event: Event | None = None
    async with opening() as run:
        assert isinstance(run, RunHandle)
        async with run.subscribe(Event, overflow="block") as events:
            async for event in events:
                assert event.run == run.id
                seqs.append(event.seq)
                if len(seqs) == 200:
                    await run.send(fitbus.StopTraining(ODD), 30)
        assert isinstance(event, TrainEnd)
        assert (event.reason, event.detail) == ("stopped", ODD)
        assert run.status == "stopped"
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))


async def test_a_stream_has_its_options(opening: Opening) -> None:
    """Several types, a predicate, each n-th, and what is kept, without a gap to what comes."""
    async with opening() as run:
        async with run.subscribe(BatchEnd, every=3, where=lambda event: event.batch < 6) as batches:
            some = [await anext(batches) for _ in range(4)]
        assert {event.batch for event in some} <= set(range(6))
        first = await run.wait_for(EpochEnd, timeout=30)
        await run.wait_for(EpochEnd, timeout=30)
        async with run.subscribe(EpochEnd, after=first.seq) as ends:
            epochs = [(await anext(ends)).epoch for _ in range(20)]
        assert epochs == list(range(first.epoch + 1, first.epoch + 21))


async def test_one_waits_for_an_event(opening: Opening) -> None:
    async with opening() as run:
        event = await run.wait_for(EpochEnd, where=lambda event: event.epoch >= 3, timeout=30)
        assert event.epoch >= 3
        assert "loss" in event.logs
        with pytest.raises(TimeoutError):
            await run.wait_for(fitbus.TestEnd, timeout=0.01)


async def test_a_control_is_acknowledged_with_its_step(opening: Opening) -> None:
    """Every event after its `ControlApplied` reflects it; a receipt says the same."""
    async with opening() as run, run.subscribe(fitbus.ControlApplied) as applied:
        found = await run.send(fitbus.SetLearningRate(0.25), 30)
        event = await anext(applied)
        while event.control != fitbus.SetLearningRate(0.25):  # one of the run's own
            event = await anext(applied)
        assert (found.step, found.epoch) == (event.step, event.epoch)
        receipt = run.post(fitbus.SetLearningRate(0.125))
        assert (await receipt).step >= found.step
        assert receipt.outcome == await receipt


async def test_controls_act_in_the_order_of_sending(opening: Opening) -> None:
    """What is posted at once, too: a pause and what ends it."""
    async with opening() as run:
        for _ in range(20):
            paused, resumed = run.post(fitbus.Pause()), run.post(fitbus.Resume())
            assert (await paused).step == (await resumed).step


def status_of(run: RunHandle) -> str:
    """As a call, whose result checkers don't take for the last one's."""
    return run.status


async def test_its_status_follows(opening: Opening) -> None:
    async with opening() as run:
        async with run.subscribe(fitbus.RunPaused, fitbus.RunResumed) as notices:
            await run.send(fitbus.Pause(), 30)
            await anext(notices)
            assert status_of(run) == "paused"
            paused_at = run.statistics().step
            await run.send(fitbus.Resume(), 30)
            await anext(notices)
        assert status_of(run) == "running"
        after = await run.wait_for(EpochEnd, timeout=30)
        assert after.step > paused_at
        assert run.statistics().step >= after.step


async def test_what_cannot_act_says_why(opening: Opening) -> None:
    async with opening() as run:
        with pytest.raises(ControlRejectedError, match="the run isn't paused"):
            await run.send(fitbus.Resume(), 30)
        with pytest.raises(InvalidArgumentError):
            await run.send("stop", 30)  # type: ignore[arg-type]  # that is what is refused
        with pytest.raises(InvalidArgumentError):
            await run.send(fitbus.Pause(), -1)


async def test_after_its_end(opening: Opening) -> None:
    """Controls are too late, nobody waits for ever, and what is kept can be read."""
    async with opening() as run:
        await run.wait_for(EpochEnd, timeout=30)
        async with run.subscribe(TrainEnd) as ends:
            run.post(fitbus.StopTraining("enough"))
            with pytest.raises(RunEndedError):
                await run.wait_for(fitbus.PredictEnd, timeout=30)
            end = await anext(ends)
        with pytest.raises(ControlRejectedError, match="too late"):
            await run.send(fitbus.Pause(), 30)
        with pytest.raises(RunEndedError):
            await run.wait_for(EpochEnd, timeout=30)
        async with run.subscribe(TrainEnd, after=end.seq - 10) as kept:
            assert [event.seq async for event in kept] == [end.seq]
        assert run.status == "stopped"


async def test_an_error_in_the_block_leaves_as_itself(opening: Opening) -> None:
    async def fail() -> None:
        async with opening() as run:
            await run.wait_for(EpochEnd, timeout=30)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
