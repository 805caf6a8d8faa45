"""What each argument of `fit` means: what it means in Keras, unless it says otherwise."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import fitbus
from fitbus import (
    BatchBegin,
    BatchEnd,
    Callback,
    EpochBegin,
    EpochEnd,
    Event,
    PredictBatchEnd,
    TestBatchEnd,
    TestBegin,
    TestEnd,
    TrainBegin,
    TrainEnd,
    TrainState,
)
from fitbus.testing import EventRecorder

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """One loop is enough: what is asked here is decided in the training thread."""
    return "asyncio"


class Codes:
    """Learns nothing; tells which examples each batch holds, as a sum of powers of two."""

    def _metrics(self, batch: fitbus.Batch) -> Any:
        total = batch.weight.sum()
        mean = (batch.x * batch.weight).sum() / jnp.maximum(total, 1e-9)
        return {
            "held": (2.0**batch.x * (batch.weight > 0)).sum(),
            "loss": (mean, total),
            "weight": total,
        }

    def train_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        return state, self._metrics(batch)

    def eval_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        return self._metrics(batch)

    def predict_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        return batch.x


SHARED = fitbus.Trainer(Codes(), {"w": np.zeros(1, np.float32)})
X = np.arange(10, dtype=np.float32)
HELD_OUT = np.arange(10, 16, dtype=np.float32)


async def told(x: Any = X, y: Any = None, **options: Any) -> EventRecorder:
    """All events of a fit; unshuffled, in batches of two, unless told otherwise."""
    recorder = EventRecorder()
    y = x if y is None and isinstance(x, np.ndarray) else y
    options = {"batch_size": 2, "shuffle": False, **options}
    callbacks = [recorder, options.pop("callbacks", None)]
    await SHARED.fit(x, y, callbacks=callbacks, **options)
    return recorder


def examples(event: BatchEnd | TestBatchEnd) -> list[int]:
    code = int(event.batch_logs["held"])
    return [place for place in range(16) if code >> place & 1]


def batches(recorder: EventRecorder, kind: Any = BatchEnd) -> list[list[list[int]]]:
    """The examples of each batch, epoch by epoch."""
    epochs: dict[int, list[list[int]]] = {}
    for event in recorder.of(kind):
        epochs.setdefault(event.epoch, []).append(examples(event))
    return list(epochs.values())


# Batches and epochs.


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (3, [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]),
        (5, [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]),
        (10, [list(range(10))]),
        (99, [list(range(10))]),
    ],
)
async def test_batch_size(size: int, expected: Any) -> None:
    """The last batch holds what is left; none is left out."""
    recorder = await told(batch_size=size)
    assert batches(recorder) == [expected]
    assert [event.batch for event in recorder.of(BatchEnd)] == list(range(len(expected)))
    assert recorder.of(TrainBegin)[0].steps_per_epoch == len(expected)


async def test_batch_size_is_32_unless_given() -> None:
    recorder = EventRecorder()
    await SHARED.fit(np.zeros(70, np.float32), callbacks=[recorder])
    assert [event.batch_logs["weight"] for event in recorder.of(BatchEnd)] == [32, 32, 6]


async def test_batches_of_an_iterable_are_as_they_come() -> None:
    """`batch_size` has no part in it."""
    recorder = await told([X[:4], X[4:6]], batch_size=3)
    assert batches(recorder) == [[[0, 1, 2, 3], [4, 5]]]


@pytest.mark.parametrize(
    ("initial", "epochs", "expected"),
    [(0, 3, [0, 1, 2]), (2, 4, [2, 3]), (3, 3, []), (5, 2, []), (0, 0, [])],
)
async def test_epochs_is_the_number_of_the_last_one(
    initial: int, epochs: int, expected: list[int]
) -> None:
    """`initial_epoch` is the first one, counted from 0; if it isn't below `epochs`, none is run."""
    recorder = EventRecorder()
    before = int(SHARED.state.step)
    history = await SHARED.fit(
        X, batch_size=5, epochs=epochs, initial_epoch=initial, callbacks=[recorder]
    )
    assert history.epoch == expected
    assert [event.epoch for event in recorder.of(EpochEnd)] == expected
    assert recorder.of(TrainBegin)[0].initial_epoch == initial
    assert recorder.of(TrainBegin)[0].epochs == epochs
    (end,) = recorder.of(TrainEnd)
    assert end.reason == "completed"
    assert int(SHARED.state.step) == before + 2 * len(expected) == end.step
    if not expected:
        assert recorder.names == ["TrainBegin", "TrainEnd"]
        assert not history.history
        assert not end.logs


