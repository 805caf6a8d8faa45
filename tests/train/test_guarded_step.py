"""Compiled steps with a guard and without: each its own program, and the latter as it ever was."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fitbus
from fitbus.callbacks import Guard
from fitbus.testing import toy_problem
from fitbus.train import Batch, TrainState
from fitbus.train._form import Form
from fitbus.train._metrics import MetricsLayout

from ._devices import run_on_devices
from .test_costs import Counter

PROBLEM = toy_problem(64, 4)


def program(trainer: fitbus.Trainer, steps: int = 1) -> str:
    """The step that is kept, as it was traced."""
    state = trainer.state
    form = Form.of(state)
    batch = Batch(PROBLEM.x[:8], PROBLEM.y[:8], np.ones(8, np.float32))
    layout = trainer.steps.train_layout(state, batch)
    given: Any = (batch,)
    if steps > 1:
        given = (jax.tree.map(lambda leaf: np.stack([leaf] * steps), batch), np.int32(steps))
    step = trainer.steps.train(state, batch, form, steps)
    return str(step.trace(form.leaves(state), layout.zeros(), *given).jaxpr)


def test_without_a_guard_a_step_is_the_plain_one() -> None:
    """Nothing of a guard is in it, written out here; a guarded fit before it changes nothing."""
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    before = {steps: program(trainer, steps) for steps in (1, 4)}
    trainer.fit_sync(PROBLEM.x, PROBLEM.y, batch_size=8, callbacks=[Guard("stop", max_norm=1)])
    trainer.fit_sync(PROBLEM.x, PROBLEM.y, batch_size=8)
    assert {steps: program(trainer, steps) for steps in (1, 4)} == before

    state, form = trainer.state, Form.of(trainer.state)
    batch = Batch(PROBLEM.x[:8], PROBLEM.y[:8], np.ones(8, np.float32))
    inner = jax.jit(lambda state, batch: PROBLEM.task.train_step(state, batch), inline=True)  # noqa: PLW0108  # a function of its own
    layout = MetricsLayout("train_step", jax.eval_shape(inner, state, batch)[1])

    def plain(leaves: Any, running: Any, batch: Batch) -> Any:
        state = form.state(leaves)
        new, metrics = inner(state, batch)
        new = dataclasses.replace(new, step=state.step + 1)
        running, vector = layout.accumulate(running, metrics)
        new = jax.tree.map(
            lambda leaf: (
                leaf
                if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
                else jax.lax.convert_element_type(leaf, leaf.dtype)
            ),
            new,
        )
        return form.leaves(new), running, vector

    traced = jax.jit(plain, donate_argnums=(0, 1)).trace(form.leaves(state), layout.zeros(), batch)
    assert str(traced.jaxpr) == before[1]


def test_fits_with_and_without_one_compile_their_steps_once(compiled: list[str]) -> None:
    """Each has a program, kept for the next fit."""
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    for _ in range(3):
        for callbacks in ([], [Guard()], [Guard("stop")], [Guard("rollback")]):
            trainer.fit_sync(PROBLEM.x, PROBLEM.y, batch_size=8, callbacks=callbacks)
    assert compiled.count("jit(step)") == 3  # "stop" and "rollback" share one


def test_it_doesnt_compile_anew_after_it_has_acted(compiled: list[str]) -> None:
    """What it puts back lies where steps take it from."""
    x = PROBLEM.x.copy()
    x[20, 0] = np.nan
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    trainer.fit_sync(
        x, PROBLEM.y, batch_size=8, shuffle=False, epochs=2, callbacks=[Guard("rollback")]
    )
    assert compiled.count("jit(step)") == 1


class Plain:
    """A fast step."""

    def train_step(self, state: TrainState, batch: Batch) -> Any:
        params = {"w": state.params["w"] + batch.x.sum()}
        return dataclasses.replace(state, params=params), {"loss": params["w"]}

    def eval_step(self, state: TrainState, batch: Batch) -> Any:
        return {"loss": state.params["w"]}

    def predict_step(self, state: TrainState, batch: Batch) -> Any:
        return batch.x


def test_it_adds_no_read_where_somebody_listens() -> None:
    """A read of the device for each time that steps are told of; and no copy is begun for it."""
    trainer = fitbus.Trainer(Plain(), {"w": np.float32(0)}, max_in_flight=1)
    batches = [np.ones(4, np.float32)] * 64

    async def listen(event: fitbus.BatchEnd) -> None:
        pass

    def reads(*callbacks: Any) -> int:
        trainer.fit_sync(batches[:2], callbacks=list(callbacks))
        counter = Counter()
        with counter:
            trainer.fit_sync(batches, callbacks=list(callbacks))
        return max(counter.reads.values())

    beside = fitbus.handler(fitbus.BatchEnd, wait=False)(listen)
    plain, guarded = reads(beside), reads(beside, Guard())
    assert plain <= guarded <= 2 * plain + 8  # of a vector that is on the host already


MESH = """
    import warnings
    warnings.simplefilter("error")
    import jax, numpy as np, fitbus
    from jax.sharding import NamedSharding, PartitionSpec as P
    from fitbus.callbacks import Guard
    from fitbus.testing import EventRecorder, toy_problem

    assert jax.device_count() == 2
    problem = toy_problem(64, 4)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    params = {
        "w": jax.device_put(problem.params["w"], split),
        "b": jax.device_put(problem.params["b"], whole),
    }
    x = problem.x.copy()
    x[20, 0] = np.nan
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **more: compiled.append(more.get("fun_name"))
        if event == "/jax/core/compile/backend_compile_duration" else None
    )
    for mode, steps, step in (("skip", 1, 8), ("stop", 3, 3), ("rollback", 1, 5)):
        trainer = fitbus.Trainer(problem.task, params)
        recorder = EventRecorder()
        listening = fitbus.handler(fitbus.StepSkipped)(recorder)
        compiled.clear()
        trainer.fit_sync(
            x, problem.y, batch_size=8, shuffle=False, steps_per_execution=steps,
            callbacks=[listening, Guard(mode)],
        )
        (skipped,) = recorder.of(fitbus.StepSkipped)
        assert (skipped.step, skipped.leaf, skipped.action) == (3, "params/b", mode)
        assert trainer.state.step == step, (mode, trainer.state.step)
        assert trainer.state.params["w"].sharding.spec == P("data")
        assert np.isfinite(np.asarray(trainer.state.params["w"])).all()
        names = [name for name in compiled if name in ("jit(step)", "jit(steps)")]
        assert len(names) == 1, compiled
"""


@pytest.mark.slow
def test_on_a_mesh() -> None:
    """The same, compiled once; the parameters stay where they are."""
    run_on_devices(2, MESH)
