"""Running means, a batch's own values, and metrics that aren't means."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitbus
from fitbus import BatchEnd, EpochEnd, TestBatchEnd, TestEnd, TrainEnd, TrainState
from fitbus.testing import EventRecorder, toy_problem
from fitbus.train import Fold

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """One loop is enough: what steps compute has nothing to do with it."""
    return "asyncio"


ROUNDING = 2.0**-24  # of float32


class Tell:
    """Learns nothing; its metrics are what the batch's x holds, in this way and that."""

    def _metrics(self, batch: fitbus.Batch) -> dict[str, Any]:
        value, weight = batch.x["value"][0], batch.x["weight"][0]
        return {
            "weighted": (value, weight),
            "whole": (value > 0).sum(),
            "plain": value,
            "again": (2 * value, weight),
            "most": Fold(value, lambda: jnp.float32(-1e9), jnp.maximum, lambda kept: kept),
            "spread": Fold(
                {"value": value, "weight": weight},
                lambda: {"sum": jnp.zeros(2), "n": jnp.int32(0)},
                self._gather,
                lambda kept: jnp.sqrt(kept["sum"][1] / kept["n"]),
            ),
        }

    @staticmethod
    def _gather(kept: Any, new: Any) -> Any:
        value = new["value"]
        return {"sum": kept["sum"] + jnp.stack([value, value**2]), "n": kept["n"] + 1}

    def train_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        return state, self._metrics(batch)

    def eval_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        return self._metrics(batch)

    def predict_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        return batch.x["value"]


TRAINER = fitbus.Trainer(Tell(), {"w": np.zeros(1, np.float32)})
NAMES = ["again", "most", "plain", "spread", "weighted", "whole"]


async def told(values: Any, weights: Any, epochs: int = 1) -> list[BatchEnd]:
    """The ends of batches of one value each."""
    recorder = EventRecorder()

    @fitbus.handler(BatchEnd, wait=False)
    def keep(event: BatchEnd) -> None:
        recorder(event)

    x = {"value": np.asarray(values, np.float32), "weight": np.asarray(weights, np.float32)}
    await TRAINER.fit(x, batch_size=1, shuffle=False, epochs=epochs, callbacks=[keep])
    return recorder.of(BatchEnd)


def column(ends: list[BatchEnd], name: str) -> Any:
    return np.array([end.logs[name] for end in ends])


async def test_running_means_stay_exact_over_thousands_of_batches() -> None:
    """As in float64, but for one rounding at the end: plain float32 sums are far off by then."""
    n = 4000
    random = np.random.default_rng(0)
    values = (1000 + random.normal(size=n)).astype(np.float32)
    weights = (random.uniform(1, 30_000, n) * (random.uniform(size=n) > 0.1)).astype(np.float32)
    weights[0] = 1
    ends = await told(values, weights)
    v, w = values.astype(np.float64), weights.astype(np.float64)
    running = np.cumsum(v * w) / np.cumsum(w)
    np.testing.assert_allclose(column(ends, "weighted"), running, rtol=4 * ROUNDING)
    np.testing.assert_allclose(column(ends, "again"), 2 * running, rtol=4 * ROUNDING)
    by_batch = np.cumsum(v) / np.arange(1, n + 1)
    np.testing.assert_allclose(column(ends, "plain"), by_batch, rtol=4 * ROUNDING)

    naive = np.cumsum(values * weights, dtype=np.float32) / np.cumsum(weights, dtype=np.float32)
    assert np.abs(naive / running - 1).max() > 20 * ROUNDING  # else this would prove little


async def test_a_batchs_own_values_are_those_of_the_step() -> None:
    """To the last bit, beside the running ones."""
    values = [3.5, -1.25, 0.1, 7.0]
    ends = await told(values, [1, 2, 0, 1])
    own = [end.batch_logs for end in ends]
    single = np.array(values, np.float32).tolist()
    np.testing.assert_array_equal([logs["weighted"] for logs in own], [*single[:2], math.nan, 7])
    assert [logs["plain"] for logs in own] == single
    assert [logs["most"] for logs in own] == single
    assert [logs["whole"] for logs in own] == [1, 0, 1, 1]
    assert [logs["spread"] for logs in own] == pytest.approx(np.abs(values), rel=1e-6)
    assert column(ends, "most").tolist() == [3.5, 3.5, 3.5, 7]
    assert column(ends, "whole") == pytest.approx([1, 1 / 2, 2 / 3, 3 / 4])
    assert column(ends, "weighted") == pytest.approx([3.5, 1 / 3, 1 / 3, 2])
    squares = np.cumsum(np.square(values)) / np.arange(1, 5)
    assert column(ends, "spread") == pytest.approx(np.sqrt(squares), rel=1e-6)


