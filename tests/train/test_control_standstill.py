"""Training that stands still is at a boundary: it answers those for whom it waits, too.

Scenario 36.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.from_thread
import jax
import numpy as np
import pytest

import fitbus
from fitbus import (
    Applied,
    BatchBegin,
    BatchEnd,
    Callback,
    ControlApplied,
    EpochBegin,
    EpochEnd,
    Event,
    Pause,
    Resume,
    RunPaused,
    ScaleLearningRate,
    SetLearningRate,
    StopTraining,
    TestBatchEnd,
    TestBegin,
    TestEnd,
    TrainBegin,
    TrainEnd,
)
from fitbus.errors import WouldDeadlockError
from fitbus.testing import EventRecorder, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(64, 4)
X, Y = PROBLEM.x, PROBLEM.y
FOREVER = 10**6
SHARED = fitbus.Trainer(PROBLEM.task, PROBLEM.params)


EVENTS = [
    TrainBegin,
    EpochBegin,
    BatchBegin,
    BatchEnd,
    TestBegin,
    TestBatchEnd,
    TestEnd,
    EpochEnd,
    TrainEnd,
]


@pytest.mark.parametrize("kind", EVENTS)
@pytest.mark.anywhere
async def test_a_waiting_handler_sends_and_is_answered(
    trainer: fitbus.Trainer, kind: type[Event]
) -> None:
    """It acts before the handler returns, at the event's step; a snapshot shows it."""
    run = trainer.run(X, Y, batch_size=64, validation_data=(X[:8], Y[:8]))
    calls: list[Event] = []

    async def steer(event: Event) -> None:
        calls.append(event)
        with anyio.fail_after(10):
            before, rate = await run.snapshot(), (await run.hyperparameters())["learning_rate"]
            applied = await run.send(ScaleLearningRate(0.5))
            after, halved = await run.snapshot(), (await run.hyperparameters())["learning_rate"]
        assert applied == Applied(step=event.step, epoch=event.epoch)
        assert int(before.step) == int(after.step) == event.step
        assert halved == rate / 2
        await run.send(SetLearningRate(0.1))

    run.add(steer, kind, wait=True)
    async with run:
        pass
    assert len(calls) == 1


@pytest.mark.anywhere
async def test_several_waiting_handlers_of_one_event_are_answered_together(
    trainer: fitbus.Trainer,
) -> None:
    run = trainer.run(X, Y, batch_size=64)
    both = anyio.Event()
    steps: list[int] = []

    async def first(event: EpochEnd) -> None:
        steps.append((await run.send(ScaleLearningRate(1.0))).step)
        both.set()

    async def second(event: EpochEnd) -> None:
        await both.wait()
        steps.append((await run.send(ScaleLearningRate(1.0))).step)

    run.add(second)
    run.add(first)
    with anyio.fail_after(10):
        async with run:
            pass
    assert steps == [int((await run.snapshot()).step)] * 2


class Half(Callback):
    """Has concurrent hooks, and one for which training waits behind them."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.calls: list[str] = []

    async def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.calls.append(f"batch {batch}")
        assert self.run is not None
        with anyio.fail_after(10):
            applied = await self.run.send(ScaleLearningRate(1.0))
            snapshot = await self.run.snapshot()
        self.steps.append(applied.step)
        assert int(snapshot.step) >= applied.step


class HalfAsync(Half):
    """Training waits for the loop."""

    async def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.calls.append(f"epoch {epoch}")


class HalfDef(Half):
    """Training waits for the mailbox to be empty, then calls it itself."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.calls.append(f"epoch {epoch}")


@pytest.mark.parametrize("kind", [HalfAsync, HalfDef])
@pytest.mark.anywhere
async def test_a_concurrent_hook_of_a_callback_that_also_waits_is_answered(
    trainer: fitbus.Trainer, kind: Callable[[], Half]
) -> None:
    """The waiting hook comes after all that is before it in the callback's mailbox."""
    callback = kind()
    await trainer.fit(X, Y, batch_size=16, epochs=2, callbacks=[callback])
    batches = [f"batch {batch}" for batch in range(4)]
    assert callback.calls == [*batches, "epoch 0", *batches, "epoch 1"]
    assert len(callback.steps) == 8


