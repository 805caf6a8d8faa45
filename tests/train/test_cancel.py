"""Cancelling `fit`, at every stage, by an AnyIO scope and by the loop's own means.

Scenario 26.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import anyio
import anyio.to_thread
import jax
import numpy as np
import optax
import pytest
import sniffio
import trio

import fitbus
from fitbus import BatchEnd, EpochBegin, EpochEnd, Pause, RunPaused, TestBatchEnd, TrainEnd
from fitbus.errors import RunEndedError
from fitbus.testing import EventRecorder, Gate, ToyProblem, toy_problem

pytestmark = pytest.mark.anyio

GRACE_S = 60.0  # so long that a test which needed it would be seen
PROBLEM = toy_problem(64, 4)
X, Y = PROBLEM.x, PROBLEM.y
FOREVER = 10**6

Cancel = Callable[
    [Callable[[], Awaitable[object]], Callable[[], Awaitable[object]]], Awaitable[float]
]


async def by_scope(
    work: Callable[[], Awaitable[object]], when: Callable[[], Awaitable[object]]
) -> float:
    """Cancels the work's task group; returns how long it took to end, cancelled."""
    left: list[BaseException | None] = []

    async def main() -> None:
        try:
            await work()
        except BaseException as error:
            left.append(error)
            raise
        left.append(None)

    started = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(main)
        await when()
        started = anyio.current_time()
        tasks.cancel_scope.cancel()
    assert [type(error) for error in left] == [anyio.get_cancelled_exc_class()]
    return anyio.current_time() - started


async def natively(
    work: Callable[[], Awaitable[object]], when: Callable[[], Awaitable[object]]
) -> float:
    """Cancels by `asyncio.Task.cancel`, or by a scope of trio's own."""
    if sniffio.current_async_library() == "trio":
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            await when()
            nursery.cancel_scope.cancel()
            started = anyio.current_time()
        assert nursery.cancel_scope.cancelled_caught
        return anyio.current_time() - started
    task = asyncio.ensure_future(work())
    await when()
    task.cancel()
    started = anyio.current_time()
    with pytest.raises(asyncio.CancelledError):
        await task
    return anyio.current_time() - started


@pytest.fixture(params=[by_scope, natively])
def cancel(request: pytest.FixtureRequest) -> Cancel:
    way: Cancel = request.param
    return way


def threads_of_runs() -> list[str]:
    """The names of the runs' threads that are still alive, but for those that are just leaving."""
    names: list[str] = []
    for thread in threading.enumerate():
        if thread.name.startswith("fitbus fit"):
            thread.join(1)
            if thread.is_alive():
                names.append(thread.name)
    return names


class Watched:
    """A trainer, and the ends of its fits."""

    def __init__(self, problem: ToyProblem = PROBLEM, task: Any = None) -> None:
        self.trainer = fitbus.Trainer(task or problem.task, problem.params)
        self.ends: list[TrainEnd] = []
        self.trainer.bus.add(self.ends.append, TrainEnd)

    async def check_ended_cancelled(self) -> None:
        """Everything that must hold after a cancelled fit."""
        (end,) = self.ends
        assert end.reason == "cancelled"
        assert threads_of_runs() == []
        state = self.trainer.state
        assert int(state.step) == end.step
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
        assert self.trainer.bus.statistics().subscriptions[1:] == ()
        await self.trainer.fit(X, Y, batch_size=32)
        assert self.ends[-1].reason == "completed"
        assert int(self.trainer.state.step) == end.step + 2


async def test_while_compiling(cancel: Cancel) -> None:
    """The step is traced to its end, and then nothing runs."""
    gate = Gate()

    def apply(params: Any, x: Any) -> Any:
        gate.pass_sync()
        return x @ params["w"] + params["b"]

    watched = Watched(
        task=fitbus.Supervised(apply, PROBLEM.task.loss, optax.sgd, learning_rate=0.1)
    )

    async def work() -> None:
        await watched.trainer.fit(X, Y, batch_size=32, epochs=FOREVER, grace_s=GRACE_S)

    async def when() -> None:
        await gate.wait_arrived()
        gate.open()

    assert await cancel(work, when) < GRACE_S / 2
    await watched.check_ended_cancelled()


