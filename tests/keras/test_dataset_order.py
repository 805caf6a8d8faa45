"""The batches of a `keras.utils.PyDataset`, shuffled as arrays are; and first mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import pytest

import fitbus
from fitbus.callbacks import Callback
from fitbus.errors import InvalidArgumentError
from fitbus.testing import toy_problem

from ._data import one_layer, sums

X, Y = sums(80)


class Dataset(keras.utils.PyDataset):  # type: ignore[misc]  # Keras has no types
    """Ten batches; notes which were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        self.asked.append(index)
        rows = slice(index * 8, index * 8 + 8)
        return X[rows], Y[rows]


def model() -> Any:
    return one_layer(kernel="ones")


def orders(seed: int, **options: Any) -> tuple[list[int], list[int]]:
    """In which order two epochs asked for batches."""
    data = Dataset()
    trainer = fitbus.Trainer(fitbus.keras.KerasTask(model()), seed=seed)
    trainer.fit_sync(data, epochs=2, **options)
    return data.asked[:10], data.asked[10:]


def test_each_epoch_has_an_order_of_its_own_that_the_seed_says() -> None:
    first, second = orders(1)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert (first, second) == orders(1)
    assert (first, second) != orders(2)


def test_unshuffled_and_in_validation_the_order_is_its_own() -> None:
    assert orders(1, shuffle=False) == (list(range(10)), list(range(10)))
    data = Dataset()
    trainer = fitbus.Trainer(fitbus.keras.KerasTask(model()))
    trainer.fit_sync(X, Y, validation_data=data)
    assert data.asked == list(range(10))


def test_a_keras_model_instead_of_a_task_is_told_how_to_be_wrapped() -> None:
    with pytest.raises(InvalidArgumentError, match=r"fitbus\.keras\.KerasTask\(model\)"):
        fitbus.Trainer(model())


@pytest.mark.parametrize("name", ["w.weights.h5", "w.keras"])
def test_weights_are_not_written_under_the_name_of_a_file_of_keras(
    name: str, tmp_path: Path
) -> None:
    class Saves(Callback):
        def on_train_end(self, logs: Any = None) -> None:
            self.model.save_weights(tmp_path / name)

    problem = toy_problem(32)
    trainer = fitbus.Trainer(problem.task, problem.params)
    with pytest.raises(InvalidArgumentError, match=r"\.npz"):
        trainer.fit_sync(problem.x, problem.y, callbacks=[Saves()])
    assert list(tmp_path.iterdir()) == []
