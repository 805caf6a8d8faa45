"""Updates that aren't finite are left out, at the very step, and told of by step and leaf.

Scenario 29.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitbus
from fitbus import StepSkipped
from fitbus.callbacks import Guard, TerminateOnNaN
from fitbus.errors import InvalidArgumentError
from fitbus.train import TrainState

from ._guarded import BATCH, PROBLEM, Own, bits, guarded_fit, with_nan

pytestmark = pytest.mark.anyio

TRAINER = fitbus.Trainer(PROBLEM.task, PROBLEM.params)


def own_trainer(params: dict[str, Any], extra: Any = None) -> fitbus.Trainer:
    state = TrainState(np.int32(0), params, (), jax.random.key(0), extra)
    return fitbus.Trainer(Own(), state)


OWN = own_trainer({"a": np.zeros(3, np.float32), "b": np.zeros((), np.float32)})


def script(**changes: list[Any]) -> Any:
    """Data of one row a batch: what each leaf changes by, `loss` and `other`."""
    rows = {name: np.asarray(values, np.float32) for name, values in changes.items()}
    steps = len(next(iter(rows.values())))
    given = {name: rows.pop(name, np.ones(steps, np.float32)) for name in ("loss", "other")}
    return {"change": rows, **given}


@pytest.mark.parametrize("listens", [True, False, None])
@pytest.mark.parametrize("fused", [1, 3])
async def test_a_nan_in_the_data_is_seen_at_its_step(fused: int, listens: bool | None) -> None:
    """Whoever listens; the parameters are those of a training without that batch."""
    found = await guarded_fit(
        TRAINER, Guard(), with_nan(2), PROBLEM.y, listens=listens, steps_per_execution=fused
    )
    (skipped,) = found.skipped
    assert (skipped.step, skipped.batch, skipped.epoch) == (3, 2, 0)
    assert (skipped.metric, skipped.leaf) == ("loss", "params/b")
    assert (skipped.reason, skipped.action, skipped.back_to) == ("nonfinite", "skip", -1)
    left = np.delete(np.arange(64), slice(2 * BATCH, 3 * BATCH))
    without = await guarded_fit(TRAINER, None, PROBLEM.x[left], PROBLEM.y[left])
    assert bits(found.state)[1:] == bits(without.state)[1:]
    assert int(found.state.step) == 8  # it counts all the same
    assert int(without.state.step) == 7
    assert math.isclose(found.history[0], without.history[0], rel_tol=1e-6)


async def test_its_notice_comes_before_its_end_and_logs_leave_it_out() -> None:
    """The batch's own values are as they were computed; and no NaN stays in the means."""
    waited = await guarded_fit(TRAINER, Guard(), with_nan(0, 5), PROBLEM.y, listens=True)
    names = [event["type"] for event in waited.events]
    first = names.index("StepSkipped")
    assert names[first - 1 : first + 2] == ["BatchBegin", "StepSkipped", "BatchEnd"]
    ends = [event for event in waited.events if event["type"] == "BatchEnd"]
    assert [math.isnan(event["batch_logs"]["loss"]) for event in ends] == [
        batch in (0, 5) for batch in range(8)
    ]
    assert [math.isnan(loss) for loss in waited.logs] == [True] + [False] * 7  # of no batch yet
    assert waited.logs[4] == waited.logs[5]
    beside = await guarded_fit(TRAINER, Guard(), with_nan(0, 5), PROBLEM.y)
    np.testing.assert_equal(beside.events, waited.events)


async def test_a_batch_that_is_the_first_and_left_out_isnt_a_wrong_loss() -> None:
    """There is no mean yet, for which TerminateOnNaN doesn't stop."""
    found = await guarded_fit(
        TRAINER, Guard(), with_nan(0), PROBLEM.y, callbacks=(TerminateOnNaN(),), listens=True
    )
    assert found.end.reason == "completed"
    assert len(found.ends) == 8