async def test_before_it_has_begun() -> None:
    watched = Watched()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await watched.trainer.fit(X, Y, batch_size=32, epochs=FOREVER, grace_s=GRACE_S)
    assert scope.cancelled_caught
    await watched.check_ended_cancelled()


async def test_in_a_source_that_blocks_at_its_first_batch(cancel: Cancel) -> None:
    gate = Gate()
    watched = Watched()

    def batches() -> Iterator[Any]:
        gate.pass_sync()
        yield from itertools.repeat((X[:32], Y[:32]))

    async def work() -> None:
        await watched.trainer.fit(batches(), grace_s=GRACE_S)

    async def when() -> None:
        await gate.wait_arrived()
        gate.open()

    assert await cancel(work, when) < GRACE_S / 2
    await watched.check_ended_cancelled()


@pytest.mark.parametrize("before", [0, 3])
async def test_in_an_async_source_that_stalls(cancel: Cancel, before: int) -> None:
    """Waiting for async data is standing still: nothing needs to come for the end."""
    gate = Gate()
    watched = Watched()

    async def batches() -> AsyncIterator[Any]:
        for _ in range(before):
            yield X[:32], Y[:32]
        await gate.pass_async()

    source = batches()

    async def work() -> None:
        await watched.trainer.fit(source, grace_s=GRACE_S, steps_per_epoch=FOREVER)

    assert await cancel(work, gate.wait_arrived) < GRACE_S / 2
    assert watched.ends[0].step == before
    await watched.check_ended_cancelled()


async def test_in_the_middle_of_an_epoch(cancel: Cancel) -> None:
    """The state is, bit for bit, that of as many undisturbed steps."""
    watched = Watched()

    async def work() -> None:
        await watched.trainer.fit(X, Y, batch_size=32, steps_per_epoch=FOREVER, grace_s=GRACE_S)

    async def when() -> None:
        await watched.trainer.bus.wait_for(BatchEnd, where=lambda event: event.batch >= 5)

    assert await cancel(work, when) < GRACE_S / 2
    state = watched.trainer.state
    undisturbed = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    await undisturbed.fit(X, Y, batch_size=32, steps_per_epoch=int(state.step))
    for found, expected in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(undisturbed.state.params), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    await watched.check_ended_cancelled()


async def test_each_completed_step_was_told_of(cancel: Cancel) -> None:
    """With steps in flight too: `TrainEnd` comes after the `BatchEnd` of the last step."""
    watched = Watched()
    steps: list[int] = []
    watched.trainer.bus.add(lambda event: steps.append(event.step), BatchEnd, wait=False)

    async def work() -> None:
        await watched.trainer.fit(X, Y, batch_size=32, steps_per_epoch=FOREVER, grace_s=GRACE_S)

    async def when() -> None:
        await watched.trainer.bus.wait_for(BatchEnd, where=lambda event: event.batch >= 5)

    await cancel(work, when)
    assert steps == list(range(1, int(watched.trainer.state.step) + 1))


async def test_in_a_def_handler(cancel: Cancel) -> None:
    gate = Gate()
    watched = Watched()

    def halt(event: BatchEnd) -> None:
        if event.batch == 1:
            gate.pass_sync()

    async def work() -> None:
        await watched.trainer.fit(
            X, Y, batch_size=32, epochs=FOREVER, callbacks=[halt], grace_s=GRACE_S
        )

    async def when() -> None:
        await gate.wait_arrived()
        gate.open()

    assert await cancel(work, when) < GRACE_S / 2
    await watched.check_ended_cancelled()


async def test_in_an_async_waiting_handler(cancel: Cancel) -> None:
    """A handler that returns in time is waited for."""
    gate = Gate()
    watched = Watched()
    returned: list[int] = []

    async def halt(event: EpochBegin) -> None:
        await gate.pass_async()
        returned.append(event.seq)

    async def work() -> None:
        await watched.trainer.fit(
            X, Y, batch_size=32, epochs=FOREVER, callbacks=[halt], grace_s=GRACE_S
        )

    async def when() -> None:
        await gate.wait_arrived()
        gate.open()

    assert await cancel(work, when) < GRACE_S / 2
    assert returned == [1]
    await watched.check_ended_cancelled()


