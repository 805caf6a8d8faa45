"""`Trainer.evaluate` and `Trainer.predict`: what they return, and the events that they publish."""

from __future__ import annotations

from typing import Any

import anyio
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fitbus
from fitbus import (
    Callback,
    Event,
    PredictBatchEnd,
    StopTraining,
    TestBatchEnd,
    TestBegin,
    TestEnd,
)
from fitbus.errors import DataError, InvalidArgumentError
from fitbus.testing import EventRecorder, toy_problem

pytestmark = pytest.mark.anyio

RANDOM = np.random.default_rng(1)
PROBLEM = toy_problem(10, 3)
X, Y = PROBLEM.x, PROBLEM.y
PARAMS = {"w": RANDOM.normal(size=3).astype(np.float32), "b": np.float32(0.5)}
SHARED = fitbus.Trainer(PROBLEM.task, PARAMS)
TEST = ["TestBegin", *["TestBatchBegin", "TestBatchEnd"] * 3, "TestEnd"]
PREDICT = ["PredictBegin", *["PredictBatchBegin", "PredictBatchEnd"] * 3, "PredictEnd"]


def predictions() -> Any:
    return X @ PARAMS["w"] + PARAMS["b"]


class Inputs:
    """A task on trees: two named inputs and a pair of targets; metrics of each kind."""

    def train_step(self, state: fitbus.TrainState, batch: fitbus.Batch) -> Any:
        return state, self.eval_step(state, batch)

    def eval_step(self, state: fitbus.TrainState, batch: fitbus.Batch) -> Any:
        left, right = batch.y
        weight = batch.weight.sum()
        largest = jnp.where(batch.weight > 0, batch.x["a"], -jnp.inf).max()
        return {
            "sum": ((batch.weight * (left + right[:, 0])).sum() / jnp.maximum(weight, 1), weight),
            "batches": jnp.float32(1),
            "largest": fitbus.Fold(
                largest, lambda: jnp.float32(-jnp.inf), jnp.maximum, lambda value: value
            ),
        }

    def predict_step(self, state: fitbus.TrainState, batch: fitbus.Batch) -> Any:
        inputs: Any = batch.x
        return {"scaled": inputs["a"] * state.params, "pair": (inputs["b"], inputs["b"] > 0)}


TREE: Any = {
    "a": np.arange(10, dtype=np.float32),
    "b": RANDOM.normal(size=(10, 2)).astype(np.float32),
}
TARGETS: Any = (np.arange(10, dtype=np.float32), RANDOM.normal(size=(10, 1)).astype(np.float32))


# What they return.


async def test_evaluate_returns_the_means_over_all_examples(trainer: fitbus.Trainer) -> None:
    """By name, as plain floats; with weights if there are any."""
    error = np.abs(predictions() - Y)
    logs = await trainer.evaluate(X, Y, batch_size=4)
    assert logs == {
        "loss": pytest.approx((error**2).mean(), rel=1e-5),
        "mean_absolute_error": pytest.approx(error.mean(), rel=1e-5),
    }
    assert [type(value) for value in logs.values()] == [float, float]
    weight = RANDOM.uniform(size=10)
    logs = await trainer.evaluate(X, Y, batch_size=4, sample_weight=weight)
    expected = np.average(error, weights=weight)
    assert logs["mean_absolute_error"] == pytest.approx(expected, rel=1e-5)


async def test_predict_returns_what_jax_computes_at_once(trainer: fitbus.Trainer) -> None:
    """In one piece, on the host."""
    outputs = await trainer.predict(X, batch_size=4)
    assert isinstance(outputs, np.ndarray)
    assert (outputs.shape, outputs.dtype) == ((10,), np.float32)
    np.testing.assert_allclose(outputs, predictions(), rtol=1e-5)
    whole = jax.jit(PROBLEM.task.apply)(PARAMS, X)
    np.testing.assert_allclose(outputs, whole, rtol=1e-6)


@pytest.mark.parametrize("size", [3, 64])
async def test_how_the_data_are_cut_makes_no_difference(trainer: fitbus.Trainer, size: int) -> None:
    """The rows that fill up a short batch have a part in nothing."""
    logs = await trainer.evaluate(X, Y, batch_size=size)
    assert logs == pytest.approx(await trainer.evaluate(X, Y, batch_size=10), rel=1e-6)
    outputs = await trainer.predict(X, batch_size=size)
    np.testing.assert_allclose(outputs, await trainer.predict(X, batch_size=10), rtol=1e-6)


