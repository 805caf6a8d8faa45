"""What faults leave of the state, and what is the caller's own.

Scenario 38.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import anyio
import anyio.lowlevel
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
    StopTraining,
    TrainBegin,
    TrainEnd,
    TrainState,
    handler,
)
from fitbus.callbacks import EarlyStopping
from fitbus.errors import StateLostError, TrainerBusyError
from fitbus.testing import EventRecorder, Gate, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(64, 4)
X, Y = PROBLEM.x, PROBLEM.y


class Fragile:
    """A task whose step can be made to fail while it runs, after its state was donated."""

    def __init__(self) -> None:
        self.broken = False

    def train_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        def touch(value: Any) -> Any:
            if self.broken:
                raise ZeroDivisionError("inside the step")
            return value

        mean = jax.pure_callback(touch, np.zeros((), np.float32), batch.x.mean())
        params = {"w": state.params["w"] + 1 + 0 * mean}
        return dataclasses.replace(state, params=params), {"loss": mean}

    def eval_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        return {"loss": batch.x.mean()}

    def predict_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        return batch.x


@pytest.fixture(scope="module")
def fragile() -> tuple[Fragile, fitbus.Trainer]:
    task = Fragile()
    return task, fitbus.Trainer(task, {"w": np.zeros(3, np.float32)})


async def break_in_third_epoch(task: Fragile, trainer: fitbus.Trainer, *, snapshot: bool) -> None:
    task.broken = False

    async def act(event: EpochBegin) -> None:
        if snapshot and event.epoch == 1:
            await run.snapshot()
        task.broken = event.epoch == 2

    run = trainer.run(X, batch_size=32, epochs=5, callbacks=[act])
    with pytest.raises(Exception, match="inside the step"):
        async with run:
            await run.wait()
    task.broken = False


async def test_a_step_that_fails_after_donation_loses_the_state() -> None:
    """The step's own error leaves `fit`; the state says what became of it, and what to do."""
    task = Fragile()
    trainer = fitbus.Trainer(task, {"w": np.zeros(3, np.float32)})
    recorder = EventRecorder()
    trainer.bus.add(recorder, TrainEnd)
    await break_in_third_epoch(task, trainer, snapshot=False)
    assert [event.reason for event in recorder.of(TrainEnd)] == ["failed"]
    with pytest.raises(StateLostError, match="snapshot"):
        _ = trainer.state
    for call in (trainer.fit(X), trainer.evaluate(X), trainer.predict(X)):
        with pytest.raises(StateLostError, match="snapshot"):
            await call


async def test_the_newest_snapshot_is_what_is_left(fragile: tuple[Fragile, fitbus.Trainer]) -> None:
    """And training goes on from there."""
    task, trainer = fragile
    before = int(trainer.state.step)
    await break_in_third_epoch(task, trainer, snapshot=True)
    state = trainer.state
    assert int(state.step) == before + 2
    np.testing.assert_array_equal(state.params["w"], np.full(3, before + 2))
    assert jnp.issubdtype(state.key.dtype, jax.dtypes.prng_key)
    await trainer.fit(X, batch_size=32)
    np.testing.assert_array_equal(trainer.state.params["w"], np.full(3, before + 4))


async def test_a_failed_trace_leaves_the_state_as_it_was() -> None:
    """Nothing was donated yet."""

    def apply(params: Any, x: Any) -> Any:
        raise ZeroDivisionError("while tracing")

    task = fitbus.Supervised(apply, PROBLEM.task.loss, optax.sgd, learning_rate=0.1)
    trainer = fitbus.Trainer(task, PROBLEM.params)
    with pytest.raises(ZeroDivisionError, match="while tracing"):
        await trainer.fit(X, Y)
    assert int(trainer.state.step) == 0
    np.testing.assert_array_equal(trainer.state.params["w"], PROBLEM.params["w"])


async def test_restoring_the_best_weights_of_a_lost_state_doesnt_hide_the_error() -> None:
    task = Fragile()
    trainer = fitbus.Trainer(task, {"w": np.zeros(3, np.float32)})

    def breaks(event: EpochEnd) -> None:
        task.broken = event.epoch == 1

    stopping = EarlyStopping("loss", patience=9, restore_best_weights=True)
    with pytest.raises(Exception, match="inside the step"):
        await trainer.fit(X, batch_size=32, epochs=5, callbacks=[breaks, stopping])


class Summing:
    """Adds the mean of each batch: few operations, since `debug_nans` runs them one by one."""

    def train_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        params = {"w": state.params["w"] + batch.x.mean()}
        return dataclasses.replace(state, params=params), {"loss": batch.x.mean()}

    def eval_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        return {"loss": batch.x.mean()}

    def predict_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        return batch.x


