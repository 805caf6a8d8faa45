"""Printing the loss and the error: what the numbers in the logs are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fitbus
from fitbus.callbacks import Callback, Logs
from fitbus.examples.keras_guide import PrintLossAndError
from fitbus.testing import EventRecorder

pytestmark = pytest.mark.anyio
Array = np.ndarray[Any, Any]


class LossHistory(Callback):
    """Written in place, as in the guide: keeps the logs of each hook that has some."""

    def __init__(self) -> None:
        self.batches: list[Logs] = []
        self.epochs: list[Logs] = []
        self.test_batches: list[Logs] = []
        self.tests: list[Logs] = []
        self.end: Logs = {}

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self.batches.append(dict(logs or {}))

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self.test_batches.append(dict(logs or {}))

    def on_test_end(self, logs: Logs | None = None) -> None:
        self.tests.append(dict(logs or {}))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.epochs.append(dict(logs or {}))

    def on_train_end(self, logs: Logs | None = None) -> None:
        self.end = dict(logs or {})


async def test_the_last_batch_has_the_means_of_its_epoch(
    warm_trainer: fitbus.Trainer, examples: tuple[Array, Array]
) -> None:
    kept = LossHistory()
    history = await warm_trainer.fit(
        *examples, batch_size=128, epochs=2, validation_split=0.5, callbacks=[kept]
    )
    for epoch in range(2):
        tested = {f"val_{name}": value for name, value in kept.tests[epoch].items()}
        assert kept.epochs[epoch] == kept.batches[4 * epoch + 3] | tested
        assert kept.tests[epoch] == kept.test_batches[4 * epoch + 3]
        assert kept.epochs[epoch] == {
            name: values[epoch] for name, values in history.history.items()
        }
    assert kept.end == kept.epochs[-1]
    assert kept.batches[0]["loss"] != kept.batches[3]["loss"]


async def test_evaluate_returns_the_means_of_its_last_batch(
    warm_trainer: fitbus.Trainer, examples: tuple[Array, Array]
) -> None:
    kept = LossHistory()
    logs = await warm_trainer.evaluate(*examples, batch_size=128, callbacks=[kept])
    assert logs == kept.test_batches[7] == kept.tests[0]
    predictions = await warm_trainer.predict(examples[0])
    errors = np.abs(predictions - examples[1])
    assert logs["mean_absolute_error"] == pytest.approx(errors.mean(), rel=1e-5)
    assert logs["loss"] == pytest.approx((errors**2).mean(), rel=1e-5)


async def test_running_means_weight_batches_by_their_examples(
    warm_trainer: fitbus.Trainer, examples: tuple[Array, Array]
) -> None:
    """500 examples in batches of 128: the last one has 116."""
    recorder = EventRecorder()
    await warm_trainer.fit(
        *examples, batch_size=128, epochs=1, validation_split=0.5, callbacks=[recorder]
    )
    sizes = [128, 128, 128, 116]
    for kind in (fitbus.BatchEnd, fitbus.TestBatchEnd):
        ends = recorder.of(kind)
        for name in ("loss", "mean_absolute_error"):
            own = [end.batch_logs[name] for end in ends]
            means = [np.average(own[:n], weights=sizes[:n]) for n in range(1, 5)]
            assert [end.logs[name] for end in ends] == pytest.approx(means, rel=1e-5)


async def test_the_lines_tell_the_loss_by_batch_and_both_by_epoch(
    warm_trainer: fitbus.Trainer, examples: tuple[Array, Array]
) -> None:
    lines: list[str] = []
    kept = LossHistory()
    await warm_trainer.fit(
        *examples,
        batch_size=256,
        epochs=1,
        validation_split=0.5,
        callbacks=[kept, PrintLossAndError(lines.append)],
    )
    means = kept.epochs[0]
    assert lines == [
        *(f"  up to batch {n}: loss {kept.batches[n]['loss']:.4f}" for n in range(2)),
        *(f"  up to test batch {n}: loss {kept.test_batches[n]['loss']:.4f}" for n in range(2)),
        f"epoch 0: loss {means['loss']:.4f}, error {means['mean_absolute_error']:.4f}",
    ]
