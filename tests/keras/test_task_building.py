"""Models that aren't built before their first call, and data of all kinds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import keras
import numpy as np
import pytest

import fitbus
from fitbus.keras import KerasTask

from ._data import sums
from ._pairs import check_close

pytestmark = pytest.mark.slow  # each compiles the programs of a model twice

X, Y = sums(40, seed=5)


def unbuilt() -> Any:
    """A model whose input is unknown, with random numbers also where it isn't trained."""
    keras.utils.set_random_seed(11)
    seeds = keras.random.SeedGenerator(3)
    noise: Any = keras.layers.Lambda(lambda x: x + keras.random.normal((), seed=seeds))
    noise.seeds = seeds  # so that it is tracked
    hidden = keras.layers.Dense(5, activation="relu")
    model = keras.Sequential([hidden, noise, keras.layers.Dense(1)])
    model.compile("adam", "mse", metrics=["mae"])
    return model


def fit(model: Any) -> dict[str, Any]:
    found: Any = model.fit(X, Y, epochs=2, batch_size=16, shuffle=False, verbose=0)
    return dict(found.history)


@pytest.mark.parametrize("first", ["fit", "evaluate", "predict"])
def test_a_model_is_built_by_whatever_comes_first(first: str) -> None:
    """And then trains as one that Keras has built."""
    theirs, ours = unbuilt(), unbuilt()
    trainer = fitbus.Trainer(KerasTask(ours))
    assert not ours.built
    if first == "evaluate":
        expected = theirs.evaluate(X[:32], Y[:32], verbose=0, return_dict=True)
        theirs.layers[1].seeds.state.assign([3, 0])  # in Keras an evaluation uses seeds up
        assert trainer.evaluate_sync(X[:32], Y[:32]) == pytest.approx(expected, rel=1e-5)
    elif first == "predict":
        expected = theirs.predict(X[:32], verbose=0)
        theirs.layers[1].seeds.state.assign([3, 0])  # likewise
        np.testing.assert_allclose(trainer.predict_sync(X[:32]), expected, rtol=1e-5, atol=1e-6)
    history = trainer.fit_sync(X, Y, epochs=2, batch_size=16, shuffle=False).history
    for name, values in fit(theirs).items():
        np.testing.assert_allclose(history[name], values, rtol=1e-5)
    check_close(ours, theirs)


class Batches(keras.utils.PyDataset):  # type: ignore[misc]  # Keras has no types
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        part = slice(16 * index, 16 * index + 16)
        return X[part], Y[part]


def batches() -> Iterator[Any]:
    for index in range(3):
        yield Batches()[index]


async def awaited() -> AsyncIterator[Any]:
    for item in batches():
        yield item


SOURCES: dict[str, Any] = {
    "a list": lambda: list(batches()),
    "a generator": lambda: batches,
    "an async generator": lambda: awaited,
    "a PyDataset": Batches,
}


def built() -> Any:
    keras.utils.set_random_seed(11)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return model


def test_sources_of_batches() -> None:
    """All give what arrays give to Keras; its last batch is short in each."""
    theirs, ours = built(), built()
    expected = fit(theirs)["loss"]
    task = KerasTask(ours)
    trainer = fitbus.Trainer(task)
    first = [np.array(v.value) for v in task.variables.all]
    for name, make in SOURCES.items():
        found = trainer.fit_sync(make(), epochs=2, shuffle=False).history["loss"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=name)
        check_close(ours, theirs)
        for variable, value in zip(task.variables.all, first, strict=True):
            variable.assign(value)


class Turned(Batches):
    """Begins at another batch in each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.first = 0

    def __getitem__(self, index: int) -> Any:
        return super().__getitem__((index + self.first) % 3)

    def on_epoch_end(self) -> None:
        self.first += 1


def test_a_dataset_is_told_of_the_ends_of_epochs() -> None:
    theirs, ours = built(), built()
    theirs.fit(Turned(), epochs=3, shuffle=False, verbose=0)
    data = Turned()
    data.on_epoch_end()  # Keras begins a pass more, to build the model
    fitbus.Trainer(KerasTask(ours)).fit_sync(data, epochs=3, shuffle=False)
    check_close(ours, theirs)
    assert data.first == 4


def test_steps_per_epoch_goes_on_where_it_stopped() -> None:
    theirs, ours = built(), built()
    expected = theirs.fit(
        X[:32], Y[:32], epochs=4, batch_size=8, steps_per_epoch=2, shuffle=False, verbose=0
    )
    trainer = fitbus.Trainer(KerasTask(ours))
    found = trainer.fit_sync(
        X[:32], Y[:32], epochs=2, batch_size=8, steps_per_epoch=2, shuffle=False
    )
    np.testing.assert_allclose(found.history["loss"], expected.history["loss"][:2], rtol=1e-5)