@pytest.mark.parametrize("fused", [1, 4])
@pytest.mark.parametrize("guard", [Guard(), Guard("stop"), Guard("rollback", 1e6)])
async def test_one_that_never_trips_changes_nothing(guard: Guard, fused: int) -> None:
    """Neither the state, bit for bit, nor an event."""
    given: dict[str, Any] = {"epochs": 2, "steps_per_execution": fused, "shuffle": True}
    plain = await guarded_fit(TRAINER, None, PROBLEM.x, PROBLEM.y, **given)
    found = await guarded_fit(TRAINER, guard, PROBLEM.x, PROBLEM.y, **given)
    assert bits(found.state) == bits(plain.state)
    assert found.events == plain.events
    assert guard.skipped == 0


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
async def test_a_loss_is_enough(wrong: float) -> None:
    """All updates are finite, and the loss isn't: no leaf is named."""
    found = await guarded_fit(
        OWN, Guard(), script(a=[1, 1, 1], b=[1, 1, 1], loss=[1, wrong, 3]), batch_size=1
    )
    (skipped,) = found.skipped
    assert (skipped.step, skipped.metric, skipped.leaf) == (2, "loss", "")
    assert found.state.params["b"] == 2
    assert found.history == [2]


async def test_an_update_is_enough_and_its_leaf_is_named() -> None:
    """The loss is finite; the other leaf isn't changed either."""
    found = await guarded_fit(
        OWN, Guard(), script(a=[1, 1, 1], b=[1, np.inf, 1]), batch_size=1, listens=True
    )
    (skipped,) = found.skipped
    assert (skipped.step, skipped.metric, skipped.leaf) == (2, "", "params/b")
    np.testing.assert_array_equal(found.state.params["a"], [2, 2, 2])


async def test_other_metrics_may_be_nan() -> None:
    """Unless they are named; the names are checked before the first step."""
    data = script(b=[1, 1], other=[np.nan, 1])
    assert (await guarded_fit(OWN, Guard(), data, batch_size=1)).skipped == []
    found = await guarded_fit(OWN, Guard(metrics=["other"]), data, batch_size=1)
    assert [event.metric for event in found.skipped] == ["other"]
    with pytest.raises(InvalidArgumentError, match=r"Guard.metrics.*'accuracy'.*\['loss', 'other"):
        await OWN.fit(data, batch_size=1, callbacks=[Guard(metrics=["accuracy"])])


async def test_a_batch_without_weight_has_no_loss() -> None:
    """Its NaN isn't one."""
    data = script(b=[1, 1], loss=[np.nan, 1])
    found = await guarded_fit(
        OWN, Guard(), data, batch_size=1, sample_weight=np.asarray([0, 1], np.float32)
    )
    assert found.skipped == []
    assert found.state.params["b"] == 2


async def test_what_was_not_finite_before_is_let_be() -> None:
    """A mask of infinities among the parameters, integers and half precision beside it."""
    trainer = own_trainer(
        {
            "half": np.zeros(2, jnp.bfloat16),
            "mask": np.asarray([0, -np.inf], np.float32),
            "whole": np.zeros(2, np.int32),
        }
    )
    data = script(half=[1, 3e38, 3e38, 1], mask=[1, 1, 1, 1], whole=[1, 1, 1, 1])
    found = await guarded_fit(trainer, Guard(), data, batch_size=1)
    assert [(event.step, event.leaf) for event in found.skipped] == [(3, "params/half")]
    np.testing.assert_array_equal(found.state.params["mask"], [3, -np.inf])
    np.testing.assert_array_equal(found.state.params["whole"], [3, 3])
    assert found.state.params["half"].dtype == jnp.bfloat16


async def test_it_looks_at_the_rest_of_the_state_too() -> None:
    """At what a task keeps in `extra`, after the parameters."""
    trainer = own_trainer({"b": np.zeros(())}, {"sum": np.zeros((), np.float32)})
    data = script(b=[1, 1], loss=[3e38, 3e38])
    found = await guarded_fit(trainer, Guard(), data, batch_size=1)
    assert [(event.step, event.leaf) for event in found.skipped] == [(2, "extra/sum")]


