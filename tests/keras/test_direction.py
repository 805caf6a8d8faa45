"""Which way is better: a metric's name says here what Keras knows of the metric."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from fitbus.callbacks._monitor import Monitor
from fitbus.errors import InvalidArgumentError

REQUIRED = {
    "num_classes": 2,
    "precision": 0.5,
    "recall": 0.5,
    "sensitivity": 0.5,
    "specificity": 0.5,
    "target_class_ids": [0],
}
SAY_NOTHING = {"mean", "sum"}  # fitbus refuses these unless `mode` is given
KERAS_IS_WRONG = {"true_negatives", "true_positives"}  # it takes less for better


def metrics() -> list[Any]:
    """One of each of Keras' metrics, with its default name."""
    import keras

    made: list[Any] = []
    for kind in vars(keras.metrics).values():
        if not (inspect.isclass(kind) and issubclass(kind, keras.metrics.Metric)):
            continue
        if kind.__name__ in ("Metric", "MeanMetricWrapper"):  # to be subclassed
            continue
        needed = {
            name: REQUIRED[name]
            for name, parameter in inspect.signature(kind).parameters.items()
            if parameter.default is parameter.empty and name in REQUIRED
        }
        made.append(kind(**needed))
    return made


def test_every_metric_of_keras_has_its_direction_by_name() -> None:
    """As Keras has it in `mode="auto"`, but where Keras is wrong, or where a name says nothing."""
    found: dict[str, bool | None] = {}
    expected: dict[str, bool | None] = {}
    for metric in metrics():
        expected[metric.name] = getattr(metric, "_direction", None) == "up"
        try:
            found[metric.name] = Monitor("test", metric.name, "auto", 0).check_direction()
        except InvalidArgumentError:
            found[metric.name] = None
    assert len(found) > 35
    assert not any(expected[name] for name in KERAS_IS_WRONG)
    expected |= dict.fromkeys(KERAS_IS_WRONG, True) | dict.fromkeys(SAY_NOTHING)
    assert found == expected


@pytest.mark.parametrize("prefix", ["", "val_"])
def test_so_has_the_loss(prefix: str) -> None:
    assert not Monitor("test", f"{prefix}loss", "auto", 0).check_direction()
