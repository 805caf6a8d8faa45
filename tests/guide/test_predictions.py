"""Recording what the model makes of a few samples after each epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fitbus
from fitbus.examples.keras_guide import PrintEveryHook, RecordPredictions

pytestmark = pytest.mark.anyio
Array = np.ndarray[Any, Any]


async def test_each_epoch_has_the_predictions_of_its_own_weights(
    trainer: fitbus.Trainer, examples: tuple[Array, Array], by_epoch: Any
) -> None:
    samples = examples[0][:3]
    recorded = RecordPredictions(samples)
    await trainer.fit(*examples, batch_size=500, epochs=4, callbacks=[by_epoch, recorded])
    assert [found.shape for found in recorded.predictions] == [(3,)] * 4
    for found, (w1, b1, w2, b2) in zip(recorded.predictions, by_epoch.weights, strict=True):
        expected = (np.maximum(samples @ w1 + b1, 0) @ w2 + b2)[:, 0]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert len({found.tobytes() for found in recorded.predictions}) == 4
    np.testing.assert_array_equal(recorded.predictions[-1], await trainer.predict(samples))


async def test_a_prediction_inside_a_hook_calls_no_hooks(
    warm_trainer: fitbus.Trainer, examples: tuple[Array, Array]
) -> None:
    lines: list[str] = []
    await warm_trainer.fit(
        *examples,
        batch_size=500,
        callbacks=[RecordPredictions(examples[0][:3]), PrintEveryHook(lines.append)],
    )
    assert lines[-1].startswith("train end")
    assert [line for line in lines if "predict" in line] == []