def _root(params: Any, x: Any) -> Any:
    """Its gradient by `s` is NaN at 0, where it is 0 itself."""
    return x[:, 0] * params["w"] + jnp.sqrt(jnp.abs(params["s"] * x[:, 1]))


@pytest.mark.parametrize("optimizer", [optax.sgd, optax.adam])
async def test_a_gradient_of_one_leaf_that_is_nan(optimizer: Any) -> None:
    """Of a finite loss: seen with any optimizer, in the batch that has the 0."""
    task = fitbus.Supervised(
        _root, lambda p, y: (p - y) ** 2, optimizer=optimizer, learning_rate=0.01
    )
    trainer = fitbus.Trainer(task, {"s": np.float32(1), "w": np.float32(1)})
    x = np.ones((16, 2), np.float32)
    x[9, 1] = 0
    found = await guarded_fit(trainer, Guard(), x, np.zeros(16, np.float32), batch_size=4)
    assert [(e.step, e.metric, e.leaf) for e in found.skipped] == [(3, "", "params/s")]


async def test_a_gradient_that_overflows() -> None:
    """Of a finite loss."""
    task = fitbus.Supervised(
        lambda params, x: x[:, 0] * params["w"],
        lambda p, y: (p - y) ** 2,
        optimizer=optax.sgd,
        learning_rate=0.1,
    )
    trainer = fitbus.Trainer(task, {"w": np.float32(1e-30)})
    x = np.ones((4, 1), np.float32)
    x[1] = 1e35
    found = await guarded_fit(trainer, Guard(), x, np.zeros(4, np.float32), batch_size=1)
    assert [(e.step, e.metric, e.leaf) for e in found.skipped] == [(2, "", "params/w")]


async def test_accumulated_gradients_are_seen_at_their_step() -> None:
    """Not where they are used, two steps later."""
    task = fitbus.Supervised(
        PROBLEM.task.apply, PROBLEM.task.loss, optimizer=optax.MultiSteps(optax.sgd(0.1), 3)
    )
    trainer = fitbus.Trainer(task, PROBLEM.params)
    found = await guarded_fit(trainer, Guard(), with_nan(3), PROBLEM.y)
    assert [event.step for event in found.skipped] == [4]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found.state.opt_state))


async def test_an_update_that_is_too_long() -> None:
    """The leaf is the one with the most of it; one that is as long as allowed is made."""
    data = script(a=[1, 0, 1, 0], b=[0, 5, 2, 4])
    found = await guarded_fit(OWN, Guard(max_norm=4), data, batch_size=1)
    (skipped,) = found.skipped
    assert (skipped.step, skipped.reason, skipped.leaf) == (2, "max_norm", "params/b")
    assert skipped.metric == ""
    assert found.state.params["b"] == 6
    assert found.history == [1]


async def test_two_of_them_are_refused() -> None:
    """Before the first step."""
    with pytest.raises(InvalidArgumentError, match="a guard already"):
        await TRAINER.fit(PROBLEM.x, PROBLEM.y, callbacks=[Guard(), Guard("stop")])


@pytest.mark.parametrize("setting", [jax.debug_nans, jax.debug_infs])
async def test_debug_modes_that_raise_are_refused(setting: Any) -> None:
    """Else it is they that act, and how far steps run ahead decides what is left."""
    with (
        setting(True),
        pytest.raises(InvalidArgumentError, match=r"Guard.*turn them off"),
    ):
        await TRAINER.fit(PROBLEM.x, PROBLEM.y, callbacks=[Guard()])


async def test_a_handler_may_steer_by_the_notice() -> None:
    """What it returns acts at the next boundary."""

    @fitbus.handler(StepSkipped)
    def halt(event: StepSkipped) -> fitbus.StopTraining:
        return fitbus.StopTraining(f"skipped {event.leaf}")

    found = await guarded_fit(
        TRAINER, Guard(), with_nan(2), PROBLEM.y, callbacks=(halt,), listens=True
    )
    assert (found.end.reason, found.end.detail) == ("stopped", "skipped params/b")
    assert found.ends[-1] == (3, 2)