async def test_initial_epoch_goes_on_from_an_earlier_fit() -> None:
    """The step counts all updates, whatever the epochs are called."""
    before = int(SHARED.state.step)
    first = await told(epochs=2)
    second = await told(epochs=4, initial_epoch=2)
    ends = [*first.of(EpochEnd), *second.of(EpochEnd)]
    assert [(end.epoch, end.step - before) for end in ends] == [(0, 5), (1, 10), (2, 15), (3, 20)]


async def test_steps_per_epoch_goes_on_where_the_last_epoch_stopped() -> None:
    recorder = await told(epochs=4, steps_per_epoch=2)
    assert batches(recorder) == [
        [[0, 1], [2, 3]],
        [[4, 5], [6, 7]],
        [[8, 9], [0, 1]],
        [[2, 3], [4, 5]],
    ]
    assert recorder.of(TrainBegin)[0].steps_per_epoch == 2


@pytest.mark.parametrize("steps", [2, 4, 100])
async def test_steps_per_execution_changes_nothing(steps: int) -> None:
    """Every step is run, told and steered by itself; Keras tells of each n-th one only."""
    with_it = await told(steps_per_execution=steps, epochs=2)
    assert batches(with_it) == batches(await told(epochs=2))


# Order.


async def test_shuffle_takes_all_examples_in_another_order_in_each_epoch() -> None:
    recorder = EventRecorder()
    await SHARED.fit(X, batch_size=1, epochs=3, callbacks=[recorder])  # on unless turned off
    orders = [[example for batch in epoch for example in batch] for epoch in batches(recorder)]
    assert [sorted(order) for order in orders] == [list(range(10))] * 3
    assert len({tuple(order) for order in [*orders, range(10)]}) == 4


async def test_shuffle_leaves_batches_that_are_given_alone() -> None:
    for data in ([X[:2], X[2:4], X[4:6]], lambda: iter([X[:2], X[2:4], X[4:6]])):
        recorder = await told(data, shuffle=True, epochs=2)
        assert batches(recorder) == [[[0, 1], [2, 3], [4, 5]]] * 2


# Validation.


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("split", "train"), [(0.5, 5), (0.2, 8), (0.25, 7), (0.01, 9), (0.8, 1)])
async def test_validation_split_holds_out_the_last_part(
    split: float, train: int, shuffle: bool
) -> None:
    """As it is before shuffling, in its order, never trained on.

    Rounded as in Keras: the part that is left is the floor of a product of floats.
    """
    recorder = await told(validation_split=split, shuffle=shuffle, epochs=2, batch_size=1)
    for epoch in batches(recorder):
        assert sorted(epoch) == [[place] for place in range(train)]
    assert batches(recorder, TestBatchEnd) == [[[place] for place in range(train, 10)]] * 2


async def test_validation_split_takes_the_weights_along() -> None:
    weight = np.arange(1, 11, dtype=np.float32)
    recorder = await told(validation_split=0.3, sample_weight=weight)
    (end,) = recorder.of(EpochEnd)
    assert end.logs["loss"] == pytest.approx(np.average(X[:7], weights=weight[:7]))
    assert end.logs["val_loss"] == pytest.approx(np.average(X[7:], weights=weight[7:]))