@pytest.mark.anywhere
async def test_a_consumer_whose_own_lossless_stream_is_full_is_answered(
    trainer: fitbus.Trainer,
) -> None:
    run = trainer.run(X, Y, batch_size=8, epochs=FOREVER)
    async with (
        run,
        run.subscribe(BatchEnd, overflow="block", buffer_size=1) as events,
    ):
        seen: list[int] = []
        async for event in events:
            seen.append(event.step)
            with anyio.fail_after(10):
                applied = await run.send(ScaleLearningRate(1.0))
                snapshot = await run.snapshot()
            assert event.step <= applied.step <= int(snapshot.step)
            if len(seen) == 20:
                await run.send(StopTraining())
                break
    assert seen == list(range(seen[0], seen[0] + 20))


async def test_in_a_pause_it_answers(trainer: fitbus.Trainer) -> None:
    run = trainer.run(X, Y, batch_size=8, epochs=FOREVER)
    expected = await trainer.predict(X)

    async def serve(event: RunPaused) -> None:
        with anyio.fail_after(20):
            assert int((await run.snapshot()).step) == event.step
            assert (await run.send(ScaleLearningRate(1.0))).step == event.step
            np.testing.assert_array_equal(await run.predict(X), expected)
            assert set(await run.evaluate(X, Y)) == {"loss", "mean_absolute_error"}
        await run.send(Resume())

    run.add(serve)
    run.post(Pause())
    async with run:
        await run.wait_for(BatchEnd)
        await run.send(StopTraining())


async def test_a_waiting_handler_predicts_and_evaluates(trainer: fitbus.Trainer) -> None:
    """In a thread beside the one that waits for it, on the state that it sees."""
    run = trainer.run(X, Y, batch_size=16)
    found: list[Any] = []

    async def ask(event: EpochEnd) -> None:
        with anyio.fail_after(20):
            found.append(await run.predict(X))
            found.append(await run.evaluate(X, Y, batch_size=16))

    run.add(ask)
    async with run:
        pass
    np.testing.assert_array_equal(found[0], await trainer.predict(X))
    assert found[1] == await trainer.evaluate(X, Y, batch_size=16)


@pytest.mark.anywhere
async def test_a_def_handler_is_answered_on_the_spot(trainer: fitbus.Trainer) -> None:
    run = trainer.run(X, Y, batch_size=32)
    steps: list[int] = []

    def steer(event: BatchEnd) -> None:
        receipt = run.post(SetLearningRate(0.25))
        assert isinstance(receipt.outcome, Applied)
        assert receipt.result() is receipt.outcome
        assert run.model("steer").optimizer.learning_rate == 0.25
        steps.append(receipt.result().step - event.step)

    run.add(steer)
    async with run:
        pass
    assert steps == [0, 0]


@pytest.mark.anywhere
async def test_a_def_handler_is_answered_about_what_others_sent(trainer: fitbus.Trainer) -> None:
    """Nobody else could apply it meanwhile, so that asking lets it act."""
    run = trainer.run(X, Y, batch_size=64)
    receipts: list[fitbus.Receipt] = []

    def steer(event: EpochEnd) -> None:
        receipts.append(
            anyio.from_thread.run_sync(run.post, ScaleLearningRate(1.0), "from the loop")
        )
        assert receipts[0].outcome is None
        assert receipts[0].result(10).step == event.step

    run.add(steer)
    async with run:
        pass
    assert receipts[0].source == "from the loop"


@pytest.mark.anywhere
async def test_a_def_handler_in_a_worker_thread_waits(trainer: fitbus.Trainer) -> None:
    run = trainer.run(X, Y, batch_size=32, epochs=FOREVER)
    applied: list[Applied] = []

    def steer(event: BatchEnd) -> StopTraining:
        applied.append(run.post(ScaleLearningRate(1.0)).result(10))
        return StopTraining()

    run.add(steer, wait=False, where=lambda event: event.epoch == 1)
    async with run:
        pass
    assert applied[0].epoch >= 1


