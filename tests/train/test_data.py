"""Where batches come from: arrays, trees of them, lists, iterables, factories.

Scenario 30.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import fitbus
from fitbus import BatchEnd, EpochEnd, TestBatchEnd, TrainBegin, TrainEnd, TrainState
from fitbus.errors import DataError
from fitbus.testing import EventRecorder, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(100, 4, learning_rate=0.0)  # so that all epochs have the same loss
X, Y = PROBLEM.x, PROBLEM.y
RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.uniform(0, 3, 100).astype(np.float32) * (RANDOM.uniform(size=100) > 0.3)
PARAMS = {"w": RANDOM.normal(size=4).astype(np.float32), "b": np.array(0.3, np.float32)}


class Peek:
    """Learns nothing; tells of each batch: its rows, sum, first value and largest value."""

    def _metrics(self, batch: fitbus.Batch) -> Any:
        x = batch.x["id"] if isinstance(batch.x, dict) else batch.x
        return {
            "first": x[0],
            "largest": x.max(),
            "rows": (x >= 0).sum(),
            "weight": batch.weight.sum(),
            "loss": (
                (x * batch.weight).sum() / jnp.maximum(batch.weight.sum(), 1),
                batch.weight.sum(),
            ),
        }

    def train_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        return state, self._metrics(batch)

    def eval_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        return self._metrics(batch)

    def predict_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        return {"twice": 2 * batch.x, "square": batch.x[:, None] ** jnp.arange(3)}


IDS = np.arange(10, dtype=np.float32)


@pytest.fixture(scope="module")
def peek() -> fitbus.Trainer:
    return fitbus.Trainer(Peek(), {"w": np.zeros(1, np.float32)})


@pytest.fixture(scope="module")
def trainer() -> fitbus.Trainer:
    return fitbus.Trainer(PROBLEM.task, PARAMS)


async def seen(
    peek: fitbus.Trainer, *data: Any, name: str = "first", **arguments: Any
) -> list[list[float]]:
    """What the batches of each epoch told."""
    recorder = EventRecorder()
    arguments = {"shuffle": False, "batch_size": 1, **arguments}
    await peek.fit(*data, callbacks=[recorder], **arguments)
    epochs: dict[int, list[float]] = {event.epoch: [] for event in recorder.of(EpochEnd)}
    for event in recorder.of(BatchEnd):
        epochs[event.epoch].append(event.batch_logs[name])
    return list(epochs.values())


def loss_and_error(n: int, weights: Any = None) -> tuple[float, float]:
    """Weighted means over the first examples, by NumPy in float64."""
    x, y = X[:n].astype(np.float64), Y[:n].astype(np.float64)
    difference = x @ PARAMS["w"].astype(np.float64) + PARAMS["b"].astype(np.float64) - y
    weights = None if weights is None else weights[:n].astype(np.float64)
    return (
        float(np.average(difference**2, weights=weights)),
        float(np.average(np.abs(difference), weights=weights)),
    )


# Means.


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("n", [32, 33, 63, 64, 100])
async def test_means_are_exact_whatever_the_last_batch(
    trainer: fitbus.Trainer, n: int, weights: Any
) -> None:
    """In training, in validation and in evaluation: weighted by examples, as NumPy's in float64."""
    expected = pytest.approx(loss_and_error(n, weights), rel=2e-6)
    weight = None if weights is None else weights[:n]
    logs = await trainer.evaluate(X[:n], Y[:n], sample_weight=weight, batch_size=32)
    assert (logs["loss"], logs["mean_absolute_error"]) == expected
    history = await trainer.fit(
        X[:n],
        Y[:n],
        batch_size=32,
        epochs=2,
        sample_weight=weight,
        validation_data=(X[:n], Y[:n], weight),
    )
    for prefix in ("", "val_"):
        for epoch in range(2):
            loss = history.history[f"{prefix}loss"][epoch]
            error = history.history[f"{prefix}mean_absolute_error"][epoch]
            assert (loss, error) == expected


async def test_running_means_and_a_batchs_own_values(trainer: fitbus.Trainer) -> None:
    """After each batch; the last one's running means are the epoch's."""
    recorder = EventRecorder()
    history = await trainer.fit(X, Y, batch_size=32, shuffle=False, callbacks=[recorder])
    ends = recorder.of(BatchEnd)
    for index, end in enumerate(ends):
        upto = min(100, 32 * (index + 1))
        assert end.logs["loss"] == pytest.approx(loss_and_error(upto)[0], rel=2e-6)
        rows = slice(32 * index, upto)
        difference = X[rows] @ PARAMS["w"] + PARAMS["b"] - Y[rows]
        assert end.batch_logs["loss"] == pytest.approx(float(np.mean(difference**2)), rel=1e-5)
    assert ends[-1].logs["loss"] == history.history["loss"][0]
    assert all(list(end.logs) == sorted(end.logs) for end in ends)


