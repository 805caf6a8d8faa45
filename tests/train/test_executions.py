"""Fused steps: the events, the values and the parameters of steps that run one by one."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitbus
from fitbus import SetLearningRate, TrainState
from fitbus.testing import toy_problem
from fitbus.train import Fold

from ._fused import Fits, Told

PROBLEM = toy_problem(50, 4)
X, Y = PROBLEM.x, PROBLEM.y
Data = tuple[Any, ...]


@pytest.fixture
def anyio_backend() -> str:
    """One loop is enough: what is asked here is decided in the training thread."""
    return "asyncio"


@pytest.fixture(scope="module")
def fits() -> Fits:
    """Of the toy problem: 5 batches an epoch, the last one short, all shuffled, and validated."""
    return Fits(PROBLEM.task, PROBLEM.params, batch_size=9, epochs=2, validation_split=0.2)


def arrays() -> Data:
    return X, Y


@pytest.mark.parametrize("wait", [True, False], ids=["waiting", "running ahead"])
@pytest.mark.parametrize("steps", [2, 3, 5, 64, "auto"])
def test_all_is_told_as_of_single_steps(fits: Fits, steps: Any, wait: bool) -> None:
    """Types, `seq`, step, epoch, batch, logs, history and state; by number, or chosen.

    Whether a number divides the batches of an epoch, doesn't, or is greater than they are many.
    """
    single = fits.told(arrays)
    assert len(single.of("BatchEnd")) == 10
    assert fits.told(arrays, steps, wait=wait) == single


@pytest.mark.anyio
async def test_a_fused_step_is_compiled_once(compiled: list[str]) -> None:
    """With a remainder, a short last batch, five learning rates, and a second fit."""
    problem = toy_problem(50, 3)
    trainer = fitbus.Trainer(problem.task, problem.params)
    rates: list[float] = []

    def steer(event: fitbus.EpochEnd) -> SetLearningRate:
        rates.append(float(run.state.opt_state.hyperparams["learning_rate"]))
        return SetLearningRate(0.1 / (2 + event.epoch))

    options: Any = {"batch_size": 8, "steps_per_execution": 3}
    run = trainer.run(problem.x, problem.y, epochs=6, callbacks=[steer], **options)
    async with run:
        pass
    np.testing.assert_allclose(rates, [0.1 / (1 + epoch) for epoch in range(6)], rtol=1e-6)
    await trainer.fit(problem.x, problem.y, **options)
    assert compiled.count("jit(steps)") == 1
    assert compiled.count("jit(step)") == 0
    compiled.clear()
    await trainer.fit(problem.x, problem.y, **options)
    assert compiled == []
    assert int(trainer.state.step) == 8 * 7


# Data of all kinds. Each is trained on by single steps, and by three at a time.


class Sums:
    """A task for whatever data there are: adds up all that it gets, place by place."""

    def __init__(self, *, pad: bool = True) -> None:
        self.pad = pad

    def train_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        parts = [
            (leaf.astype(jnp.float32) * batch.weight).sum() for leaf in jax.tree.leaves(batch.x)
        ]
        total = sum(parts) / batch.weight.sum()
        params = {"w": state.params["w"] * 0.9 + total}
        value = params["w"][0] + (0 if batch.y is None else (batch.y * batch.weight).sum())
        logs = {"loss": (value, batch.weight.sum()), "rows": batch.weight.shape[0] * 1.0}
        return dataclasses.replace(state, params=params), logs

    def eval_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        return {"loss": state.params["w"][0]}

    def predict_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        return batch.x


X1 = np.arange(30, dtype=np.float32)
LABELS = (X1 % 3).astype(np.int32)
BATCHES = [X1[start : start + 4] for start in range(0, 28, 4)]
DIFFERENT = [X1[:4], X1[4:8], X1[8:10], X1[10:12], X1[12:16], X1[16:20], X1[20:24], X1[24:28]]


async def arriving() -> AsyncIterator[Any]:
    for batch in BATCHES:
        yield batch


def made() -> Iterator[Any]:
    yield from BATCHES


KINDS: dict[str, tuple[Callable[[], Data], dict[str, Any]]] = {
    "class weights": (lambda: (X1, LABELS), {"class_weight": {0: 1.0, 1: 2.0, 2: 0.5}}),
    "sample weights": (lambda: (X1, LABELS), {"sample_weight": np.linspace(0, 2, 30)}),
    "epochs that don't end with the data": (lambda: (X1,), {"steps_per_epoch": 5}),
    "a list": (lambda: (BATCHES,), {}),
    "a list, taken up again": (lambda: (BATCHES,), {"steps_per_epoch": 5}),
    "a list of pairs": (lambda: ([(batch, batch, batch / 9) for batch in BATCHES],), {}),
    "a function of a generator": (lambda: (made,), {}),
    "an iterator": (lambda: (iter(BATCHES),), {"steps_per_epoch": 2}),
    "an async iterator": (lambda: (arriving(),), {"steps_per_epoch": 2}),
    "a function of an async iterator": (lambda: (arriving,), {}),
    "a dict": (lambda: ({"one": X1, "two": X1[::-1].copy()},), {}),
    "a tuple": (lambda: ((X1, X1 * 2),), {}),
    "device arrays": (lambda: (jnp.asarray(X1), jnp.asarray(LABELS)), {}),
    "a list of device arrays": (lambda: ([jnp.asarray(batch) for batch in BATCHES],), {}),
    "one array again and again": (lambda: ([BATCHES[0]] * 7,), {}),
    "one batch": (lambda: (X1[:4],), {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_data_may_be_of_any_kind(kind: str) -> None:
    data, options = KINDS[kind]
    fits = Fits(Sums(), {"w": np.ones(1, np.float32)}, batch_size=4, epochs=3, **options)
    assert_same(fits.told(data, 3, wait=False), fits.told(data))


@pytest.mark.parametrize("wait", [True, False], ids=["waiting", "running ahead"])
@pytest.mark.parametrize("steps", [3, 4])
def test_another_shape_begins_another_execution(
    steps: int, wait: bool, compiled: list[str]
) -> None:
    """Where short batches aren't filled up; none is left out, or taken twice."""
    fits = Fits(Sums(pad=False), {"w": np.ones(1, np.float32)}, epochs=2)
    single = fits.told(lambda: (DIFFERENT,))
    assert [event["batch_logs"]["rows"] for event in single.of("BatchEnd")] == [
        *(4, 4, 2, 2, 4, 4, 4, 4),
        *(4, 4, 2, 2, 4, 4, 4, 4),
    ]
    assert_same(fits.told(lambda: (DIFFERENT,), steps, wait=wait), single)
    assert compiled.count("jit(steps)") == 2