@pytest.mark.anywhere
async def test_in_a_notice_a_control_waits_for_the_next_boundary(trainer: fitbus.Trainer) -> None:
    """There nothing acts on the spot, and waiting for it in the training thread is refused."""
    recorder = EventRecorder()
    run = trainer.run(X, Y, batch_size=32, callbacks=[recorder])
    receipts: list[fitbus.Receipt] = []

    def follow(event: ControlApplied) -> None:
        if isinstance(event.control, ScaleLearningRate):
            receipts.append(run.post(SetLearningRate(0.5)))
            assert receipts[-1].outcome is None
            with pytest.raises(WouldDeadlockError, match="let the handler return"):
                receipts[-1].result(10)

    run.add(follow)
    run.post(ScaleLearningRate(1.0))
    async with run:
        pass
    assert isinstance(receipts[0].outcome, Applied)
    assert [type(e.control) for e in recorder.of(ControlApplied)] == [
        ScaleLearningRate,
        SetLearningRate,
    ]


@pytest.mark.anywhere
async def test_what_could_never_end_is_refused(trainer: fitbus.Trainer) -> None:
    """Waiting, in a waiting handler, for training, which waits for that handler."""
    run = trainer.run(X, Y, batch_size=64)
    refused: list[str] = []

    async def impatient(event: EpochEnd) -> None:
        for wait in (
            lambda: run.wait_for(TrainEnd),
            lambda: trainer.bus.wait_for(TrainEnd),
            run.wait,
        ):
            with pytest.raises(WouldDeadlockError) as caught:
                await wait()
            refused.append(str(caught.value).partition(" would never end")[0])

    def impatient_def(event: EpochEnd) -> None:
        with pytest.raises(WouldDeadlockError) as caught:
            anyio.from_thread.run(run.send, ScaleLearningRate(1.0))
        refused.append(str(caught.value))
        with pytest.raises(WouldDeadlockError) as caught:
            anyio.from_thread.run(run.wait)
        refused.append(str(caught.value).partition(" would never end")[0])

    run.add(impatient)
    run.add(impatient_def)
    async with run:
        pass
    where = f"inside a waiting handler of run {run.id!r}"
    assert refused == [
        f"wait_for {where}",
        f"wait_for {where}",
        f"wait {where}",
        "run.send inside a `def` handler waits for the thread that it blocks; use run.post",
        f"wait {where}",
    ]


@pytest.mark.anywhere
async def test_a_concurrent_handler_may_wait_for_what_comes(trainer: fitbus.Trainer) -> None:
    run = trainer.run(X, Y, batch_size=64, epochs=2)
    ends: list[int] = []

    async def patient(event: EpochBegin) -> None:
        ends.append((await run.wait_for(EpochEnd)).epoch)

    run.add(patient, wait=False, every=2)
    run.add(patient, wait=False, where=lambda event: event.epoch == 0)

    async def hold(event: EpochBegin) -> None:
        """Lets the others get to their wait before training goes on."""
        await anyio.wait_all_tasks_blocked()

    run.add(hold)
    async with run:
        pass
    assert ends == [0, 1]


async def test_a_snapshot_is_a_copy_of_a_boundary(trainer: fitbus.Trainer) -> None:
    """Training runs on and donates its own; what was taken stays as it was."""
    run = trainer.run(X, Y, batch_size=8, epochs=FOREVER)
    async with run:
        await run.wait_for(BatchEnd)
        first = await run.snapshot()
        kept = jax.tree.map(np.copy, first)
        await run.wait_for(BatchEnd, where=lambda event: event.step > int(first.step))
        second = await run.snapshot()
        await run.send(StopTraining())
    assert int(second.step) > int(first.step)
    jax.tree.map(np.testing.assert_array_equal, first, kept)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(first))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(trainer.state))