async def test_a_batch_of_zero_weights_has_no_part_in_the_means(trainer: fitbus.Trainer) -> None:
    """And makes no NaN."""
    weights = np.ones(100, np.float32)
    weights[32:64] = 0
    recorder = EventRecorder()
    history = await trainer.fit(
        X, Y, batch_size=32, shuffle=False, sample_weight=weights, callbacks=[recorder]
    )
    expected = loss_and_error(100, weights)[0]
    assert history.history["loss"][0] == pytest.approx(expected, rel=2e-6)
    assert np.isnan(recorder.of(BatchEnd)[1].batch_logs["loss"])
    assert all(np.isfinite(end.logs["loss"]) for end in recorder.of(BatchEnd))


async def test_a_short_last_batch_is_filled_up_with_rows_of_weight_zero(
    peek: fitbus.Trainer,
) -> None:
    """The step sees one shape, and no value that isn't in the data."""
    for name, expected in (
        ("rows", [4, 4, 4]),
        ("weight", [4, 4, 2]),
        ("first", [0, 4, 8]),
        ("largest", [3, 7, 9]),
    ):
        assert await seen(peek, IDS, batch_size=4, name=name) == [expected]


async def test_fewer_examples_than_a_batch(peek: fitbus.Trainer) -> None:
    """One batch of their number."""
    assert await seen(peek, IDS, batch_size=64, name="rows") == [[10]]
    assert await seen(peek, IDS, batch_size=64, name="weight") == [[10]]


# Prediction.


@pytest.mark.parametrize("n", [1, 3, 4, 5, 10])
async def test_predict_gives_a_row_for_each_example_in_order(peek: fitbus.Trainer, n: int) -> None:
    """Whatever the last batch; outputs may be a tree."""
    outputs = await peek.predict(IDS[:n], batch_size=4)
    np.testing.assert_array_equal(outputs["twice"], 2 * IDS[:n])
    np.testing.assert_array_equal(outputs["square"], IDS[:n, None] ** np.arange(3))
    assert isinstance(outputs["twice"], np.ndarray)


async def test_predict_takes_batches_too_and_leaves_their_targets_alone(
    peek: fitbus.Trainer,
) -> None:
    batches = [(IDS[:4], "no matter"), (IDS[4:8],), IDS[8:]]
    outputs = await peek.predict([(x, None) if isinstance(x, str) else x for x in batches[1:]])
    np.testing.assert_array_equal(outputs["twice"], 2 * IDS[4:])
    outputs = await peek.predict([(IDS[:4], IDS[:4]), (IDS[4:8], IDS[4:8])])
    np.testing.assert_array_equal(outputs["twice"], 2 * IDS[:8])


async def test_predict_and_evaluate_stop_after_steps(peek: fitbus.Trainer) -> None:
    outputs = await peek.predict(IDS, batch_size=4, steps=2)
    np.testing.assert_array_equal(outputs["twice"], 2 * IDS[:8])
    recorder = EventRecorder()
    logs = await peek.evaluate(IDS, batch_size=4, steps=2, callbacks=[recorder])
    assert len(recorder.of(TestBatchEnd)) == 2
    assert logs["loss"] == np.mean(IDS[:8])


# Order.


async def test_without_shuffle_the_order_is_that_of_the_data(peek: fitbus.Trainer) -> None:
    assert await seen(peek, IDS, epochs=3) == [list(IDS)] * 3