async def test_in_an_async_waiting_handler_that_never_returns(cancel: Cancel) -> None:
    """It is given up within the grace period, and cancelled."""
    gate = Gate()
    watched = Watched()
    cancelled: list[int] = []

    async def halt(event: EpochBegin) -> None:
        try:
            await gate.pass_async()
        finally:
            cancelled.append(event.seq)

    async def work() -> None:
        await watched.trainer.fit(
            X, Y, batch_size=32, epochs=FOREVER, callbacks=[halt], grace_s=0.2
        )

    assert await cancel(work, gate.wait_arrived) < 5
    assert cancelled == [1]
    await watched.check_ended_cancelled()


async def test_in_the_validation(cancel: Cancel) -> None:
    watched = Watched()

    async def work() -> None:
        await watched.trainer.fit(
            X,
            Y,
            batch_size=32,
            epochs=FOREVER,
            validation_data=itertools.repeat((X[:32], Y[:32])),
            grace_s=GRACE_S,
        )

    async def when() -> None:
        await watched.trainer.bus.wait_for(TestBatchEnd, where=lambda event: event.batch >= 2)

    assert await cancel(work, when) < GRACE_S / 2
    assert watched.ends[0].step == 2
    await watched.check_ended_cancelled()


async def test_while_paused(cancel: Cancel) -> None:
    watched = Watched()

    def pause(event: EpochEnd) -> Pause:
        return Pause()

    async def work() -> None:
        await watched.trainer.fit(
            X, Y, batch_size=32, epochs=FOREVER, callbacks=[pause], grace_s=GRACE_S
        )

    async def when() -> None:
        await watched.trainer.bus.wait_for(RunPaused)

    assert await cancel(work, when) < GRACE_S / 2
    assert watched.ends[0].step == 2
    await watched.check_ended_cancelled()