async def test_validation_data_goes_before_validation_split() -> None:
    """All examples are trained on then, as in Keras."""
    recorder = await told(validation_data=(HELD_OUT, HELD_OUT), validation_split=0.5)
    assert batches(recorder) == [[[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]]
    assert batches(recorder, TestBatchEnd) == [[[10, 11], [12, 13], [14, 15]]]


WEIGHT = np.array([1, 0, 2, 0, 0, 1], np.float32)


@pytest.mark.parametrize(
    ("data", "held", "mean"),
    [
        ((HELD_OUT, HELD_OUT), [[10, 11], [12, 13], [14, 15]], 12.5),
        ((HELD_OUT,), [[10, 11], [12, 13], [14, 15]], 12.5),
        (HELD_OUT, [[10, 11], [12, 13], [14, 15]], 12.5),
        ((HELD_OUT, None), [[10, 11], [12, 13], [14, 15]], 12.5),
        ((HELD_OUT, HELD_OUT, WEIGHT), [[10], [12], [15]], 49 / 4),
        ((HELD_OUT, None, WEIGHT), [[10], [12], [15]], 49 / 4),
        ([HELD_OUT[:4], HELD_OUT[4:]], [[10, 11, 12, 13], [14, 15]], 12.5),
        ([(HELD_OUT, HELD_OUT, WEIGHT)], [[10, 12, 15]], 49 / 4),
        (lambda: iter([HELD_OUT[:3]]), [[10, 11, 12]], 11),
    ],
    ids=["x y", "x,", "x", "x None", "x y w", "x None w", "batches", "batch with w", "factory"],
)
async def test_validation_data(data: Any, held: Any, mean: float) -> None:
    """Arrays with or without targets and weights, or batches: whole, anew in each epoch."""
    recorder = await told(validation_data=data, epochs=2)
    assert batches(recorder, TestBatchEnd) == [held] * 2
    assert [end.logs["loss"] for end in recorder.of(TestEnd)] == [pytest.approx(mean)] * 2
    assert [end.logs["val_loss"] for end in recorder.of(EpochEnd)] == [pytest.approx(mean)] * 2
    assert [end.logs["loss"] for end in recorder.of(EpochEnd)] == [4.5] * 2


async def test_validation_comes_between_the_last_batch_and_the_end_of_the_epoch() -> None:
    recorder = await told(X[:2], validation_data=X[:1])
    assert [event.__class__ for event in recorder.events[1:-1]] == [
        EpochBegin,
        BatchBegin,
        BatchEnd,
        TestBegin,
        fitbus.TestBatchBegin,
        TestBatchEnd,
        TestEnd,
        EpochEnd,
    ]


async def test_validation_batch_size() -> None:
    """For arrays; `batch_size` unless given."""
    data = (HELD_OUT, HELD_OUT, WEIGHT)
    recorder = await told(validation_data=data, validation_batch_size=4)
    assert [len(epoch) for epoch in batches(recorder)] == [5]
    assert batches(recorder, TestBatchEnd) == [[[10, 12], [15]]]
    assert recorder.of(TestEnd)[0].logs["loss"] == pytest.approx(49 / 4)
    recorder = await told(validation_split=0.4, validation_batch_size=3)
    assert batches(recorder, TestBatchEnd) == [[[6, 7, 8], [9]]]


async def test_validation_steps_are_the_first_batches_each_time() -> None:
    """As in Keras, where a repeating dataset starts over too; the means are theirs."""
    recorder = await told(validation_data=HELD_OUT, validation_steps=2, epochs=2)
    assert batches(recorder, TestBatchEnd) == [[[10, 11], [12, 13]]] * 2
    assert [end.logs["loss"] for end in recorder.of(TestEnd)] == [11.5] * 2


@pytest.mark.parametrize(
    ("freq", "expected"),
    [
        (1, [0, 1, 2, 3, 4, 5]),
        (2, [1, 3, 5]),
        (4, [3]),
        (7, []),
        ([1, 5], [0, 4]),
        ({2, 99}, [1]),
        ((6, 6), [5]),
        (range(2, 4), [1, 2]),
        ([], []),
    ],
)
async def test_validation_freq(freq: Any, expected: list[int]) -> None:
    """Each n-th epoch, or the epochs of these numbers, counted from 1."""
    recorder = await told(validation_data=HELD_OUT, validation_freq=freq, epochs=6)
    assert [event.epoch for event in recorder.of(TestEnd)] == expected
    with_values = [end.epoch for end in recorder.of(EpochEnd) if "val_loss" in end.logs]
    assert with_values == expected


async def test_validation_freq_counts_epochs_from_the_first_of_all() -> None:
    """Not from `initial_epoch`."""
    recorder = await told(validation_data=HELD_OUT, validation_freq=3, epochs=7, initial_epoch=2)
    assert [event.epoch for event in recorder.of(TestEnd)] == [2, 5]


# Weights.


async def test_sample_weight_weighs_the_means() -> None:
    """By example, over all batches; not batch by batch."""
    weight = np.array([0, 3, 1, 1, 0, 0, 2.5, 0.5, 4, 1], np.float32)
    recorder = await told(sample_weight=weight)
    assert recorder.of(EpochEnd)[0].logs["loss"] == pytest.approx(np.average(X, weights=weight))
    assert batches(recorder) == [[[1], [2, 3], [], [6, 7], [8, 9]]]
    ends = recorder.of(BatchEnd)
    assert [end.batch_logs["weight"] for end in ends] == [3, 2, 0, 3, 5]
    running = [1, 8 / 5, 8 / 5, (8 + 18.5) / 8, (8 + 18.5 + 41) / 13]
    assert [end.logs["loss"] for end in ends] == pytest.approx(running)


LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 5])
BY_CLASS = np.array([2, 1, 0, 2, 1, 0, 2, 1, 0, 3], np.float32)


