"""Several inputs and outputs as Keras' users write them: as lists."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import fitbus
from fitbus.keras import KerasTask

RANDOM = np.random.default_rng(0)
A, B, Y, Z = (RANDOM.normal(size=(32, n)).astype("float32") for n in (4, 3, 1, 2))


def model() -> Any:
    keras.utils.set_random_seed(1)
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    hidden = keras.layers.concatenate([a, b])
    outputs = [keras.layers.Dense(n, name=name)(hidden) for n, name in ((1, "y"), (2, "z"))]
    made = keras.Model([a, b], outputs)
    made.compile("sgd", ["mse", "mae"])
    return made


@pytest.mark.parametrize(
    "options",
    [
        {"validation_data": ([A, B], [Y, Z])},
        {"validation_split": 0.25},
        {"sample_weight": [np.ones(32), np.linspace(0, 1, 32)]},
    ],
    ids=["validation_data", "validation_split", "sample_weight"],
)
def test_lists_train_as_in_keras(options: dict[str, Any]) -> None:
    common: Any = {"batch_size": 16, "epochs": 2, "shuffle": False, **options}
    expected = model().fit([A, B], [Y, Z], verbose=0, **common).history
    found = fitbus.Trainer(KerasTask(model())).fit_sync([A, B], [Y, Z], **common).history
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-4), name


def test_a_list_to_predict_is_one_of_batches_and_a_tuple_is_not() -> None:
    """Keras would take it for the inputs; the error says what to give."""
    made = model()
    trainer = fitbus.Trainer(KerasTask(made))
    for found, expected in zip(
        trainer.predict_sync((A, B)), made.predict([A, B], verbose=0), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(Warning, match="The structure of `inputs` doesn't match") as caught:
        trainer.predict_sync([A, B])
    assert any("given as a tuple: (a, b)" in note for note in caught.value.__notes__)
