"""What the training thread takes over from the caller of `fit`, and what it leaves alone.

Scenario 37.
"""

from __future__ import annotations

import contextvars
import dataclasses
import signal
import textwrap
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import Tracer

import fitbus
from fitbus import BatchEnd, EpochEnd, TrainBegin, TrainState, handler
from fitbus.testing import Gate, toy_problem

from ._devices import run_on_devices

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(60, 4)
X, Y = PROBLEM.x, PROBLEM.y


class Summing:
    """As little as a task can do; says what it saw when it was traced."""

    def __init__(self, saw: Any = None) -> None:
        self._saw = saw

    def train_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        if self._saw is not None:
            self._saw(batch)
        params = {"w": state.params["w"] + batch.x.mean().astype(state.params["w"].dtype)}
        return dataclasses.replace(state, params=params), {"loss": batch.x.mean()}

    def eval_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        return {"loss": batch.x.mean()}

    def predict_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        return batch.x


def summing(saw: Any = None) -> fitbus.Trainer:
    return fitbus.Trainer(Summing(saw), {"w": np.zeros((), np.float32)})


SETTINGS: dict[str, Any] = {
    "enable_x64": True,
    "debug_nans": True,
    "debug_infs": True,
    "default_matmul_precision": "highest",
    "numpy_rank_promotion": "raise",
    "numpy_dtype_promotion": "strict",
    "check_tracer_leaks": True,
    "default_prng_impl": "rbg",
    "threefry_partitionable": False,
    "transfer_guard_host_to_device": "log",
    "transfer_guard_device_to_device": "log",
    "transfer_guard_device_to_host": "log",
}


@pytest.mark.parametrize("name", SETTINGS)
async def test_a_setting_of_jax_is_in_force_in_the_training_thread(name: str) -> None:
    """Where the step is traced and in `def` handlers; and afterwards all is as it was."""
    saw: list[Any] = []

    def look(_: object) -> None:
        saw.append((threading.current_thread().name, getattr(jax.config, f"jax_{name}")))

    def at_the_end(event: EpochEnd) -> None:
        look(event)

    before = getattr(jax.config, f"jax_{name}")
    trainer = summing(look)
    with getattr(jax, name)(SETTINGS[name]):
        expected = getattr(jax.config, f"jax_{name}")
        await trainer.fit(X, batch_size=60, callbacks=[at_the_end])
    assert expected != before
    assert saw == [("fitbus fit-1", expected)] * 2
    await trainer.fit(X, batch_size=60, callbacks=[at_the_end])
    assert saw[-1] == ("fitbus fit-2", before)


async def test_x64_gives_float64_all_the_way() -> None:
    with jax.enable_x64(True):
        x, y = X.astype(np.float64), Y.astype(np.float64)
        params = {"w": np.zeros(4, np.float64), "b": np.zeros((), np.float64)}
        trainer = fitbus.Trainer(PROBLEM.task, params)
        history = await trainer.fit(x, y, batch_size=60)
        expected = np.mean(y**2)
        assert history.history["loss"][0] == pytest.approx(expected, rel=1e-12)
        assert trainer.state.params["w"].dtype == np.float64
        assert (await trainer.predict(x)).dtype == np.float64


async def test_disable_jit_runs_the_step_eagerly() -> None:
    """So that a debugger can stand in it."""
    values: list[float] = []

    def look(batch: fitbus.Batch) -> None:
        if not isinstance(batch.x, Tracer):  # as when the names of the metrics are learnt
            values.append(float(batch.x.mean()))

    trainer = summing(look)
    with jax.disable_jit():
        await trainer.fit(X, batch_size=30, shuffle=False)
    assert values == pytest.approx([X[:30].mean(), X[30:].mean()], rel=1e-4)


async def test_a_mesh_is_set_in_the_training_thread() -> None:
    """Where the step is traced, and in `def` handlers."""
    traced: list[Any] = []
    called: list[Any] = []
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def look(event: EpochEnd) -> None:
        called.append(jax.sharding.get_mesh())

    with jax.set_mesh(mesh):
        trainer = summing(lambda batch: traced.append(jax.sharding.get_abstract_mesh()))
        await trainer.fit(X, batch_size=60, callbacks=[look])
    assert traced == [mesh.abstract_mesh]
    assert called == [mesh]
    assert jax.sharding.get_mesh().empty


@pytest.mark.parametrize("on_device", [False, True])
async def test_transfer_guards_have_nothing_to_say_about_the_loop_itself(on_device: bool) -> None:
    """What the loop moves it moves explicitly: batches of arrays on the host and on the device."""
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    x, y = (jnp.array(X), jnp.array(Y)) if on_device else (X, Y)
    with jax.transfer_guard("disallow"):
        history = await trainer.fit(x, y, batch_size=32, epochs=2, validation_data=(x, y))
        logs = await trainer.evaluate(x, y)
        outputs = await trainer.predict(x)
    assert history.epoch == [0, 1]
    assert logs["loss"] == pytest.approx(history.history["val_loss"][-1], rel=1e-5)
    assert outputs.shape == (60,)