@pytest.mark.parametrize(
    "y",
    [LABELS, LABELS[:, None], LABELS.astype(np.float32), np.eye(6)[LABELS], jnp.array(LABELS)],
    ids=["labels", "column", "floats", "one-hot", "on the device"],
)
async def test_class_weight(y: Any) -> None:
    """A weight for each label, 1 for those that aren't named."""
    recorder = await told(X, y, class_weight={0: 2, 2: 0, 5: 3.0}, batch_size=1)
    assert [end.batch_logs["weight"] for end in recorder.of(BatchEnd)] == BY_CLASS.tolist()
    assert recorder.of(EpochEnd)[0].logs["loss"] == pytest.approx(np.average(X, weights=BY_CLASS))


async def test_class_weight_multiplies_into_sample_weight_and_spares_validation() -> None:
    weight = np.linspace(0.5, 5, 10).astype(np.float32)
    options: Any = {"class_weight": {0: 2, 2: 0, 5: 3.0}, "validation_data": (X, LABELS)}
    recorder = await told(X, LABELS, sample_weight=weight, batch_size=1, **options)
    both = BY_CLASS * weight
    assert [end.batch_logs["weight"] for end in recorder.of(BatchEnd)] == pytest.approx(both)
    assert recorder.of(EpochEnd)[0].logs["loss"] == pytest.approx(np.average(X, weights=both))
    assert recorder.of(EpochEnd)[0].logs["val_loss"] == pytest.approx(4.5)


async def test_class_weight_with_batches() -> None:
    ones = np.ones(5, np.float32)
    given = [(X[:5], LABELS[:5]), (X[5:], LABELS[5:], 2 * ones)]
    recorder = await told(given, class_weight={0: 2, 2: 0, 5: 3.0})
    weights = [end.batch_logs["weight"] for end in recorder.of(BatchEnd)]
    assert weights == [BY_CLASS[:5].sum(), 2 * BY_CLASS[5:].sum()]