async def test_each_epoch_starts_anew() -> None:
    ends = await told([1, 2, 6], [1, 1, 2], epochs=3)
    assert column(ends, "weighted").tolist() == [1, 1.5, 3.75] * 3
    assert column(ends, "most").tolist() == [1, 2, 6] * 3
    assert column(ends, "plain").tolist() == [1, 1.5, 3] * 3


async def test_logs_are_plain_floats_sorted_by_name_with_a_prefix_for_validation() -> None:
    recorder = EventRecorder()
    x = {"value": np.array([1, 2], np.float32), "weight": np.array([1, 1], np.float32)}
    history = await TRAINER.fit(x, batch_size=1, validation_data=x, callbacks=[recorder])
    evaluated = await TRAINER.evaluate(x, batch_size=1)
    all_names = sorted([*NAMES, *(f"val_{name}" for name in NAMES)])
    plain: list[Any] = [evaluated]
    for kind in (BatchEnd, TestBatchEnd):
        plain += [logs for end in recorder.of(kind) for logs in (end.logs, end.batch_logs)]
    plain += [end.logs for end in recorder.of(TestEnd)]
    assert len(plain) == 10
    both = [end.logs for kind in (EpochEnd, TrainEnd) for end in recorder.of(kind)]
    assert [list(logs) for logs in plain] == [NAMES] * 10
    assert [list(logs) for logs in both] == [all_names] * 2
    assert list(history.history) == all_names
    assert {type(v) for logs in plain + both for v in logs.values()} == {float}
    last = recorder.of(TestEnd)[0].logs
    assert (
        both[0]
        == both[1]
        == {**recorder.of(BatchEnd)[-1].logs}
        | {f"val_{name}": value for name, value in last.items()}
    )


@pytest.mark.parametrize("debug", [False, True])
async def test_where_all_weights_are_zero_there_is_no_mean(debug: bool) -> None:
    """NaN, which is never the best one; also under a mode of JAX that lets no NaN be computed."""
    with jax.debug_nans(debug):
        ends = await told([5, 6, 7], [0, 0, 2])
    own = [end.batch_logs["weighted"] for end in ends]
    np.testing.assert_array_equal(own, [math.nan, math.nan, 7])
    np.testing.assert_array_equal(column(ends, "weighted"), [math.nan, math.nan, 7])
    np.testing.assert_array_equal(column(ends, "again"), [math.nan, math.nan, 14])
    assert column(ends, "plain").tolist() == [5, 5.5, 6]
    assert column(ends, "most").tolist() == [5, 6, 7]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
async def test_what_isnt_finite_shows_where_it_happened(bad: float) -> None:
    """In that batch's own values, in the means from there on, and not in the next epoch.

    As in a sum of NumPy's: an infinity stays one.
    """
    ends = await told([1, bad, 2, 3], [1, 1, 1, 1], epochs=2)
    for epoch in (ends[:4], ends[4:]):
        own = [end.batch_logs["weighted"] for end in epoch]
        np.testing.assert_array_equal(own, [1, bad, 2, 3])
        np.testing.assert_array_equal(column(epoch, "weighted"), [1, bad, bad, bad])
        np.testing.assert_array_equal(column(epoch, "plain"), [1, bad, bad, bad])


async def test_what_isnt_finite_doesnt_count_with_a_weight_of_zero() -> None:
    ends = await told([1, math.nan, math.inf, 3], [1, 0, 0, 1])
    assert column(ends, "weighted").tolist() == [1, 1, 1, 2]
    assert math.isnan(ends[1].batch_logs["weighted"])


# Metrics of `Supervised`.

PROBLEM = toy_problem(70, 4)