async def test_transfer_guards_have_nothing_to_say_about_controls() -> None:
    """Nor about what callbacks do with the model: a rate, weights, and the best ones restored."""

    class Writes(fitbus.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.model.optimizer.learning_rate = 0.5
            self.model.set_weights([2 * weight for weight in self.model.get_weights()])

    def zeros(state: fitbus.TrainState) -> fitbus.TrainState:
        params: Any = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state.params)
        return dataclasses.replace(state, params=params)

    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    best = fitbus.callbacks.EarlyStopping(
        "loss", min_delta=1e9, patience=1, restore_best_weights=True
    )
    run = trainer.run(X, Y, epochs=3, callbacks=[Writes(), best])
    receipts = [run.post(fitbus.UpdateState(zeros)), run.post(fitbus.ScaleLearningRate(0.5))]
    with jax.transfer_guard("disallow"):
        async with run:
            await run.wait()
    assert all(isinstance(receipt.outcome, fitbus.Applied) for receipt in receipts)
    assert best.stopped_epoch == 1


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def test_context_variables_of_the_caller_are_seen_everywhere() -> None:
    """In the step, the data, sync and async, and in `def` handlers; changes stay in there."""
    saw: dict[str, str] = {}

    def batches() -> Iterator[Any]:
        saw["data"] = VARIABLE.get()
        yield X

    async def async_batches() -> AsyncIterator[Any]:
        saw["async data"] = VARIABLE.get()
        yield X

    def look(event: EpochEnd) -> None:
        saw["handler"] = VARIABLE.get()
        VARIABLE.set("changed inside")

    def note(_: object) -> None:
        saw["step"] = VARIABLE.get()

    VARIABLE.set("of the caller")
    trainer = summing(note)
    await trainer.fit(batches, callbacks=[look])
    await trainer.fit(async_batches)
    assert saw == dict.fromkeys(("data", "async data", "handler", "step"), "of the caller")
    assert VARIABLE.get() == "of the caller"


async def test_from_thread_works_in_def_handlers() -> None:
    """They may have something done on the event loop, and wait for it."""
    loop_thread = threading.get_ident()
    got: list[Any] = []

    async def on_loop(value: int) -> int:
        await anyio.lowlevel.checkpoint()
        assert threading.get_ident() == loop_thread
        return value + 1

    def ask(event: BatchEnd) -> None:
        assert threading.get_ident() != loop_thread
        got.append(anyio.from_thread.run(on_loop, event.batch))
        got.append(anyio.from_thread.run_sync(threading.get_ident) == loop_thread)

    @handler(BatchEnd, wait=False)
    def ask_from_a_worker(event: BatchEnd) -> None:
        got.append(anyio.from_thread.run(on_loop, 10 + event.batch))

    await summing().fit(X, batch_size=30, callbacks=[ask])
    assert got == [1, True, 2, True]
    got.clear()
    await summing().fit(X, batch_size=30, callbacks=[ask_from_a_worker])
    assert got == [11, 12]


async def test_anyios_own_limiter_isnt_used() -> None:
    """With all its threads taken, training and its workers go on."""
    limiter = anyio.to_thread.current_default_thread_limiter()
    before, limiter.total_tokens = limiter.total_tokens, 1
    gate = Gate()
    seen: list[int] = []

    @handler(BatchEnd, wait=False)
    def worker(event: BatchEnd) -> None:
        seen.append(event.batch)

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: anyio.to_thread.run_sync(gate.pass_sync))
            await gate.wait_arrived()
            trainer = summing()
            await trainer.fit(X, batch_size=30, callbacks=[worker])
            await trainer.predict(X)
            assert limiter.borrowed_tokens == 1
            gate.open()
    finally:
        limiter.total_tokens = before
    assert seen == [0, 1]


@pytest.mark.slow
async def test_a_hundred_fits_at_once() -> None:
    """All of them live at the same moment; AnyIO's default limiter, of 40 threads, is untouched."""
    many = 100
    limiter = anyio.to_thread.current_default_thread_limiter()
    live: set[str] = set()
    all_live = Gate()
    borrowed: list[float] = []
    steps: list[int] = []
    bus = fitbus.Bus()

    async def together(event: TrainBegin) -> None:
        live.add(event.run)
        borrowed.append(limiter.borrowed_tokens)
        if len(live) == many:
            all_live.open()
        await all_live.pass_async()

    async def fit() -> None:
        trainer = fitbus.Trainer(Summing(), {"w": np.zeros((), np.float32)}, bus=bus)
        await trainer.fit(X, batch_size=60, callbacks=[together])
        steps.append(int(trainer.state.step))

    with jax.disable_jit():  # there would be a hundred compilations
        async with anyio.create_task_group() as tasks:
            for _ in range(many):
                tasks.start_soon(fit)
    assert steps == [1] * many
    assert len(live) == many
    assert set(borrowed) == {0}


