"""Tasks: `Supervised` computes what a loop by hand does; and what a task of one's own may be."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitbus
from fitbus import BatchEnd, Task, TrainState
from fitbus.testing import EventRecorder, toy_problem

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """One loop is enough: what steps compute has nothing to do with it."""
    return "asyncio"


PROBLEM = toy_problem(70, 4)
X, Y = PROBLEM.x, PROBLEM.y


def assert_same_bits(one: Any, other: Any) -> None:
    leaves = jax.tree.leaves(one)
    assert leaves
    for a, b in zip(leaves, jax.tree.leaves(other), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


# Supervised.


def by_hand(optimizer: Any, batches: list[Any]) -> tuple[Any, Any, list[float]]:
    """The loop that people write: parameters, the optimizer's state, and the loss by step."""

    @jax.jit
    def step(params: Any, opt_state: Any, x: Any, y: Any, weight: Any) -> Any:
        def loss(params: Any) -> Any:
            losses = (PROBLEM.task.apply(params, x) - y) ** 2
            return (weight * losses).sum() / weight.sum()

        value, gradients = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    params = jax.tree.map(jnp.asarray, PROBLEM.params)
    opt_state = optimizer.init(params)
    losses: list[float] = []
    for x, y, weight in batches:
        params, opt_state, value = step(params, opt_state, x, y, weight)
        losses.append(float(value))
    return params, opt_state, losses


def filled_up(batch_size: int, weights: Any) -> list[Any]:
    """The batches, the last one with copies of its last row, of weight 0."""
    batches: list[Any] = []
    for start in range(0, len(X), batch_size):
        rows = np.arange(start, start + batch_size)
        weight = np.where(rows < len(X), weights[np.minimum(rows, len(X) - 1)], 0)
        rows = np.minimum(rows, len(X) - 1)
        batches.append((X[rows], Y[rows], weight.astype(np.float32)))
    return batches


@pytest.mark.parametrize(
    ("given", "optimizer"),
    [
        ((optax.adam, 0.1), optax.inject_hyperparams(optax.adam)(learning_rate=0.1)),
        ((optax.adamw(0.1, weight_decay=0.01), None), optax.adamw(0.1, weight_decay=0.01)),
        (
            (optax.sgd, optax.exponential_decay(0.1, 3, 0.5)),
            optax.inject_hyperparams(optax.sgd)(optax.exponential_decay(0.1, 3, 0.5)),
        ),
    ],
    ids=["factory", "transformation", "schedule"],
)
async def test_supervised_is_the_loop_by_hand_bit_for_bit(given: Any, optimizer: Any) -> None:
    """Parameters, optimizer's state and losses; with sample weights, and a short last batch."""
    weights = np.random.default_rng(0).uniform(0.5, 2, len(X)).astype(np.float32)
    params, opt_state, losses = by_hand(optimizer, filled_up(16, weights) * 3)
    task = fitbus.Supervised(PROBLEM.task.apply, PROBLEM.task.loss, *given)
    trainer = fitbus.Trainer(task, PROBLEM.params)
    recorder = EventRecorder()
    options: Any = {"batch_size": 16, "shuffle": False, "sample_weight": weights}
    await trainer.fit(X, Y, epochs=2, callbacks=[recorder], **options)
    await trainer.fit(X, Y, callbacks=[recorder], **options)
    assert_same_bits(trainer.state.params, params)
    assert_same_bits(trainer.state.opt_state, opt_state)
    assert [end.batch_logs["loss"] for end in recorder.of(BatchEnd)] == losses
    assert int(trainer.state.step) == 15


