"""The trainer: its state, its arguments, and one call at a time.

Scenario 34.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitbus
from fitbus import (
    BatchEnd,
    EpochBegin,
    EpochEnd,
    PredictBegin,
    SetLearningRate,
    StopTraining,
    TestBegin,
    TrainBegin,
    TrainEnd,
)
from fitbus.errors import InvalidArgumentError, TrainerBusyError
from fitbus.testing import EventRecorder, Gate, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(64, 4)
X, Y = PROBLEM.x, PROBLEM.y
FOREVER = 10**6
SHARED = fitbus.Trainer(PROBLEM.task, PROBLEM.params)


def check_same(one: Any, other: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


# Its state.


def test_the_state_is_there_from_construction() -> None:
    """All of it, on the device: no step yet, the params, the optimizer's state and a typed key."""
    state = fitbus.Trainer(PROBLEM.task, PROBLEM.params, seed=3).state
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    assert (int(state.step), state.step.dtype, state.extra) == (0, jnp.int32, None)
    check_same(state.params, PROBLEM.params)
    assert float(state.opt_state.hyperparams["learning_rate"]) == np.float32(0.1)
    assert jnp.issubdtype(state.key.dtype, jax.dtypes.prng_key)
    check_same(jax.random.key_data(state.key), jax.random.key_data(jax.random.key(3)))


async def test_it_is_that_of_the_last_completed_step(trainer: fitbus.Trainer) -> None:
    """After each way to the end; evaluating and predicting leave it as it is."""
    ends: list[int] = []
    subscription = trainer.bus.add(lambda event: ends.append(event.step), TrainEnd)
    start = int(trainer.state.step)
    await trainer.fit(X, Y, batch_size=32, epochs=2)
    assert int(trainer.state.step) == start + 4 == ends[-1]
    stop = fitbus.handler(BatchEnd)(lambda event: StopTraining())
    await trainer.fit(X, Y, batch_size=32, epochs=2, callbacks=[stop])
    assert int(trainer.state.step) == start + 5 == ends[-1]
    kept = trainer.state
    await trainer.evaluate(X, Y)
    await trainer.predict(X)
    check_same(jax.random.key_data(trainer.state.key), jax.random.key_data(kept.key))
    check_same(trainer.state.params, kept.params)
    assert int(trainer.state.step) == start + 5
    subscription.cancel()


async def test_while_a_run_is_live_it_names_the_snapshot(trainer: fitbus.Trainer) -> None:
    """In its block, in its handlers, and while it evaluates or predicts; not before and after."""
    refused: list[str] = []

    def refuse(event: object = None) -> None:
        with pytest.raises(TrainerBusyError, match=r"use `await run\.snapshot\(\)`") as caught:
            _ = trainer.state
        refused.append(str(caught.value))

    run = trainer.run(X, Y, batch_size=32, epochs=FOREVER)
    run.add(refuse, TrainBegin, TrainEnd)
    assert trainer.state is not None
    async with run:
        refuse()
        await run.send(StopTraining())
    assert f"<Run {run.id!r}: running>" in refused[0]
    await trainer.evaluate(X, Y, callbacks=[fitbus.handler(TestBegin)(refuse)])
    await trainer.predict(X, callbacks=[fitbus.handler(PredictBegin)(refuse)])
    assert trainer.state is not None
    assert len(refused) == 5


def test_a_whole_state_goes_on_where_it_was() -> None:
    """Step, key, optimizer and all: half and half is the whole, bit for bit."""
    whole, first = (fitbus.Trainer(PROBLEM.task, PROBLEM.params, seed=5) for _ in range(2))
    whole.fit_sync(X, Y, batch_size=32, epochs=2, shuffle=False)
    first.fit_sync(X, Y, batch_size=32, shuffle=False)
    second = fitbus.Trainer(PROBLEM.task, first.state)
    assert int(second.state.step) == 2
    second.fit_sync(X, Y, batch_size=32, shuffle=False)
    for one, other in zip(
        jax.tree.leaves((whole.state.params, whole.state.opt_state, whole.state.step)),
        jax.tree.leaves((second.state.params, second.state.opt_state, second.state.step)),
        strict=True,
    ):
        check_same(one, other)
    check_same(jax.random.key_data(whole.state.key), jax.random.key_data(second.state.key))


def test_the_step_is_traced_for_the_first_fit_only() -> None:
    """A short last batch, a second fit, a control and a stop trace nothing anew."""
    traces: list[int] = []

    def apply(params: Any, x: Any) -> Any:
        traces.append(len(x))
        return x @ params["w"] + params["b"]

    task = fitbus.Supervised(apply, PROBLEM.task.loss, optax.sgd, learning_rate=0.1)
    trainer = fitbus.Trainer(task, PROBLEM.params)
    trainer.fit_sync(X[:60], Y[:60], batch_size=32)
    first = list(traces)
    assert set(first) == {32}
    steer = fitbus.handler(EpochEnd)(lambda event: SetLearningRate(0.01))
    stop = fitbus.handler(BatchEnd)(lambda event: StopTraining() if event.epoch == 2 else None)
    _ = trainer.state
    trainer.fit_sync(X, Y, batch_size=32, epochs=4, callbacks=[steer, stop])
    trainer.fit_sync(X[:40], Y[:40], batch_size=32)
    assert traces == first


# One call at a time.