class Held(logging.Handler):
    """Opens a gate when the log says that a run is held."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._gate = gate

    def emit(self, record: logging.LogRecord) -> None:
        if "is held" in record.getMessage():
            self._gate.pass_sync()


async def test_while_held_by_a_lossless_subscriber(cancel: Cancel) -> None:
    held, never = Gate(), Gate()
    held.open()
    watched = Watched()

    @fitbus.handler(BatchEnd, wait=False, buffer_size=1)
    async def slow(event: BatchEnd) -> None:
        await never.pass_async()

    async def work() -> None:
        await watched.trainer.fit(
            X, Y, batch_size=32, epochs=FOREVER, callbacks=[slow], grace_s=0.3
        )

    logger, watch = logging.getLogger("fitbus"), Held(held)
    logger.addHandler(watch)
    try:
        assert await cancel(work, held.wait_arrived) < 5
    finally:
        logger.removeHandler(watch)
    await watched.check_ended_cancelled()


async def test_while_handlers_are_drained(cancel: Cancel) -> None:
    """All is done but for a slow handler: it gets the grace period, not `drain_s`."""
    gate = Gate()
    watched = Watched()

    @fitbus.handler(TrainEnd, wait=False)
    async def slow(event: TrainEnd) -> None:
        await gate.pass_async()

    async def work() -> None:
        await watched.trainer.fit(
            X, Y, batch_size=32, callbacks=[slow], grace_s=0.2, drain_s=GRACE_S
        )

    assert await cancel(work, gate.wait_arrived) < 5
    assert [end.reason for end in watched.ends] == ["completed"]
    assert threads_of_runs() == []
    assert int(watched.trainer.state.step) == 2
    await watched.trainer.fit(X, Y, batch_size=32)


async def test_evaluate_and_predict_too(cancel: Cancel) -> None:
    """They publish no end, and leave the state as it was."""
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    for call in (trainer.evaluate, trainer.predict):
        gate = Gate()

        def batches(gate: Gate = gate) -> Iterator[Any]:
            yield X[:32], Y[:32]
            gate.pass_sync()
            yield from itertools.repeat((X[:32], Y[:32]))

        async def work(call: Any = call, batches: Any = batches) -> None:
            await call(batches(), grace_s=GRACE_S)

        async def when(gate: Gate = gate) -> None:
            await gate.wait_arrived()
            gate.open()

        assert await cancel(work, when) < GRACE_S / 2
        assert int(trainer.state.step) == 0
    await trainer.fit(X, Y, batch_size=32)


async def test_the_run_handle_says_so(cancel: Cancel) -> None:
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    run = trainer.run(X, Y, batch_size=32, epochs=FOREVER, grace_s=GRACE_S)

    async def work() -> None:
        async with run:
            await run.wait()

    async def when() -> None:
        await run.wait_for(BatchEnd)

    await cancel(work, when)
    assert run.status == "cancelled"
    with pytest.raises(RunEndedError):
        run.add(print, BatchEnd)
    receipt = run.post(Pause())
    with pytest.raises(fitbus.errors.ControlRejectedError, match="too late"):
        await receipt


async def test_another_loop_can_train_afterwards(cancel: Cancel) -> None:
    """The cancelled run lets go of its event loop, and so does the bus."""
    watched = Watched()

    async def work() -> None:
        await watched.trainer.fit(X, Y, batch_size=32, epochs=FOREVER, grace_s=GRACE_S)

    async def when() -> None:
        await watched.trainer.bus.wait_for(EpochEnd)

    await cancel(work, when)
    await anyio.to_thread.run_sync(lambda: watched.trainer.fit_sync(X, Y, batch_size=32))
    assert [end.reason for end in watched.ends] == ["cancelled", "completed"]


async def test_leaving_the_block_by_an_error_cancels_and_the_error_leads() -> None:
    watched = Watched()

    async def body() -> None:
        async with watched.trainer.run(X, Y, batch_size=32, epochs=FOREVER, grace_s=GRACE_S) as run:
            await run.wait_for(BatchEnd)
            raise ZeroDivisionError("the body's own")

    with pytest.raises(ZeroDivisionError, match="the body's own") as caught:
        await body()
    assert getattr(caught.value, "__notes__", []) == []
    await watched.check_ended_cancelled()


async def test_cancelled_again_and_again_while_it_ends() -> None:
    """Whoever loses patience and cancels once more doesn't tear it apart."""
    gate = Gate()
    watched = Watched()

    def halt(event: EpochBegin) -> None:
        gate.pass_sync()

    async def work() -> None:
        await watched.trainer.fit(
            X, Y, batch_size=32, epochs=FOREVER, callbacks=[halt], grace_s=GRACE_S
        )

    if sniffio.current_async_library() == "trio":
        scopes = [trio.CancelScope() for _ in range(3)]

        async def nested() -> None:
            with scopes[0], scopes[1], scopes[2]:
                await work()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(nested)
            await gate.wait_arrived()
            for scope in reversed(scopes):
                scope.cancel()
                await anyio.wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 1
            gate.open()
    else:
        task = asyncio.ensure_future(work())
        await gate.wait_arrived()
        for _ in range(3):
            task.cancel()
            await anyio.wait_all_tasks_blocked()
        assert not task.done()
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await task
    await watched.check_ended_cancelled()


async def test_a_time_limit_around_it_is_told_as_such() -> None:
    """`anyio.fail_after`, and asyncio's own `timeout`, raise their TimeoutError."""
    watched = Watched()

    async def work() -> None:
        await watched.trainer.fit(X, Y, batch_size=32, epochs=FOREVER, grace_s=GRACE_S)

    with pytest.raises(TimeoutError):
        with anyio.fail_after(0.05):
            await work()
    if sniffio.current_async_library() == "asyncio":
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await work()
        assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]  # there is one
    assert {end.reason for end in watched.ends} == {"cancelled"}
    assert threads_of_runs() == []


async def test_others_in_the_same_loop_go_on(cancel: Cancel) -> None:
    """Cancelling one of two runs on one bus leaves the other alone."""
    bus = fitbus.Bus()
    recorder = EventRecorder()
    first = fitbus.Trainer(PROBLEM.task, PROBLEM.params, bus=bus)
    second = fitbus.Trainer(PROBLEM.task, PROBLEM.params, bus=bus)
    results: list[Any] = []

    async def other() -> None:
        results.append(await second.fit(X, Y, batch_size=32, epochs=20, callbacks=[recorder]))

    async def work() -> None:
        await first.fit(X, Y, batch_size=32, epochs=FOREVER, grace_s=GRACE_S)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        await cancel(work, lambda: bus.wait_for(BatchEnd, where=lambda event: event.batch == 1))
    assert len(results[0].epoch) == 20
    assert [end.reason for end in recorder.of(TrainEnd)] == ["completed"]
