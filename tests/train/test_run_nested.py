"""Predicting and evaluating beside a run: on the state of a boundary, disturbing nobody."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import jax.numpy as jnp
import numpy as np
import pytest

import fitbus
from fitbus import (
    Batch,
    BatchEnd,
    Callback,
    EpochBegin,
    Event,
    Pause,
    PredictEnd,
    Run,
    StopTraining,
    TestBatchEnd,
    TestEnd,
    TrainState,
)
from fitbus.errors import DataError, InvalidArgumentError
from fitbus.testing import EventRecorder, Gate, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(64, 4)
X, Y = PROBLEM.x, PROBLEM.y
FOREVER = 10**6
SHARED = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
TEST = ["TestBegin", *["TestBatchBegin", "TestBatchEnd"] * 2, "TestEnd"]
PREDICT = ["PredictBegin", *["PredictBatchBegin", "PredictBatchEnd"] * 2, "PredictEnd"]


def predictions(state: TrainState) -> Any:
    return X @ np.asarray(state.params["w"]) + np.asarray(state.params["b"])


async def evaluates(run: Run[Any], **options: Any) -> Any:
    return await run.evaluate(X, Y, batch_size=32, **options)


async def predicts(run: Run[Any], **options: Any) -> Any:
    return await run.predict(X, batch_size=32, **options)


Nested = Callable[..., Awaitable[Any]]


class AsGiven:
    """Wants weights as they are given, and notes what `predict_step` is traced with."""

    pad = False
    weights_as_given = True

    def __init__(self) -> None:
        self.optimizer = PROBLEM.task.optimizer
        self.weights: list[Any] = []

    def train_step(self, state: TrainState, batch: Batch) -> Any:
        return PROBLEM.task.train_step(state, batch._replace(weight=jnp.ones(len(batch.x))))

    def eval_step(self, state: TrainState, batch: Batch) -> Any:
        return PROBLEM.task.eval_step(state, batch._replace(weight=jnp.ones(len(batch.x))))

    def predict_step(self, state: TrainState, batch: Batch) -> Any:
        self.weights.append(batch.weight)
        return PROBLEM.task.predict_step(state, batch)


async def test_weights_are_left_as_given_in_predictions_too() -> None:
    """Beside a run as without one; so the step is compiled once for both."""
    task = AsGiven()
    trainer = fitbus.Trainer(task, PROBLEM.params)
    await trainer.predict(X, batch_size=32)
    async with trainer.run(X, Y, batch_size=32, epochs=FOREVER) as run:
        await run.predict(X, batch_size=32)
        await run.send(StopTraining())
    assert task.weights == [None]


async def test_they_use_the_state_of_a_boundary(trainer: fitbus.Trainer) -> None:
    """In a pause it is one and the same; NumPy agrees."""
    async with trainer.run(X, Y, batch_size=32, epochs=FOREVER) as run:
        await run.send(Pause())
        state = await run.snapshot()
        outputs = await run.predict(X, batch_size=24)
        logs = await run.evaluate(X, Y, batch_size=24)
        weight = np.arange(64, dtype=np.float32)
        weighted = await run.evaluate(X, Y, batch_size=32, sample_weight=weight)
        first = await run.evaluate(X, Y, batch_size=16, steps=2)
        await run.send(StopTraining())
    error = np.abs(predictions(state) - Y)
    np.testing.assert_allclose(outputs, predictions(state), atol=1e-5)
    assert logs["mean_absolute_error"] == pytest.approx(error.mean(), rel=1e-4)
    assert logs["loss"] == pytest.approx((error**2).mean(), rel=1e-4)
    expected = np.average(error, weights=weight)
    assert weighted["mean_absolute_error"] == pytest.approx(expected, rel=1e-4)
    assert first["mean_absolute_error"] == pytest.approx(error[:32].mean(), rel=1e-4)


async def test_training_goes_on_meanwhile(trainer: fitbus.Trainer) -> None:
    """While an evaluation is held, in its own handler, training gets on."""
    gate = Gate()

    def hold(event: TestEnd) -> None:
        gate.pass_sync()

    async with trainer.run(X, Y, batch_size=32, epochs=FOREVER) as run:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: run.evaluate(X, Y, callbacks=[hold]))
            await gate.wait_arrived()
            begun = await run.wait_for(EpochBegin)
            assert (await run.wait_for(EpochBegin)).epoch > begun.epoch
            gate.open()
        await run.send(StopTraining())


@pytest.mark.parametrize("nested", [evaluates, predicts])
async def test_without_callbacks_they_publish_nothing(
    trainer: fitbus.Trainer, nested: Nested
) -> None:
    """Neither in the run, whose `seq` has no gap, nor beside it."""
    seen: list[Event] = []
    everywhere = trainer.bus.add(seen.append, Event)
    async with trainer.run(X, Y, batch_size=32, epochs=FOREVER) as run:
        await nested(run)
        await nested(run, callbacks=[])
        await run.send(StopTraining())
    everywhere.cancel()
    assert {event.run for event in seen} == {run.id}
    assert [event.seq for event in seen] == list(range(len(seen)))
    assert not [event for event in seen if type(event).__name__.startswith(("Test", "Predict"))]


@pytest.mark.parametrize(
    ("nested", "expected"), [(evaluates, TEST), (predicts, PREDICT)], ids=["evaluate", "predict"]
)
@pytest.mark.parametrize("when", ["before", "during", "after"])
async def test_with_callbacks_they_are_a_run_of_their_own(
    trainer: fitbus.Trainer, nested: Nested, expected: list[str], when: str
) -> None:
    """With an id, a `seq` and a step of its own; the bus sees it, the run's handlers don't.

    Before the run, while it is live, and after it; handlers of each kind get all of it.
    """
    waiting, worker, everywhere, parents = (EventRecorder() for _ in range(4))
    run = trainer.run(X, Y, batch_size=32, epochs=1 if when == "after" else FOREVER)
    parent = run.add(parents)
    subscription = trainer.bus.add(everywhere)
    concurrent: list[str] = []
    step = int(trainer.state.step)

    async def waits(event: Event) -> None:
        concurrent.append(type(event).__name__)

    callbacks = [
        waiting,
        fitbus.handler(Event, wait=True)(waits),
        [fitbus.handler(Event, wait=False)(worker)],
    ]

    def check(step: int) -> None:
        assert waiting.names == concurrent == expected
        assert worker.events == waiting.events
        (id,) = {event.run for event in waiting.events}
        assert id.startswith(nested.__name__.rstrip("s") + "-")
        assert [event.seq for event in waiting.events] == list(range(len(expected)))
        assert {event.step for event in waiting.events} == {step}
        assert [event for event in everywhere.events if event.run == id] == waiting.events
        assert all(event.run == run.id for event in parents.events)

    if when == "before":
        await nested(run, callbacks=callbacks)
        check(step)
        parent.cancel()
    else:
        async with run:
            if when == "during":
                await run.send(Pause())
                await nested(run, callbacks=callbacks)
                step = int((await run.snapshot()).step)
                run.post(StopTraining())
        if when == "after":
            await nested(run, callbacks=callbacks)
            step = int(trainer.state.step)
        check(step)
        assert [event.seq for event in parents.events] == list(range(len(parents.events)))
    subscription.cancel()


class Looks(Callback):
    """Notes what it meets."""

    def __init__(self) -> None:
        self.met: list[Any] = []

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self.met.append((batch, sorted(logs)))

    def on_test_end(self, logs: Any = None) -> None:
        assert self.run is not None
        self.met.append(self.run.id)
        self.met.append(self.model.get_weights())


async def test_a_callback_has_the_nested_run_and_its_state(trainer: fitbus.Trainer) -> None:
    """As `self.run` and `self.model`, not those of the run beside which it is made."""
    looks = Looks()
    async with trainer.run(X, Y, batch_size=32, epochs=FOREVER) as run:
        await run.send(Pause())
        state = await run.snapshot()
        await evaluates(run, callbacks=[looks])
        run.post(StopTraining())
    *batches, id, (b, w) = looks.met
    assert batches == [(i, ["loss", "mean_absolute_error"]) for i in range(2)]
    assert id != run.id
    np.testing.assert_array_equal(w, state.params["w"])
    np.testing.assert_array_equal(b, state.params["b"])


async def test_a_stop_ends_the_nested_one_alone(trainer: fitbus.Trainer) -> None:
    """And gives the means of what it has gone through."""

    def stop(event: TestBatchEnd) -> StopTraining:
        return StopTraining("enough")

    recorder = EventRecorder()
    async with trainer.run(X, Y, batch_size=32, epochs=FOREVER) as run:
        await run.send(Pause())
        logs = await evaluates(run, callbacks=[stop, recorder])
        half = await run.evaluate(X[:32], Y[:32], batch_size=32)
        assert (run.status, run.stopping) == ("paused", False)
        await run.send(StopTraining())
    assert logs == half
    assert len(recorder.of(TestBatchEnd)) == 1


async def test_an_error_is_its_callers(trainer: fitbus.Trainer) -> None:
    """Of a handler, of the data, of a callback that is none; the run goes on."""

    def broken(event: Event) -> None:
        raise ZeroDivisionError("nested")

    async with trainer.run(X, Y, batch_size=32, epochs=FOREVER) as run:
        for kind, nested in ((TestEnd, evaluates), (PredictEnd, predicts)):
            handler = fitbus.handler(kind)(broken)
            with pytest.raises(ZeroDivisionError, match="nested"):
                await nested(run, callbacks=[handler])
            with pytest.raises(InvalidArgumentError, match="callbacks"):
                await nested(run, callbacks=[EventRecorder(), "no callback"])
        with pytest.raises(DataError, match=r"y: .*63.*64|y: .*64.*63"):
            await run.evaluate(X, Y[1:])
        with pytest.raises(InvalidArgumentError, match="batch_size"):
            await run.predict(X, batch_size=0)

        async def batches() -> Any:
            yield X, Y

        with pytest.raises(DataError, match="give arrays or a list"):
            await run.evaluate(batches())
        assert await run.wait_for(BatchEnd)
        await run.send(StopTraining())
    assert run.status == "stopped"


async def test_cancelling_one_lets_the_run_go_on(trainer: fitbus.Trainer) -> None:
    """Its thread is left to its handler; nothing of it stays on the bus."""
    gate = Gate()

    def hold(event: TestEnd) -> None:
        gate.pass_sync()

    async with trainer.run(X, Y, batch_size=32, epochs=FOREVER) as run:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: evaluates(run, callbacks=[hold]))
                await gate.wait_arrived()
                scope.cancel()
        assert scope.cancelled_caught
        assert trainer.bus.statistics().subscriptions == ()
        assert await run.wait_for(BatchEnd)
        gate.open()
        await run.send(StopTraining())
    assert run.status == "stopped"
