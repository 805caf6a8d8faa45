"""Memory in use, and compilations."""

from __future__ import annotations

import gc
from typing import Any

import anyio
import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

import fitbus
from fitbus.callbacks import Callback, DeviceStats, EarlyStopping, Logs
from fitbus.errors import InvalidArgumentError, ThreadStuckError
from fitbus.testing import Gate, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(64)
TRAINER = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
MIB = 2**20


async def fit(*callbacks: Any, **arguments: Any) -> fitbus.History:
    return await TRAINER.fit(PROBLEM.x, PROBLEM.y, callbacks=callbacks, **arguments)


async def test_on_a_cpu_it_tells_what_live_arrays_take_and_what_the_process_holds() -> None:
    gc.collect()
    stats = DeviceStats()
    assert (stats.devices, stats.host, stats.compilations) == ({}, {}, 0)
    history = await fit(stats)
    assert sorted(history.history) == ["loss", "mean_absolute_error"]
    names = {f"{device.platform}:{device.id}" for device in jax.local_devices()}
    assert set(stats.devices) == names
    gc.collect()
    await fit(stats)
    before = stats.devices["cpu:0"]["live_array_bytes"]
    kept = jnp.zeros(MIB, jnp.float32)
    await fit(stats)
    assert before + 4 * MIB <= stats.devices["cpu:0"]["live_array_bytes"] < before + 5 * MIB
    assert list(stats.devices["cpu:0"]) == ["live_array_bytes"]
    assert kept.nbytes == 4 * MIB
    assert 10 * MIB < stats.host["rss_bytes"] <= stats.host["peak_rss_bytes"] < 2**40


async def test_it_counts_what_the_training_compiles() -> None:
    """In its own thread; a second training compiles nothing."""
    trainer = fitbus.Trainer(toy_problem(64).task, PROBLEM.params)
    stats = DeviceStats()
    for compiles in (True, False):
        await trainer.fit(PROBLEM.x, PROBLEM.y, callbacks=[stats, CompilesOnTheLoop()])
        assert (stats.compilations > 0) == compiles
        assert (stats.compilation_s > 0) == compiles
        assert stats.compilation_s < 60
        assert stats.cache_hits == 0


class CompilesOnTheLoop(Callback):
    """Compiles something that isn't the training's."""

    async def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        jax.jit(lambda x: x + 1)(np.zeros(3, np.float32))


async def test_a_program_that_a_callback_compiles_at_a_boundary_counts() -> None:
    stats = DeviceStats()
    await fit()

    def compiles(event: fitbus.EpochEnd) -> None:
        jax.jit(lambda x: x + 2)(np.zeros(event.epoch + 1, np.float32))

    await fit(compiles, stats, epochs=3)
    assert stats.compilations == 3


async def test_what_comes_from_the_persistent_cache_is_told(tmp_path: Any) -> None:
    stats = DeviceStats()

    def compiles(event: fitbus.EpochEnd) -> None:
        jax.jit(lambda x: x + 3)(np.zeros(3, np.float32))

    settings = {
        "jax_compilation_cache_dir": str(tmp_path),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        await fit(compiles, stats, epochs=2)
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
    assert (stats.compilations, stats.cache_hits) == (2, 1)


async def test_it_adds_to_the_logs_where_asked_to() -> None:
    """A monitor of one is known, and else refused."""
    stops = EarlyStopping("host_rss_bytes", mode="min", patience=100)
    with pytest.raises(InvalidArgumentError, match=r"EarlyStopping\.monitor"):
        await fit(DeviceStats(), stops)
    stats = DeviceStats(log=True)
    history = await fit(stats, stops, epochs=2)
    assert sorted(history.history) == [
        *("compilation_s", "compilations", "device_live_array_bytes"),
        *("host_peak_rss_bytes", "host_rss_bytes", "loss", "mean_absolute_error"),
    ]
    live = max(figures["live_array_bytes"] for figures in stats.devices.values())
    assert history.history["device_live_array_bytes"][1] == pytest.approx(live, abs=MIB)
    assert history.history["compilations"] == [stats.compilations] * 2


@pytest.mark.parametrize("ends", ["well", "failed", "cancelled"])
async def test_nobody_listens_to_jax_after_its_end(ends: str) -> None:
    """However it ended; what is compiled then isn't counted, and it can be used again."""
    stats = DeviceStats()
    with anyio.CancelScope() as scope:

        class Ends(Callback):
            async def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
                if ends == "failed":
                    raise ZeroDivisionError
                if ends == "cancelled":
                    scope.cancel()

        try:
            await fit(stats, Ends(), epochs=10_000 if ends == "cancelled" else 1)
        except ZeroDivisionError:
            assert ends == "failed"
    assert scope.cancelled_caught == (ends == "cancelled")
    listener: Any = stats._compilations
    with pytest.raises((AssertionError, ValueError)):
        jax.monitoring.unregister_event_duration_listener(listener)
    await fit(stats)
    assert stats.devices
    assert stats.state_dict() == {}
    stats.load_state_dict({})


async def test_nor_after_a_training_whose_thread_hangs() -> None:
    trainer = fitbus.Trainer(toy_problem(64).task, PROBLEM.params)
    stats, gate = DeviceStats(), Gate()

    def hangs(event: fitbus.TrainBegin) -> None:
        gate.pass_sync()

    async def leave() -> None:
        run = trainer.run(PROBLEM.x, PROBLEM.y, callbacks=[stats, hangs], grace_s=0.05, drain_s=0)
        async with run:
            await gate.wait_arrived()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await leave()
    listener: Any = stats._compilations
    with pytest.raises((AssertionError, ValueError)):
        jax.monitoring.unregister_event_duration_listener(listener)
    gate.open()
    with anyio.fail_after(30):
        while True:
            try:
                assert int(trainer.state.step) == 0
                break
            except ThreadStuckError:
                await anyio.lowlevel.checkpoint()


async def test_it_has_no_hook_of_batches() -> None:
    async with TRAINER.run(
        PROBLEM.x, PROBLEM.y, batch_size=8, epochs=2, callbacks=[DeviceStats()]
    ) as run:
        await run.wait()
    assert run.report is not None
    (only,) = run.report.subscribers
    assert only.delivered == 1 + 2 + 1


@pytest.mark.parametrize("log", [None, 1, "yes"])
def test_it_refuses(log: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^DeviceStats\.log: found "):
        DeviceStats(log=log)