async def test_shuffling_gives_each_epoch_another_order(peek: fitbus.Trainer) -> None:
    """Of all examples."""
    epochs = await seen(peek, IDS, shuffle=True, epochs=4)
    assert all(sorted(epoch) == list(IDS) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


async def test_the_order_depends_on_the_seed_alone() -> None:
    """The same for the same seed, whatever NumPy's global state; another one in the next fit."""

    async def order(seed: int) -> list[list[list[float]]]:
        trainer = fitbus.Trainer(Peek(), {"w": np.zeros(1, np.float32)}, seed=seed)
        return [await seen(trainer, IDS, shuffle=True, epochs=2) for _ in range(2)]

    first = await order(1)
    RANDOM.normal()
    assert await order(1) == first
    assert await order(2) != first
    assert first[0] != first[1]


async def test_x_y_and_weights_are_shuffled_together(trainer: fitbus.Trainer) -> None:
    """Else the loss would be another."""
    history = await trainer.fit(X, Y, batch_size=32, sample_weight=WEIGHTS, shuffle=True)
    expected = loss_and_error(100, WEIGHTS)[0]
    assert history.history["loss"][0] == pytest.approx(expected, rel=2e-6)


async def test_validation_data_arent_shuffled(peek: fitbus.Trainer) -> None:
    recorder = EventRecorder()
    await peek.fit(IDS, batch_size=5, epochs=2, validation_data=IDS, callbacks=[recorder])
    ends = recorder.of(TestBatchEnd)
    assert [end.batch_logs["first"] for end in ends] == [0, 5, 0, 5]


# Kinds of data.


async def test_trees_of_arrays(peek: fitbus.Trainer) -> None:
    """A dict is cut along the first dimension of each of its leaves."""
    tree = {"id": IDS, "image": np.zeros((10, 2, 2)), "more": (IDS.astype(np.int64), IDS > 3)}
    assert await seen(peek, tree, tree) == [list(IDS)]


async def test_a_tuple_of_arrays_is_one_input() -> None:
    problem = toy_problem(64, 4, learning_rate=0.0)
    task = fitbus.Supervised(
        apply=lambda params, x: x[0] @ params["w"] + x[1],
        loss=lambda predictions, y: (predictions - y["target"]) ** 2,
        optimizer=problem.task.optimizer,
    )
    trainer = fitbus.Trainer(task, {"w": problem.answer["w"]})
    ones = np.full(64, problem.answer["b"], np.float32)
    history = await trainer.fit((problem.x, ones), {"target": problem.y}, batch_size=64)
    assert history.history["loss"][0] < 1e-3
    outputs = await trainer.predict((problem.x, ones), batch_size=64)
    np.testing.assert_allclose(outputs, problem.y, atol=0.1)


async def test_arrays_of_other_kinds(peek: fitbus.Trainer) -> None:
    """Integers, booleans, float64, lists of numbers, arrays on the device, read-only ones."""
    frozen = IDS.copy()
    frozen.flags.writeable = False
    for x in (IDS.astype(np.int64), IDS.astype(np.float64), jnp.array(IDS), frozen, IDS[::1]):
        assert await seen(peek, x) == [list(IDS)]
    assert await seen(peek, list(IDS), list(IDS)) == [list(IDS)]
    assert await seen(peek, IDS > 4, epochs=1) == [[0] * 5 + [1] * 5]


async def test_device_arrays_shuffled_with_a_short_last_batch(peek: fitbus.Trainer) -> None:
    epochs = await seen(peek, jnp.array(IDS), batch_size=4, shuffle=True, name="weight")
    assert epochs == [[4, 4, 2]]


class Again:
    """Can be gone through again and again, like a data loader."""

    def __init__(self, *batches: Any) -> None:
        self._batches = batches
        self.passes = 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


BATCHES = tuple(IDS[i : i + 1] for i in range(4))


@pytest.mark.parametrize(
    "make",
    [
        lambda: list(BATCHES),
        lambda: [(x,) for x in BATCHES],
        lambda: [(x, x) for x in BATCHES],
        lambda: [(x, x, np.ones(1)) for x in BATCHES],
        lambda: Again(*BATCHES),
        lambda: lambda: iter(BATCHES),
        lambda: lambda: list(BATCHES),
        lambda: lambda: (x for x in BATCHES),
    ],
    ids=["list", "x,", "x, y", "x, y, weight", "iterable", "iterator", "factory", "generator"],
)
async def test_batches_that_can_start_over(peek: fitbus.Trainer, make: Any) -> None:
    """Each epoch is a pass; with `steps_per_epoch` it goes on where the last one stopped."""
    assert await seen(peek, make(), epochs=2) == [[0, 1, 2, 3]] * 2
    epochs = await seen(peek, make(), epochs=3, steps_per_epoch=3)
    assert epochs == [[0, 1, 2], [3, 0, 1], [2, 3, 0]]


async def test_what_has_a_length_says_how_many_steps_an_epoch_has(peek: fitbus.Trainer) -> None:
    recorder = EventRecorder()
    for data in (list(BATCHES), Again(*BATCHES)):
        await peek.fit(data, callbacks=[recorder])
    await peek.fit(iter(BATCHES), callbacks=[recorder])
    await peek.fit(iter(BATCHES), steps_per_epoch=2, callbacks=[recorder])
    await peek.fit(IDS, batch_size=4, callbacks=[recorder])
    assert [e.steps_per_epoch for e in recorder.of(TrainBegin)] == [4, 4, None, 2, 3]


async def test_arrays_with_steps_per_epoch_go_on_and_start_over(peek: fitbus.Trainer) -> None:
    epochs = await seen(peek, IDS, batch_size=2, epochs=3, steps_per_epoch=3)
    assert epochs == [[0, 2, 4], [6, 8, 0], [2, 4, 6]]
    epochs = await seen(peek, IDS, batch_size=2, epochs=1, steps_per_epoch=11)
    assert epochs == [[0, 2, 4, 6, 8] * 2 + [0]]


async def test_arrays_that_start_over_are_shuffled_anew(peek: fitbus.Trainer) -> None:
    """Each pass is another order of all, wherever the epochs end."""
    epochs = await seen(peek, IDS, shuffle=True, epochs=5, steps_per_epoch=4)
    flat = [value for epoch in epochs for value in epoch]
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(IDS)
    assert flat[:10] != flat[10:]


async def test_short_batches_of_an_iterable_are_filled_up_to_the_first_ones_size(
    peek: fitbus.Trainer,
) -> None:
    batches = [IDS[:4], IDS[4:6], IDS[6:10]]
    assert await seen(peek, batches, name="rows") == [[4, 4, 4]]
    assert await seen(peek, batches, name="weight") == [[4, 2, 4]]
    assert await seen(peek, batches, name="largest") == [[3, 5, 9]]
    history = await peek.fit(batches)
    assert history.history["loss"][0] == np.mean(IDS)


async def test_weights_that_come_with_the_batches(trainer: fitbus.Trainer) -> None:
    batches = [(X[i : i + 32], Y[i : i + 32], WEIGHTS[i : i + 32]) for i in range(0, 100, 32)]
    history = await trainer.fit(batches)
    expected = loss_and_error(100, WEIGHTS)[0]
    assert history.history["loss"][0] == pytest.approx(expected, rel=2e-6)


async def test_an_endless_iterator_needs_steps(peek: fitbus.Trainer) -> None:
    epochs = await seen(peek, itertools.cycle(BATCHES), epochs=2, steps_per_epoch=6)
    assert epochs == [[0, 1, 2, 3, 0, 1], [2, 3, 0, 1, 2, 3]]


# What runs out.


@pytest.mark.parametrize(
    ("steps", "expected", "when"),
    [
        (3, [[0, 1, 2], [3]], "after 1 of 3 batches"),
        (2, [[0, 1], [2, 3]], "before the last epoch"),
        (None, [[0, 1, 2, 3]], "before the last epoch"),
    ],
)
async def test_an_iterator_that_is_used_up_ends_training_with_one_warning(
    peek: fitbus.Trainer, steps: int | None, expected: Any, when: str
) -> None:
    """In the middle of an epoch, or between two: no epoch without a batch is begun."""
    recorder = EventRecorder()
    with pytest.warns(RuntimeWarning, match=f"x ran out of data {when}") as caught:
        history = await peek.fit(
            iter(BATCHES), epochs=5, steps_per_epoch=steps, callbacks=[recorder]
        )
    assert len(caught) == 1
    assert history.epoch == list(range(len(expected)))
    batches = [(e.epoch, e.batch_logs["first"]) for e in recorder.of(BatchEnd)]
    assert batches == [(epoch, x) for epoch, xs in enumerate(expected) for x in xs]
    assert recorder.of(TrainEnd)[0].reason == "completed"


async def test_an_iterator_that_lasts_to_the_end_gives_no_warning(peek: fitbus.Trainer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert await seen(peek, iter(BATCHES), epochs=2, steps_per_epoch=2) == [[0, 1], [2, 3]]
        assert await seen(peek, iter(BATCHES)) == [[0, 1, 2, 3]]


async def test_a_generator_used_twice_is_an_error(peek: fitbus.Trainer) -> None:
    generator = (x for x in BATCHES)
    await peek.fit(generator)
    with pytest.raises(DataError, match=r"^x: it gave no batch; was an iterator used before"):
        await peek.fit(generator)


async def test_an_iterator_goes_on_in_the_next_fit(peek: fitbus.Trainer) -> None:
    """It is the caller's: no batch is taken that isn't trained on."""
    iterator = iter(BATCHES)
    assert await seen(peek, iterator, steps_per_epoch=2) == [[0, 1]]
    assert await seen(peek, iterator, steps_per_epoch=2) == [[2, 3]]


@pytest.mark.parametrize("empty", [[], iter(()), lambda: (), Again()])
async def test_no_first_batch_is_an_error(peek: fitbus.Trainer, empty: Any) -> None:
    for call in (peek.fit(empty), peek.evaluate(empty), peek.predict(empty)):
        with pytest.raises(DataError, match=r"^x: it gave no batch"):
            await call


@pytest.mark.parametrize("fused", [1, 2])
def test_a_later_batch_that_the_task_cannot_take_is_told_apart_from_the_first(fused: int) -> None:
    """Its shape may be meant to change, so the task decides; what it raises says what changed."""
    widths = [4, 5, 5, 5]
    batches = [(np.ones((8, w), np.float32), np.ones(8, np.float32)) for w in widths]
    with pytest.raises(TypeError, match="contracting dimensions") as raised:
        fitbus.Trainer(PROBLEM.task, PARAMS).fit_sync(
            lambda: iter(batches), steps_per_execution=fused
        )
    assert any(
        "x of this batch has float32 examples of shape (5,)" in note and "of shape (4,)" in note
        for note in raised.value.__notes__
    )