async def test_debug_nans_names_the_step_and_keeps_the_state() -> None:
    """Nothing is donated in that mode, so the state before the bad step is there."""
    trainer = fitbus.Trainer(Summing(), {"w": np.zeros((), np.float32)})
    bad = X.copy()
    bad[40] = np.nan
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match="nan"):
        await trainer.fit(bad, batch_size=32, shuffle=False)
    assert int(trainer.state.step) == 1
    np.testing.assert_allclose(trainer.state.params["w"], X[:32].mean(), rtol=1e-5)
    await trainer.fit(X, batch_size=32)
    assert int(trainer.state.step) == 3


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
async def test_a_loss_that_isnt_finite_is_seen_where_it_happened(value: float) -> None:
    """In the values of its batch, and from there on in the means of that epoch."""
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    targets = Y.copy()
    targets[16:32] = abs(value)
    recorder = EventRecorder()

    def stop(event: BatchEnd) -> StopTraining | None:
        finite = math.isfinite(event.batch_logs["loss"])
        return None if finite else StopTraining(f"loss {event.batch_logs['loss']}", validate=False)

    history = await trainer.fit(
        X, targets, batch_size=16, shuffle=False, epochs=3, callbacks=[recorder, stop]
    )
    ends = recorder.of(BatchEnd)
    assert [math.isfinite(event.batch_logs["loss"]) for event in ends] == [True, False]
    assert [math.isfinite(event.logs["loss"]) for event in ends] == [True, False]
    (end,) = recorder.of(TrainEnd)
    assert end.reason == "stopped"
    assert end.detail == f"loss {ends[1].batch_logs['loss']}"
    assert not math.isfinite(history.history["loss"][0])


def same(tree: Any) -> Any:
    return tree


def on_device(tree: Any) -> Any:
    return jax.jit(same)(tree)


async def test_the_callers_params_are_its_own() -> None:
    """Neither donated, nor changed, nor looked at again."""
    host = {"w": np.ones(4, np.float32), "b": np.zeros((), np.float32)}
    device = on_device(host)
    from_host = fitbus.Trainer(PROBLEM.task, host)
    from_device = fitbus.Trainer(PROBLEM.task, device)
    host["w"][:] = 7
    await from_host.fit(X, Y, batch_size=32)
    await from_device.fit(X, Y, batch_size=32)
    np.testing.assert_array_equal(device["w"], np.ones(4))
    np.testing.assert_array_equal(host["w"], np.full(4, 7))
    for one, other in zip(
        jax.tree.leaves(from_host.state.params),
        jax.tree.leaves(from_device.state.params),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


async def test_two_trainers_from_one_params_are_independent() -> None:
    params = on_device(PROBLEM.params)
    first = fitbus.Trainer(PROBLEM.task, params)
    second = fitbus.Trainer(PROBLEM.task, params)
    await first.fit(X, Y, batch_size=32)
    np.testing.assert_array_equal(second.state.params["w"], PROBLEM.params["w"])
    assert int(second.state.step) == 0
    assert not np.array_equal(first.state.params["w"], PROBLEM.params["w"])


async def test_a_state_that_was_shown_can_be_kept() -> None:
    """Later fits donate something else."""
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    await trainer.fit(X, Y, batch_size=32)
    kept = trainer.state
    values = np.array(kept.params["w"])
    await trainer.fit(X, Y, batch_size=32)
    await trainer.fit(X, Y, batch_size=32)
    np.testing.assert_array_equal(kept.params["w"], values)
    again = fitbus.Trainer(PROBLEM.task, kept)
    assert int(again.state.step) == 2


async def test_two_fits_at_once_on_one_trainer_are_refused() -> None:
    """The second one is; the first one goes on as if nothing had been."""
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    gate = Gate()

    async def hold(event: EpochBegin) -> None:
        await gate.pass_async()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: trainer.fit(X, Y, batch_size=32, epochs=2, callbacks=[hold]))
        await gate.wait_arrived()
        with pytest.raises(TrainerBusyError, match="one call at a time"):
            await trainer.fit(X, Y, callbacks=[EventRecorder()])
        gate.open()
    assert int(trainer.state.step) == 4
    assert trainer.bus.statistics().subscriptions == ()


async def test_two_trainers_share_the_loop() -> None:
    """Each makes progress while the other runs, and so does everybody else in the loop."""
    order: list[str] = []
    waiting = {"one", "two"}
    both = Gate()
    ticks = 0
    done = False

    async def tick() -> None:
        nonlocal ticks
        while not done:
            ticks += 1
            await anyio.lowlevel.checkpoint()

    async def fit(name: str) -> None:
        async def together(event: TrainBegin) -> None:
            waiting.discard(name)
            if not waiting:
                both.open()
            await both.pass_async()

        @handler(BatchEnd, wait=True)
        async def note(event: BatchEnd) -> None:
            order.append(name)

        trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
        await trainer.fit(X, Y, batch_size=32)
        await trainer.fit(X, Y, batch_size=32, epochs=20, callbacks=[together, note])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        async with anyio.create_task_group() as fits:
            fits.start_soon(fit, "one")
            fits.start_soon(fit, "two")
        done = True
    assert order.count("one") == order.count("two") == 40
    assert sum(one != other for one, other in itertools.pairwise(order)) > 4
    assert ticks > 40