def test_a_short_last_batch_that_isnt_filled_up_is_an_execution_of_its_own() -> None:
    fits = Fits(Sums(pad=False), {"w": np.ones(1, np.float32)}, epochs=2, batch_size=4)
    assert_same(fits.told(lambda: (X1,), 3), fits.told(lambda: (X1,)))


# Tasks of all kinds.


class Noisy:
    """Drops inputs by a key of each step, counts in `extra`, and has a metric that is no mean."""

    def train_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        key = jax.random.fold_in(state.key, state.step)
        kept = jax.random.bernoulli(key, 0.5, batch.x.shape)

        def loss(params: Any) -> Any:
            return jnp.mean(((batch.x * kept) @ params["w"] - batch.y) ** 2)

        value, gradients = jax.value_and_grad(loss)(state.params)
        params = jax.tree.map(lambda p, g: p - 0.01 * g, state.params, gradients)
        extra = {"seen": state.extra["seen"] + batch.weight.sum(), "last": key}
        worst = Fold(value, lambda: jnp.float32(-jnp.inf), jnp.maximum, lambda found: found)
        logs = {"loss": value, "worst": worst, "seen": extra["seen"]}
        return dataclasses.replace(state, params=params, extra=extra), logs

    def eval_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        return {"loss": state.params["w"][0]}

    def predict_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        return batch.x


@pytest.mark.parametrize("wait", [True, False], ids=["waiting", "running ahead"])
def test_keys_extra_and_folds_go_from_step_to_step(wait: bool) -> None:
    """Each step draws by its own key; a fold goes over all batches of an epoch."""
    begin = fitbus.Trainer(Noisy(), {"w": np.ones(4, np.float32)}, seed=1).state
    begin = dataclasses.replace(begin, extra={"seen": jnp.float32(0), "last": begin.key})
    fits = Fits(Noisy(), begin, batch_size=8, epochs=2)
    single = fits.told(arrays)
    assert len({event["batch_logs"]["loss"] for event in single.of("BatchEnd")}) == 14
    assert_same(fits.told(arrays, 3, wait=wait), single)


def test_an_optimizer_with_much_state_goes_from_step_to_step() -> None:
    """Moments, counts, a schedule, and a chain of them."""
    rates = optax.cosine_decay_schedule(0.1, 10)
    task = fitbus.Supervised(
        apply=PROBLEM.task.apply,
        loss=lambda predictions, targets: (predictions - targets) ** 2,
        optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rates), optax.ema(0.9)),
    )
    fits = Fits(task, PROBLEM.params, batch_size=8, epochs=2)
    assert_same(fits.told(arrays, 3), fits.told(arrays))


def assert_same(found: Told, expected: Told) -> None:
    assert found.events == expected.events
    assert found == expected