def determination() -> tuple[Any, Any, Any]:
    """The coefficient of determination as a triple: no mean of batches gives it."""

    def update(kept: Any, predictions: Any, y: Any, weight: Any) -> Any:
        terms = jnp.stack([jnp.ones_like(y), y, y**2, (y - predictions) ** 2])
        return kept + (terms * weight).sum(1)

    def result(kept: Any) -> Any:
        n, s, squares, rest = kept
        return 1 - rest / (squares - s**2 / n)

    return lambda: jnp.zeros(4), update, result


STILL = fitbus.Supervised(
    PROBLEM.task.apply,
    PROBLEM.task.loss,
    optax.sgd(0.0),
    metrics={
        "determination": determination(),
        "largest": (
            lambda: jnp.float32(0),
            lambda kept, p, y, weight: jnp.maximum(kept, (abs(p - y) * (weight > 0)).max()),
            lambda kept: kept,
        ),
        "error": lambda p, y: abs(p - y),
    },
)
PARAMS: Any = jax.tree.map(lambda leaf: np.float32(0.8 * leaf), PROBLEM.answer)
SUPERVISED = fitbus.Trainer(STILL, PARAMS)


@pytest.mark.parametrize("weighted", [False, True])
async def test_a_metric_that_is_no_mean_is_a_triple(weighted: bool) -> None:
    """Given predictions, targets and weights: rows that fill up the last batch don't count."""
    weights = np.random.default_rng(0).uniform(0, 2, 70).astype(np.float32) if weighted else None
    history = await SUPERVISED.fit(
        PROBLEM.x,
        PROBLEM.y,
        sample_weight=weights,
        batch_size=16,
        validation_data=(PROBLEM.x, PROBLEM.y, weights),
    )
    logs = await SUPERVISED.evaluate(PROBLEM.x, PROBLEM.y, sample_weight=weights, batch_size=16)

    x, y = PROBLEM.x.astype(np.float64), PROBLEM.y.astype(np.float64)
    difference = x @ PARAMS["w"] + PARAMS["b"] - y
    mean = np.average(y, weights=weights)
    expected = {
        "determination": 1
        - np.average(difference**2, weights=weights) / np.average((y - mean) ** 2, weights=weights),
        "largest": np.abs(difference).max(),
        "error": np.average(np.abs(difference), weights=weights),
        "loss": np.average(difference**2, weights=weights),
    }
    assert logs == pytest.approx(expected, rel=1e-5)
    assert {k: v[0] for k, v in history.history.items()} == pytest.approx(
        {**expected, **{f"val_{name}": value for name, value in expected.items()}}, rel=1e-5
    )


async def test_training_metrics_are_of_each_batch_before_its_update() -> None:
    """As in Keras: the loss of a batch is that of the parameters it was computed with."""
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    recorder = EventRecorder()
    params = [PROBLEM.params]

    def keep(event: BatchEnd) -> None:
        params.append(jax.tree.map(np.array, run.state.params))

    run = trainer.run(
        PROBLEM.x, PROBLEM.y, batch_size=14, shuffle=False, callbacks=[recorder, keep]
    )
    async with run:
        pass
    for place, end in enumerate(recorder.of(BatchEnd)):
        rows = slice(14 * place, 14 * place + 14)
        before = params[place]
        difference = PROBLEM.x[rows] @ before["w"] + before["b"] - PROBLEM.y[rows]
        assert end.batch_logs["loss"] == pytest.approx(np.mean(difference**2), rel=1e-5)


async def test_dtypes_of_metrics() -> None:
    """Halves, whole numbers and booleans arrive as numbers; doubles are kept where they exist."""

    class Kinds(Tell):
        def _metrics(self, batch: fitbus.Batch) -> dict[str, Any]:
            value = batch.x["value"][0]
            return {
                "half": value.astype(jnp.bfloat16),
                "whole": jnp.int32(7),
                "number": 3,
                "yes": value > 0,
                "given": value,
            }

    x = {"value": np.array([1.1], np.float64)}
    logs = await fitbus.Trainer(Kinds(), {"w": np.zeros(1)}).evaluate(x)
    assert logs == {
        "half": pytest.approx(1.1, rel=0.01),
        "whole": 7,
        "number": 3,
        "yes": 1,
        "given": float(np.float32(1.1)),
    }
    with jax.enable_x64(True):
        logs = await fitbus.Trainer(Kinds(), {"w": np.zeros(1)}).evaluate(x)
    assert logs["given"] == 1.1