async def test_no_signal_handler_is_installed() -> None:
    """Neither while it trains, nor after it."""
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in signals]
    seen: list[Any] = []

    async def look(event: TrainBegin) -> None:
        seen.append([signal.getsignal(number) for number in signals])

    await summing().fit(X, batch_size=60, callbacks=[look])
    assert seen == [before]
    assert [signal.getsignal(number) for number in signals] == before


async def test_no_thread_is_left() -> None:
    """The run's own, and those of its workers."""
    names: list[str] = []

    @handler(BatchEnd, wait=False)
    def worker(event: BatchEnd) -> None:
        names.append(threading.current_thread().name)

    await summing().fit(X, batch_size=60, callbacks=[worker])
    (name,) = names
    assert "worker" in name
    for thread in threading.enumerate():
        if thread.name.startswith("fitbus"):
            thread.join(5)
            assert not thread.is_alive()


def run_on_four_devices(program: str) -> None:
    """Runs a program in a process of its own, where the CPU counts as four devices."""
    code = """
        import warnings
        warnings.simplefilter("error")
        import anyio, jax, jax.numpy as jnp, numpy as np, optax, fitbus
        from jax.sharding import NamedSharding, PartitionSpec as P
        from fitbus import BatchEnd, EpochEnd, SetLearningRate, TrainEnd
        from fitbus.testing import toy_problem
        assert jax.device_count() == 4
        problem = toy_problem(64, 4)
        compiled = []
        jax.monitoring.register_event_duration_secs_listener(
            lambda name, _, **more: compiled.append(more.get("fun_name"))
            if name == "/jax/core/compile/backend_compile_duration" else None
        )
    """
    run_on_devices(4, textwrap.dedent(code) + textwrap.dedent(program))


@pytest.mark.slow
def test_params_and_batches_sharded_over_a_mesh_stay_so() -> None:
    """Through the step, controls, snapshots and a second fit; and the step compiles once."""
    run_on_four_devices("""
        mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
        params = {"w": jax.device_put(problem.params["w"], split),
                  "b": jax.device_put(problem.params["b"], whole)}
        seen = []

        def look(event: EpochEnd) -> SetLearningRate:
            state = run.state
            seen.append((state.params["w"].sharding, state.params["b"].sharding))
            assert state.step.sharding == whole, state.step.sharding
            return SetLearningRate(0.05)

        async def main():
            global run
            apply, loss = problem.task.apply, problem.task.loss
            task = fitbus.Supervised(apply, loss, optax.adam, learning_rate=0.1)
            trainer = fitbus.Trainer(task, params)
            x = jax.device_put(problem.x, split)
            y = jax.device_put(problem.y, split)
            batches = [(x[i:i + 16], y[i:i + 16]) for i in range(0, 64, 16)]
            batches = [jax.device_put(batch, split) for batch in batches]
            before = compiled.count("jit(step)")
            for data in ((batches,), (batches,)):
                run = trainer.run(*data, epochs=3, callbacks=[look])
                async with run:
                    snapshot = await run.snapshot()
                    await run.wait()
            assert isinstance(snapshot.params["w"], np.ndarray)
            assert seen == [(split, whole)] * 6, seen
            state = trainer.state
            moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == (4,)]
            assert [moment.sharding for moment in moments] == [split, split]
            assert compiled.count("jit(step)") - before == 1, compiled
            outputs = await trainer.predict(problem.x, batch_size=16)
            assert outputs.shape == (64,)
            logs = await trainer.evaluate(problem.x, problem.y, batch_size=16)
            assert np.isfinite(logs["loss"])
            assert not params["w"].is_deleted()

            plain = fitbus.Trainer(task, problem.params)
            host = [(np.asarray(a), np.asarray(b)) for a, b in batches]
            for _ in range(2):
                await plain.fit(host, epochs=3, callbacks=[lower])
            np.testing.assert_allclose(plain.state.params["w"], state.params["w"], rtol=1e-5)

        def lower(event: EpochEnd) -> SetLearningRate:
            return SetLearningRate(0.05)

        anyio.run(main)
    """)


@pytest.mark.slow
def test_the_default_device_and_a_committed_one() -> None:
    """Params go where the caller says; a fit compiles once wherever they are."""
    run_on_four_devices("""
        devices = jax.devices()

        def lower(event: EpochEnd) -> SetLearningRate:
            return SetLearningRate(0.05)

        async def train(params):
            trainer = fitbus.Trainer(problem.task, params)
            before = compiled.count("jit(step)")
            await trainer.fit(problem.x, problem.y, batch_size=24, epochs=3, callbacks=[lower])
            await trainer.fit(problem.x, problem.y, batch_size=24)
            assert compiled.count("jit(step)") - before == 1, compiled
            return trainer

        async def main():
            with jax.default_device(devices[2]):
                trainer = await train(problem.params)
                assert trainer.state.params["w"].devices() == {devices[2]}
            for device in (devices[0], devices[3]):
                committed = jax.device_put(problem.params, device)
                trainer = await train(committed)
                for leaf in jax.tree.leaves(trainer.state):
                    assert leaf.devices() == {device}, leaf.devices()

        anyio.run(main)
    """)