# What is told.


async def test_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is printed unless asked for."""
    await told()
    await told(verbose=0)
    assert capsys.readouterr() == ("", "")
    await told(verbose=1, epochs=2)
    printed = capsys.readouterr()
    assert "loss" in printed.out + printed.err


@pytest.mark.parametrize(("verbose", "number"), [(0, 0), (1, 1), ("auto", 1), (2, 2)])
async def test_params_and_history_tell_verbose_as_a_number(
    verbose: Any, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """And something is printed unless it is 0."""
    found: list[int] = []

    class Looks(Callback):
        def set_params(self, params: Any) -> None:
            found.append(params["verbose"])

    history = await SHARED.fit(X, batch_size=5, verbose=verbose, callbacks=[Looks()])
    await SHARED.evaluate(X, batch_size=5, verbose=verbose, callbacks=[Looks()])
    await SHARED.predict(X, batch_size=5, verbose=verbose, callbacks=[Looks()])
    assert found == [number] * 3
    assert history.params["verbose"] == number
    assert len(capsys.readouterr().out.splitlines()) == (3 if number else 0)


async def test_no_batch_size_means_32() -> None:
    """In `fit`, `run`, `evaluate` and `predict`, also beside a run and in `self.model`."""
    data = np.zeros((65, *X.shape[1:]), X.dtype)
    batches: list[str] = []

    @fitbus.handler(BatchEnd, TestBatchEnd, PredictBatchEnd)
    def note(event: Event) -> None:
        batches.append(type(event).__name__)

    def nested(event: EpochEnd) -> None:
        view = run.model("a test")
        view.evaluate(data, batch_size=None, callbacks=[note])
        view.predict(data, batch_size=None, callbacks=[note])

    options: Any = {"batch_size": None, "callbacks": [note]}
    await SHARED.fit(data, validation_data=data, validation_batch_size=None, **options)
    await SHARED.evaluate(data, **options)
    await SHARED.predict(data, **options)
    assert batches == [
        *["BatchEnd"] * 3,
        *["TestBatchEnd"] * 6,
        *["PredictBatchEnd"] * 3,
    ]
    batches.clear()
    run = SHARED.run(data, batch_size=None)
    run.add(nested)
    async with run:
        await run.wait()
        await run.evaluate(data, **options)
        await run.predict(data, **options)
    assert batches == [*["TestBatchEnd"] * 3, *["PredictBatchEnd"] * 3] * 2


class Hooks(Callback):
    def __init__(self, told: list[str], name: str) -> None:
        self.told, self.name = told, name

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.told.append(self.name)


async def test_callbacks_in_nested_lists_are_called_in_order() -> None:
    """Objects, handlers and None, in lists and tuples of any depth, or one by itself."""
    told_of: list[str] = []

    def handler(event: EpochEnd) -> None:
        told_of.append("b")

    def last(event: Event) -> None:
        if isinstance(event, EpochEnd):
            told_of.append("e")

    nested = [Hooks(told_of, "a"), [handler, None, ([Hooks(told_of, "c")], Hooks(told_of, "d"))]]
    await told(callbacks=[nested, [], last])
    assert told_of == ["a", "b", "c", "d", "e"]
    await SHARED.fit(X, batch_size=5, callbacks=Hooks(told_of, "f"))  # type: ignore[arg-type]  # as in Keras
    await SHARED.fit(X, batch_size=5, callbacks=handler)  # type: ignore[arg-type]
    await SHARED.fit(X, batch_size=5, callbacks=(hook for hook in [Hooks(told_of, "g")]))
    assert told_of[5:] == ["f", "b", "g"]


async def test_callbacks_live_for_one_call() -> None:
    told_of: list[str] = []
    await told(callbacks=[Hooks(told_of, "a")])
    await told(epochs=3)
    assert told_of == ["a"]
    assert SHARED.bus.statistics().subscriptions == ()