def test_the_objective_is_the_weighted_mean_of_the_losses() -> None:
    """Not their sum: the scale of the weights doesn't matter, and a weight of 0 leaves one out."""
    ones, state = np.ones(64, np.float32), fitbus.Trainer(PROBLEM.task, PROBLEM.params).state
    chosen = np.where(np.arange(128) % 2, 0, 1).astype(np.float32)
    step = jax.jit(PROBLEM.task.train_step)
    plain, metrics = step(state, fitbus.Batch(X[:64], Y[:64], ones))
    doubled, more = step(state, fitbus.Batch(X[:64], Y[:64], 2 * ones))
    halved, _ = step(state, fitbus.Batch(X[:64].repeat(2, 0), Y[:64].repeat(2), chosen))
    assert_same_bits(plain.params, doubled.params)
    np.testing.assert_allclose(plain.params["w"], halved.params["w"], rtol=1e-5)
    losses = (X[:64] @ PROBLEM.params["w"] + PROBLEM.params["b"] - Y[:64]) ** 2
    assert [float(part) for part in metrics["loss"]] == pytest.approx([losses.mean(), 64])
    assert [float(part) for part in more["loss"]] == pytest.approx([losses.mean(), 128])


async def test_a_batch_of_zero_weights_changes_nothing_but_the_step() -> None:
    """With plain gradient descent; no NaN gets into the parameters."""
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.answer)
    await trainer.fit([(X[:8], Y[:8], np.zeros(8))])
    assert int(trainer.state.step) == 1
    assert_same_bits(trainer.state.params, PROBLEM.answer)


def test_a_transformation_is_taken_as_it_is_and_a_factory_is_wrapped() -> None:
    """So that controls find a learning rate."""
    transformation = optax.sgd(0.1)
    task = fitbus.Supervised(PROBLEM.task.apply, PROBLEM.task.loss, transformation)
    assert task.optimizer is transformation
    state = fitbus.Trainer(PROBLEM.task, PROBLEM.params).state
    assert state.opt_state.hyperparams["learning_rate"] == np.float32(0.1)