CALLS: dict[str, Callable[[fitbus.Trainer], Awaitable[Any]]] = {
    "fit": lambda trainer: trainer.fit(X, Y, callbacks=[EventRecorder()]),
    "evaluate": lambda trainer: trainer.evaluate(X, Y, callbacks=[EventRecorder()]),
    "predict": lambda trainer: trainer.predict(X, callbacks=[EventRecorder()]),
}
HOLDS: dict[str, Any] = {"fit": EpochBegin, "evaluate": TestBegin, "predict": PredictBegin}


@pytest.mark.parametrize("live", CALLS)
async def test_a_second_call_is_refused_whatever_the_first_is(
    trainer: fitbus.Trainer, live: str
) -> None:
    """By a task, and by a handler of the first, which would wait for itself. The first goes on."""
    refused: list[str] = []
    gate = Gate()

    async def refuse() -> None:
        for call in CALLS.values():
            with pytest.raises(TrainerBusyError, match="one call at a time") as caught:
                await call(trainer)
            refused.append(str(caught.value))

    async def hold(event: Any) -> None:
        await refuse()
        await gate.pass_async()

    found: list[Any] = []

    async def work() -> None:
        arguments: Any = (X,) if live == "predict" else (X, Y)
        handler = fitbus.handler(HOLDS[live])(hold)
        found.append(await getattr(trainer, live)(*arguments, batch_size=32, callbacks=[handler]))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            await gate.wait_arrived()
            await refuse()
            assert repr(trainer) == "<Trainer of Supervised: busy>"
            gate.open()
    assert len(refused) == 6
    assert all(f"<Run '{live}-" in message for message in refused)
    assert len(found) == 1
    for call in CALLS.values():
        await call(trainer)
    assert repr(trainer) == "<Trainer of Supervised: idle>"


async def test_a_run_that_was_made_before_has_its_turn_later(trainer: fitbus.Trainer) -> None:
    """Making one takes nothing; entering it does."""
    early, late = (trainer.run(X, Y, batch_size=32) for _ in range(2))
    async with late:
        assert early.status == "pending"
    assert trainer.state is not None
    async with early:
        pass
    assert (early.status, late.status) == ("completed", "completed")


async def test_callbacks_live_for_one_call_and_the_buss_subscribers_for_all() -> None:
    """On a bus of one's own, with the ids of its runs."""
    bus = fitbus.Bus()
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params, bus=bus)
    assert trainer.bus is bus
    everywhere, once = EventRecorder(), EventRecorder()
    subscription = bus.add(everywhere)
    await trainer.fit(X, Y, batch_size=32, callbacks=[once])
    await trainer.evaluate(X, Y)
    await trainer.predict(X)
    await trainer.fit(X, Y, batch_size=32)
    subscription.cancel()
    ids = list(dict.fromkeys(event.run for event in everywhere.events))
    assert ids == ["fit-1", "evaluate-2", "predict-3", "fit-4"]
    assert {event.run for event in once.events} == {"fit-1"}
    for id in ids:
        numbers = [event.seq for event in everywhere.events if event.run == id]
        assert numbers == list(range(len(numbers)))
    steps = {event.run: event.step for event in everywhere.events}
    assert steps == {"fit-1": 2, "evaluate-2": 2, "predict-3": 2, "fit-4": 4}


# Its arguments.


WRONG: dict[str, list[Any]] = {
    "seed": [-1, 1.5, True, "1"],
    "max_in_flight": [0, -1, 1.5, True, "many"],
    "flush_s": [-1, float("nan"), float("inf"), "1"],
    "bus": ["a bus"],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_is_refused_naming_it(name: str) -> None:
    for value in WRONG[name]:
        with pytest.raises(InvalidArgumentError, match=name) as caught:
            fitbus.Trainer(PROBLEM.task, PROBLEM.params, **{name: value})
        assert (caught.value.argument, caught.value.found) == (name, value)


@pytest.mark.parametrize("leaf", ["text", object()])
def test_params_that_are_no_arrays_are_refused_naming_the_leaf(leaf: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"params\['layers'\]\[0\].*arrays or numbers"):
        fitbus.Trainer(PROBLEM.task, {"layers": [leaf], "b": 0.0})


async def test_two_trainers_share_the_loop() -> None:
    """When one is done, the other has made a quarter of its epochs at least; nearly all, mostly.

    Both have compiled before: whoever compiles last would be late, whatever its share.
    """
    begun = [anyio.Event(), anyio.Event()]
    ends: list[int] = []

    async def train(number: int) -> None:
        @fitbus.handler(fitbus.TrainBegin)
        async def begins(event: fitbus.TrainBegin) -> None:
            begun[number].set()
            await begun[1 - number].wait()

        @fitbus.handler(fitbus.EpochEnd)
        async def ends_epoch(event: fitbus.EpochEnd) -> None:
            ends.append(number)

        own = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
        await own.fit(PROBLEM.x, PROBLEM.y, batch_size=16)
        await own.fit(
            PROBLEM.x, PROBLEM.y, batch_size=16, epochs=100, callbacks=[begins, ends_epoch]
        )

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(train, 0)
        tasks.start_soon(train, 1)
    assert ends.count(0) == ends.count(1) == 100
    slower = ends[-1]
    done = len(ends) - ends[::-1].index(1 - slower)
    assert ends[:done].count(slower) >= 25
