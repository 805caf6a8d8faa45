"""Fused steps are steered between two executions, whoever asks; all their events come before."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest

import fitbus
from fitbus import (
    BatchBegin,
    BatchEnd,
    Callback,
    Control,
    ControlApplied,
    ControlRejected,
    EpochEnd,
    Event,
    Lagged,
    SetLearningRate,
    StopEpoch,
    StopTraining,
    TrainEnd,
)
from fitbus.testing import EventRecorder, Gate, toy_problem

from ._fused import Fits

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(40, 3)
X, Y = PROBLEM.x, PROBLEM.y
SIZE, BATCHES = 4, 10  # executions of the batches 0-3, 4-7 and 8-9
BOUNDARIES = (4, 8, 10)


@pytest.fixture(scope="module")
def fits() -> Fits:
    return Fits(PROBLEM.task, PROBLEM.params)


def started(fits: Fits, *callbacks: Any, **options: Any) -> fitbus.Run[fitbus.History]:
    """A run of fused steps from the beginning."""
    options = {"epochs": 2, "batch_size": 4, "steps_per_execution": SIZE, **options}
    return fits.anew().run(X, Y, callbacks=callbacks, **options)


async def fitted(fits: Fits, *callbacks: Any, **options: Any) -> EventRecorder:
    recorder = EventRecorder()
    async with started(fits, recorder, *callbacks, **options):
        pass
    return recorder


def returning(
    control: Control, kind: type[Event], batch: int, *, is_async: bool
) -> Callable[[Any], Any]:
    """A waiting handler that returns a control at a batch of the first epoch."""

    def answer(event: Any) -> Control | None:
        return control if (event.epoch, event.batch) == (0, batch) else None

    async def answer_async(event: Any) -> Control | None:
        await anyio.lowlevel.checkpoint()
        return answer(event)

    return fitbus.handler(kind, wait=True)(answer_async if is_async else answer)


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async"])
@pytest.mark.parametrize("kind", [BatchBegin, BatchEnd])
@pytest.mark.parametrize(("batch", "acts"), [(0, 4), (2, 4), (3, 4), (4, 8), (8, 10), (9, 10)])
@pytest.mark.parametrize("control", [StopTraining(), StopEpoch(), SetLearningRate(0.01)])
async def test_what_waiting_handlers_return_acts_when_all_steps_are_told_of(
    fits: Fits, control: Control, batch: int, acts: int, kind: type[Event], is_async: bool
) -> None:
    recorder = await fitted(fits, returning(control, kind, batch, is_async=is_async))
    (applied,) = recorder.of(ControlApplied)
    assert applied.step == acts
    ends = recorder.of(BatchEnd)
    assert [end.batch for end in ends if end.seq < applied.seq] == [*range(acts)]
    after = {"StopTraining": [], "StopEpoch": [*range(BATCHES)]}.get(
        type(control).__name__, [*range(acts, BATCHES), *range(BATCHES)]
    )
    assert [end.batch for end in ends if end.seq > applied.seq] == after
    assert recorder.of(TrainEnd)[0].reason == (
        "stopped" if isinstance(control, StopTraining) else "completed"
    )
    assert [e.seq for e in recorder.events] == list(range(len(recorder.events)))


async def test_a_rate_acts_on_the_next_execution(fits: Fits) -> None:
    """The steps after it are those of a training that had it from there."""
    changed = SetLearningRate(0.01)
    fused = await fitted(fits, returning(changed, BatchEnd, 1, is_async=False))
    single = await fitted(
        fits, returning(changed, BatchEnd, 3, is_async=False), steps_per_execution=1
    )
    assert [e.logs for e in fused.of(BatchEnd)] == [e.logs for e in single.of(BatchEnd)]
    assert [e.step for e in fused.of(BatchEnd)] == [e.step for e in single.of(BatchEnd)]


async def test_of_what_is_returned_in_one_execution_the_last_one_holds(fits: Fits) -> None:
    """As at one boundary, which it is."""
    recorder = await fitted(
        fits,
        *(
            returning(SetLearningRate(rate), BatchEnd, batch, is_async=is_async)
            for rate, batch, is_async in ((0.3, 0, False), (0.2, 1, True), (0.1, 2, False))
        ),
    )
    (applied,) = recorder.of(ControlApplied)
    assert (applied.step, applied.control) == (4, SetLearningRate(0.1))
    assert [e.control for e in recorder.of(ControlRejected)] == [
        SetLearningRate(0.3),
        SetLearningRate(0.2),
    ]


@pytest.mark.parametrize("control", [StopTraining(), SetLearningRate(0.01)])
async def test_what_is_sent_acts_between_two_executions(fits: Fits, control: Control) -> None:
    """While steps run ahead; and the events of all that was computed before come before it."""
    recorder = EventRecorder()
    record = fitbus.handler(Event, wait=False)(recorder)
    answers: list[Any] = []

    async def steer(event: BatchEnd) -> None:
        if event.step == 5:
            answers.append(await run.send(control))
            answers.append(await run.snapshot())
            run.post(StopTraining())

    run = started(fits, steer, record, epochs=100_000)
    async with run:
        pass
    applied, state = answers
    (told,) = [e for e in recorder.of(ControlApplied) if e.control == control][:1]
    assert told.step == applied.step
    assert applied.step % BATCHES in (0, *BOUNDARIES)
    assert int(state.step) % BATCHES in (0, *BOUNDARIES)
    assert int(state.step) >= applied.step
    before = [e.step for e in recorder.of(BatchEnd) if e.seq < told.seq]
    assert before == [*range(1, applied.step + 1)]


async def test_a_stop_while_data_stall_leaves_what_was_gathered(fits: Fits) -> None:
    """It acts at once, where training stands; no step comes after it."""
    gate = Gate()

    async def stalling() -> AsyncIterator[Any]:
        for batch in range(8):
            if batch == SIZE + 2:
                await gate.pass_async()
            yield X[:4], Y[:4]

    recorder = EventRecorder()
    record = fitbus.handler(Event, wait=False)(recorder)
    run = fits.anew().run(stalling(), steps_per_execution=SIZE, callbacks=[record])
    async with run:
        await gate.wait_arrived()
        applied = await run.send(StopTraining())
        await run.wait()
    assert applied.step == SIZE
    (told,) = recorder.of(ControlApplied)
    assert [end.step for end in recorder.of(BatchEnd)] == [1, 2, 3, 4]
    assert all(end.seq < told.seq for end in recorder.of(BatchEnd))
    assert int(fits.trainer.state.step) == SIZE


async def test_a_handler_that_is_waited_for_may_send(fits: Fits) -> None:
    """In the midst of an execution too: what is answered is the state after it, and its step."""
    answers: list[Any] = []

    @fitbus.handler(BatchEnd, wait=True)
    async def steer(event: BatchEnd) -> None:
        if event.step == 2:
            answers.append(await run.send(SetLearningRate(0.01)))
            answers.append(await run.snapshot())

    run = started(fits, steer, epochs=1)
    async with run:
        pass
    applied, state = answers
    assert (applied.step, int(state.step)) == (4, 4)


async def test_hooks_of_a_callback_are_called_batch_by_batch(fits: Fits) -> None:
    """In order, each with its own values; `def` and `async def`."""
    calls: dict[int, list[Any]] = {}
    for steps in (1, SIZE):
        told = calls[steps] = []

        class Hooks(Callback):
            def on_train_batch_begin(self, batch: int, logs: Any = None, told: Any = told) -> None:
                told.append(("begin", batch))

            def on_train_batch_end(self, batch: int, logs: Any = None, told: Any = told) -> None:
                told.append(("end", batch, dict(logs)))

        class AsyncHooks(Callback):
            async def on_train_batch_end(
                self, batch: int, logs: Any = None, told: Any = told
            ) -> None:
                told.append(("async end", batch, dict(logs)))

        await fitted(fits, Hooks(), AsyncHooks(), steps_per_execution=steps, epochs=1)
    assert [call[:2] for call in calls[1] if call[0] == "end"] == [
        ("end", batch) for batch in range(BATCHES)
    ]
    own = [[c for c in calls[steps] if c[0] != "async end"] for steps in (1, SIZE)]
    assert own[0] == own[1]
    other = [[c for c in calls[steps] if c[0] == "async end"] for steps in (1, SIZE)]
    assert other[0] == other[1]


@pytest.mark.parametrize("wait", [True, False], ids=["waiting", "running ahead"])
async def test_a_lossless_mailbox_smaller_than_an_execution_loses_nothing(
    fits: Fits, wait: bool
) -> None:
    """It holds training between two executions."""
    taken: list[int] = []

    @fitbus.handler(BatchBegin, BatchEnd, wait=False, buffer_size=1, name="small")
    async def keep(event: BatchEnd) -> None:
        await anyio.lowlevel.checkpoint()
        taken.append(event.seq)

    other = fitbus.handler(BatchEnd, wait=wait)(lambda event: None)
    run = started(fits, keep, other, steps_per_execution=8)
    async with run:
        pass
    assert len(taken) == 4 * BATCHES
    assert taken == sorted(set(taken))
    assert run.report is not None
    small = run.report.by_name["small"]
    assert (small.delivered, small.dropped, small.undelivered) == (4 * BATCHES, 0, 0)


async def test_losses_of_a_stream_are_counted(fits: Fits) -> None:
    """One that isn't read while training goes on keeps the newest, and tells of the others."""
    run = started(fits, epochs=1)
    async with run, run.subscribe(BatchEnd, Lagged, overflow="drop_oldest", buffer_size=3) as ends:
        await run.wait()
        found = [event async for event in ends]
    lagged, *kept = found
    assert isinstance(lagged, Lagged)
    assert lagged.count == BATCHES - 3
    assert [end.batch for end in kept if isinstance(end, BatchEnd)] == [7, 8, 9]
    counts = ends.statistics()
    assert (counts.published, counts.delivered, counts.dropped) == (BATCHES, 3, BATCHES - 3)


async def test_an_error_of_a_handler_ends_training_after_its_execution(fits: Fits) -> None:
    """What was computed is told of, to all others."""
    recorder = EventRecorder()

    @fitbus.handler(BatchEnd, wait=True)
    def fail(event: BatchEnd) -> None:
        if event.step == 6:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with started(fits, fail, recorder):
            pass
    assert [end.step for end in recorder.of(BatchEnd)] == [*range(1, 9)]
    assert recorder.of(EpochEnd) == []
    assert int(fits.trainer.state.step) == 8