async def test_predictions_are_what_apply_gives() -> None:
    """Trees too, and targets aren't needed."""
    task = fitbus.Supervised(
        lambda params, x: {"line": x @ params["w"], "sign": x > 0},
        lambda predictions, y: (predictions["line"] - y) ** 2,
        optax.sgd,
        0.1,
    )
    outputs = await fitbus.Trainer(task, PROBLEM.answer).predict(X, batch_size=16)
    np.testing.assert_allclose(outputs["line"], X @ PROBLEM.answer["w"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(outputs["sign"], X > 0)


# The state.


async def test_the_state_and_its_place_in_the_loop() -> None:
    """It begins at step 0 with the seed's key, which stays; a whole state is taken as it is."""
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params, seed=5)
    state = trainer.state
    assert (int(state.step), state.step.dtype, state.extra) == (0, jnp.int32, None)
    assert state.key == jax.random.key(5)
    await trainer.fit(X, Y, batch_size=16)
    assert trainer.state.key == jax.random.key(5)
    assert int(trainer.state.step) == 5

    other = fitbus.Trainer(PROBLEM.task, trainer.state, seed=9)
    assert_same_bits(other.state.params, trainer.state.params)
    assert_same_bits(other.state.opt_state, trainer.state.opt_state)
    assert (int(other.state.step), other.state.key) == (5, jax.random.key(5))
    await other.fit(X, Y, batch_size=16)
    assert int(other.state.step) == 10


class Noisy:
    """A task of one's own, by duck typing: draws a number a step, and keeps what it drew."""

    def __init__(self, pad: bool = True) -> None:
        self.pad = pad
        self.shapes: list[Any] = []

    def init(self, params: Any, key: Any) -> TrainState:
        state = TrainState(step=jnp.int32(0), params=params, opt_state=(), key=key)
        return dataclasses.replace(state, extra={"drawn": jnp.zeros(()), "calls": jnp.int32(0)})

    def train_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        self.shapes.append(batch.x.shape)
        drawn = jax.random.normal(jax.random.fold_in(state.key, state.step))
        extra = {"drawn": drawn, "calls": state.extra["calls"] + 1}
        new = dataclasses.replace(state, extra=extra)
        return new, {"drawn": drawn, "rows": batch.weight.sum(), "calls": extra["calls"]}

    def eval_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        return {"drawn": state.extra["drawn"], "rows": batch.weight.sum()}

    def predict_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        return batch.x[:, 0] * 0 + state.extra["calls"]


def drawn(seed: int, steps: int) -> list[float]:
    return [
        float(jax.random.normal(jax.random.fold_in(jax.random.key(seed), step)))
        for step in range(steps)
    ]


async def test_a_task_of_ones_own_with_a_state_of_its_own() -> None:
    """`init` makes it, `extra` is carried from step to step, seen by `eval_step`, and kept.

    Each step has a random key of its own, over epochs and fits.
    """
    task = Noisy()
    assert isinstance(task, Task)
    trainer = fitbus.Trainer(task, PROBLEM.params, seed=3)
    recorder = EventRecorder()
    await trainer.fit(X, batch_size=35, epochs=3, callbacks=[recorder])
    await trainer.fit(X, batch_size=35, epochs=2, callbacks=[recorder])
    ends = recorder.of(BatchEnd)
    assert len({end.batch_logs["drawn"] for end in ends}) == 10
    assert [end.batch_logs["drawn"] for end in ends] == pytest.approx(drawn(3, 10))
    assert [end.batch_logs["calls"] for end in ends] == list(range(1, 11))
    assert trainer.state.opt_state == ()
    assert int(trainer.state.extra["calls"]) == 10
    logs = await trainer.evaluate(X, batch_size=35)
    assert logs == {"drawn": pytest.approx(drawn(3, 10)[-1]), "rows": 35}
    assert set((await trainer.predict(X)).tolist()) == {10}
    async with trainer.run(X, batch_size=35) as run:
        snapshot = await run.snapshot()
    assert isinstance(snapshot.extra["drawn"], np.ndarray)


@pytest.mark.parametrize(
    ("pad", "shapes", "rows"), [(True, [16], [16, 16, 6]), (False, [16, 6], [16, 16, 6])]
)
async def test_a_task_that_is_not_padded_is_compiled_a_second_time(
    pad: bool, shapes: list[int], rows: list[int]
) -> None:
    """For the short last batch, which then has its own shape."""
    task = Noisy(pad)
    trainer = fitbus.Trainer(task, PROBLEM.params)
    recorder = EventRecorder()
    await trainer.fit(X[:38], batch_size=16, epochs=2, callbacks=[recorder])
    await trainer.fit([X[:16], X[16:22]])
    assert [shape[0] for shape in task.shapes] == shapes
    assert [end.batch_logs["rows"] for end in recorder.of(BatchEnd)] == rows * 2


async def test_optimizer_of_a_task_makes_the_state_where_there_is_no_init() -> None:
    class Plain:
        optimizer = optax.adam(0.1)

        def train_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
            gradients = jax.tree.map(jnp.ones_like, state.params)
            updates, opt_state = self.optimizer.update(gradients, state.opt_state)
            params: Any = optax.apply_updates(state.params, updates)
            new = dataclasses.replace(state, params=params, opt_state=opt_state)
            return new, {"loss": params["b"]}

        def eval_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
            return {"loss": state.params["b"]}

        def predict_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
            return batch.x

    trainer = fitbus.Trainer(Plain(), PROBLEM.params)
    assert_same_bits(trainer.state.opt_state, optax.adam(0.1).init(PROBLEM.params))
    history = await trainer.fit(X, batch_size=70, epochs=3)
    assert history.history["loss"] == pytest.approx([-0.1, -0.2, -0.3], rel=1e-4)
    count: Any = optax.tree_utils.tree_get(trainer.state.opt_state, "count")
    assert int(count) == 3


@pytest.mark.parametrize("rate", [0.5, np.float32(0.5), np.array(0.5), jnp.float32(0.5), 1])
def test_a_learning_rate_is_a_number_of_any_kind(rate: Any) -> None:
    task = fitbus.Supervised(PROBLEM.task.apply, PROBLEM.task.loss, optax.sgd, rate)
    state = fitbus.Trainer(task, PROBLEM.params).state
    assert state.opt_state.hyperparams["learning_rate"] == float(rate)