@pytest.fixture(scope="module")
def inputs() -> fitbus.Trainer:
    return fitbus.Trainer(Inputs(), np.float32(3))


async def test_inputs_targets_and_outputs_may_be_trees(inputs: fitbus.Trainer) -> None:
    """Of arrays on the host or on the device. A mean of batches, and a metric that is no mean."""
    for x, y in ((TREE, TARGETS), (jax.device_put(TREE), jax.device_put(TARGETS))):
        logs = await inputs.evaluate(x, y, batch_size=4)
        total = TARGETS[0] + TARGETS[1][:, 0]
        assert logs == {
            "batches": 1,
            "largest": 9,
            "sum": pytest.approx(float(total.mean()), rel=1e-5),
        }
        outputs = await inputs.predict(x, batch_size=4)
        assert sorted(outputs) == ["pair", "scaled"]
        assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(outputs))
        np.testing.assert_array_equal(outputs["scaled"], TREE["a"] * 3)
        first, second = outputs["pair"]
        np.testing.assert_array_equal(first, TREE["b"])
        np.testing.assert_array_equal(second, TREE["b"] > 0)
        assert second.dtype == np.bool_


async def test_lists_of_batches_and_factories_serve_too(trainer: fitbus.Trainer) -> None:
    """Each call goes through all of them; async ones as well."""
    batches = [(X[:4], Y[:4]), (X[4:8], Y[4:8]), (X[8:], Y[8:])]

    async def come() -> Any:
        for batch in batches:
            yield batch

    expected = await trainer.evaluate(X, Y, batch_size=4)
    for source in (batches, lambda: iter(batches), come):
        for _ in range(2):
            assert await trainer.evaluate(source) == expected
            outputs = await trainer.predict(source)
            np.testing.assert_array_equal(outputs, await trainer.predict(X, batch_size=4))


# Their events.


async def test_evaluate_publishes_a_test_of_its_own(trainer: fitbus.Trainer) -> None:
    """Running means, and each batch's own values; the last ones are what it returns."""
    recorder = EventRecorder()
    logs = await trainer.evaluate(X, Y, batch_size=4, callbacks=[recorder])
    assert recorder.names == TEST
    assert [event.seq for event in recorder.events] == list(range(len(TEST)))
    assert {(event.step, event.epoch) for event in recorder.events} == {(0, 0)}
    ends = recorder.of(TestBatchEnd)
    assert [event.batch for event in ends] == [0, 1, 2]
    error = np.abs(predictions() - Y)
    for index, end in enumerate(ends):
        own, all_so_far = error[4 * index : 4 * index + 4], error[: 4 * index + 4]
        assert end.batch_logs["mean_absolute_error"] == pytest.approx(own.mean(), rel=1e-5)
        assert end.logs["mean_absolute_error"] == pytest.approx(all_so_far.mean(), rel=1e-5)
    assert ends[-1].logs == recorder.of(TestEnd)[0].logs == logs


async def test_predict_publishes_the_outputs_of_each_batch(trainer: fitbus.Trainer) -> None:
    """Of its real rows; together they are what it returns."""
    recorder = EventRecorder()
    outputs = await trainer.predict(X, batch_size=4, callbacks=[recorder])
    assert recorder.names == PREDICT
    ends = recorder.of(PredictBatchEnd)
    assert [len(event.outputs) for event in ends] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([event.outputs for event in ends]), outputs)


@pytest.mark.parametrize(("call", "expected"), [("evaluate", TEST), ("predict", PREDICT)])
async def test_each_kind_of_subscriber_gets_all_of_it(
    trainer: fitbus.Trainer, call: str, expected: list[str]
) -> None:
    """Before the call returns: waited for or not, on the loop or in a thread; nested lists."""
    found: dict[str, list[Event]] = {"waiting": [], "concurrent": [], "worker": []}

    async def waiting(event: Event) -> None:
        found["waiting"].append(event)

    async def concurrent(event: Event) -> None:
        found["concurrent"].append(event)

    def worker(event: Event) -> None:
        found["worker"].append(event)

    callbacks = [
        [fitbus.handler(Event, wait=True)(waiting)],
        ([fitbus.handler(Event, wait=False)(concurrent)], None),
        fitbus.handler(Event, wait=False)(worker),
    ]
    arguments = (X, Y) if call == "evaluate" else (X,)
    async with trainer.bus.subscribe(Event) as stream:
        await getattr(trainer, call)(*arguments, batch_size=4, callbacks=callbacks)
        streamed = [await anext(stream) for _ in expected]
    assert [type(event).__name__ for event in streamed] == expected
    assert all(events == streamed for events in found.values())


