"""What a list is: several arrays, data, or batches."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitbus
from fitbus import BatchEnd, TrainState
from fitbus.errors import DataError, InvalidArgumentError
from fitbus.testing import EventRecorder

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """One loop is enough: what is asked here is decided before a loop has a part in it."""
    return "asyncio"


RANDOM = np.random.default_rng(0)
A, B = RANDOM.normal(size=(8, 3)).astype("float32"), RANDOM.normal(size=8).astype("float32")
Y, Z = RANDOM.normal(size=8).astype("float32"), RANDOM.normal(size=(8, 3)).astype("float32")
IDS = np.arange(8, dtype=np.float32)


def both(params: Any, x: Any) -> Any:
    """Two outputs of two inputs; which must be a tuple."""
    assert type(x) is tuple
    a, b = x
    return a.sum(1) * params["w"] + b, a + params["w"]


def error(outputs: Any, y: Any) -> Any:
    assert type(y) is tuple
    return optax.squared_error(outputs[0], y[0]) + optax.squared_error(outputs[1], y[1]).sum(1)


def trainer() -> fitbus.Trainer:
    task = fitbus.Supervised(apply=both, loss=error, optimizer=optax.sgd(0.01))
    return fitbus.Trainer(task, {"w": np.float32(0.5)})


class Ids:
    """Learns nothing; tells the sum of each batch, and of it squared: which rows it has."""

    def train_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        return state, self.eval_step(state, batch)

    def eval_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        squares = (batch.weight * batch.x**2).sum()
        return {"sum": (batch.weight * batch.x).sum(), "squares": squares, "first": batch.x[0]}

    def predict_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        return batch.x


@pytest.fixture(scope="module")
def ids() -> fitbus.Trainer:
    return fitbus.Trainer(Ids(), {"w": np.zeros(1, np.float32)})


async def test_lists_of_arrays_are_tuples_of_them_wherever_they_are_given() -> None:
    options: Any = {"batch_size": 4, "epochs": 2, "sample_weight": np.linspace(0, 1, 8)}
    tuples = await trainer().fit((A, B), (Y, Z), validation_data=((A, B), (Y, Z)), **options)
    lists = await trainer().fit(
        [A, jnp.array(B)], [Y, Z], validation_data=([A, B], [Y, Z], None), **options
    )
    assert lists.history == tuples.history
    assert set(lists.history) == {"loss", "val_loss"}


async def test_lists_of_arrays_are_split_each() -> None:
    split = await trainer().fit([A, B], [Y, Z], validation_split=0.25, shuffle=False)
    by_hand = await trainer().fit(
        *((A[:6], B[:6]), (Y[:6], Z[:6])),
        validation_data=((A[6:], B[6:]), (Y[6:], Z[6:])),
        shuffle=False,
    )
    assert split.history == by_hand.history


async def test_lists_of_numbers_are_data_also_where_they_are_split() -> None:
    """Also `x` of validation data, which has targets."""
    linear: Any = fitbus.Supervised(
        apply=lambda params, x: x @ params["w"], loss=optax.squared_error, optimizer=optax.sgd(0.1)
    )
    options: list[Any] = [
        {"validation_split": 0.25},
        {"validation_data": (A.tolist(), B.tolist()), "sample_weight": [1.0] * 8},
    ]
    for given in options:
        found = []
        for x, y in ((A, B), (A.tolist(), B.tolist())):
            fresh = fitbus.Trainer(linear, {"w": np.ones(3, np.float32)})
            found.append((await fresh.fit(x, y, **given)).history)
        for name, values in found[0].items():
            assert found[1][name] == pytest.approx(values)
        assert "val_loss" in found[0]


async def test_evaluation_takes_lists_too() -> None:
    model = trainer()
    assert await model.evaluate([A, B], [Y, Z]) == await model.evaluate((A, B), (Y, Z))


async def test_without_targets_a_list_of_arrays_is_one_of_batches(ids: fitbus.Trainer) -> None:
    recorder = EventRecorder()
    await ids.fit([IDS[:3], IDS[3:6]], callbacks=[recorder])
    assert [end.batch_logs["first"] for end in recorder.of(BatchEnd)] == [0, 3]


async def test_who_predicts_a_list_for_two_inputs_is_told_to_give_a_tuple() -> None:
    model = trainer()
    with pytest.raises(ValueError, match="unpack") as caught:  # from the task: each is a batch
        await _unpacking().predict([A, A])
    assert any("given as a tuple: (a, b)" in note for note in caught.value.__notes__)
    first, second = await model.predict((A, B))
    assert first.shape == (8,)
    assert second.shape == (8, 3)


def _unpacking() -> fitbus.Trainer:
    def apply(params: Any, x: Any) -> Any:
        a, b = x
        return a + b + params["w"]

    task: Any = fitbus.Supervised(apply=apply, loss=error, optimizer=optax.sgd(0.1))
    return fitbus.Trainer(task, {"w": np.float32(0)})


async def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(DataError, match=r"x: its arrays have different lengths: \[7, 8\]"):
        await trainer().fit([A, B[:7]], [Y, Z])
    with pytest.raises(DataError, match="x: found a list of parts of different lengths"):
        await trainer().fit([[1, 2], [3]], [Y, Z])


@pytest.mark.parametrize("y", [[Y, Z], (Y, Z), [Y]], ids=["list", "tuple", "one"])
async def test_weights_by_class_are_refused_where_outputs_are_several(y: Any) -> None:
    for data in (([A, B], y), ([((A, B), y)],)):
        with pytest.raises(InvalidArgumentError, match="of several outputs, give sample_weight"):
            await trainer().fit(*data, class_weight={0: 1.0})


async def test_classes_of_weights_may_be_texts_of_numbers(ids: fitbus.Trainer) -> None:
    """As JSON has them; Keras takes them, and ignores them."""
    labels = (IDS > 3).astype(np.int32)
    for weights in ({"0": 0.5, "1": 2.0}, {0: 0.5, 1: 2.0}):
        history = await ids.fit(IDS, labels, class_weight=weights, batch_size=8)
        assert history.history["sum"] == [0.5 * (0 + 1 + 2 + 3) + 2 * (4 + 5 + 6 + 7)]


async def test_shuffling_within_batches_leaves_each_batch_its_rows(ids: fitbus.Trainer) -> None:
    recorder = EventRecorder()
    await ids.fit(IDS, batch_size=3, shuffle="batch", epochs=6, callbacks=[recorder])
    ends = recorder.of(BatchEnd)
    for at, rows in enumerate((IDS[:3], IDS[3:6], IDS[6:])):
        of_batch = [end.batch_logs for end in ends if end.batch == at]
        assert {logs["sum"] for logs in of_batch} == {rows.sum()}
        assert {logs["squares"] for logs in of_batch} == {(rows**2).sum()}
        assert len({logs["first"] for logs in of_batch}) > 1, "it isn't shuffled"