class Hooks(Callback):
    """Notes which hooks are called."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.steps: list[Any] = []

    def on_test_begin(self, logs: Any = None) -> None:
        self.called.append("test")
        self.steps.append(self.params["steps"])

    async def on_predict_begin(self, logs: Any = None) -> None:
        self.called.append("predict")
        self.steps.append(self.params["steps"])

    def on_train_begin(self, logs: Any = None) -> None:
        self.called.append("train")


async def test_callbacks_are_told_how_many_batches_come(trainer: fitbus.Trainer) -> None:
    """And no hook of training is called."""
    hooks = Hooks()
    await trainer.evaluate(X, Y, batch_size=4, callbacks=[hooks])
    await trainer.predict(X, batch_size=4, steps=2, callbacks=[hooks])
    await trainer.evaluate(iter([(X, Y)]), callbacks=[hooks])
    assert (hooks.called, hooks.steps) == (["test", "predict", "test"], [3, 2, None])


async def test_a_handler_may_end_them_before_the_first_batch(trainer: fitbus.Trainer) -> None:
    """Then there are no means, and no outputs."""
    recorder = EventRecorder()

    def stop(event: Event) -> StopTraining:
        return StopTraining()

    begins = fitbus.handler(TestBegin, fitbus.PredictBegin)(stop)
    assert await trainer.evaluate(X, Y, callbacks=[recorder, begins]) == {}
    assert await trainer.predict(X, callbacks=[recorder, begins]) is None
    assert recorder.names == [
        *("TestBegin", "ControlApplied", "TestEnd"),
        *("PredictBegin", "ControlApplied", "PredictEnd"),
    ]


async def test_errors_leave_as_themselves_and_the_trainer_is_free_again(
    trainer: fitbus.Trainer,
) -> None:
    """A handler's, the data's, an argument's."""

    @fitbus.handler(TestBatchEnd, PredictBatchEnd)
    def breaks(event: Event) -> None:
        raise ZeroDivisionError("a handler's")

    for call, data in ((trainer.evaluate, (X, Y)), (trainer.predict, (X,))):
        with pytest.raises(ZeroDivisionError, match="a handler's"):
            await call(*data, callbacks=[breaks])
        with pytest.raises(InvalidArgumentError, match="batch_size"):
            await call(*data, batch_size=0)
        with pytest.raises(InvalidArgumentError, match="steps"):
            await call(*data, steps=0)
        with pytest.raises(InvalidArgumentError, match="verbose"):
            await call(*data, verbose=3)
        with pytest.raises(DataError, match="x"):
            await call([])
    with pytest.raises(DataError, match="y"):
        await trainer.evaluate(X, Y[1:])
    with pytest.raises(DataError, match="sample_weight"):
        await trainer.evaluate(X, Y, sample_weight=np.ones(9))
    assert set(await trainer.evaluate(X, Y)) == {"loss", "mean_absolute_error"}


def test_without_padding_a_task_sees_the_batch_as_it_is() -> None:
    """`pad = False`: one more shape is traced, and no row is made up."""
    shapes: list[int] = []

    class Ragged(Inputs):
        pad = False

        def predict_step(self, state: fitbus.TrainState, batch: fitbus.Batch) -> Any:
            shapes.append(len(batch.x))
            return batch.x - batch.x.mean()

    trainer = fitbus.Trainer(Ragged(), np.float32(1))
    data = np.arange(10, dtype=np.float32)

    async def main() -> Any:
        return await trainer.predict(data, batch_size=4)

    outputs = anyio.run(main)
    expected = np.concatenate([part - part.mean() for part in np.split(data, [4, 8])])
    np.testing.assert_allclose(outputs, expected)
    assert set(shapes) == {4, 2}
