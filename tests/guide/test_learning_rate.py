"""A learning rate by epoch, from a table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fitbus
from fitbus.callbacks import Callback, Logs
from fitbus.examples.keras_guide import CustomLearningRateScheduler, from_table

pytestmark = pytest.mark.anyio
Array = np.ndarray[Any, Any]

EXPECTED = [0.1] * 3 + [0.05] * 3 + [0.01] * 3 + [0.005] * 3 + [0.001] * 3


class RatesByBatch(Callback):
    """Reads the optimizer's own state, not the view of it, at each batch's begin and end."""

    def __init__(self) -> None:
        self.rates: dict[int, list[float]] = {}
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch = epoch
        self.rates[epoch] = []

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        self._read()

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._read()

    def _read(self) -> None:
        assert self.run is not None
        rate: Any = self.run.state.opt_state.hyperparams["learning_rate"]
        self.rates[self._epoch].append(float(rate))


async def test_the_optimizer_state_has_the_tables_rate_during_each_of_15_epochs(
    trainer: fitbus.Trainer, examples: tuple[Array, Array]
) -> None:
    read = RatesByBatch()
    await trainer.fit(
        *examples,
        batch_size=500,
        epochs=15,
        callbacks=[CustomLearningRateScheduler(from_table), read],
    )
    assert read.rates == {
        epoch: [float(np.float32(rate))] * 4 for epoch, rate in enumerate(EXPECTED)
    }


async def test_the_schedule_is_given_the_present_rate(
    trainer: fitbus.Trainer, examples: tuple[Array, Array]
) -> None:
    seen: list[tuple[int, float]] = []

    def halved(epoch: int, learning_rate: float) -> float:
        seen.append((epoch, learning_rate))
        return learning_rate / 2

    await trainer.fit(
        *examples, batch_size=500, epochs=3, callbacks=[CustomLearningRateScheduler(halved)]
    )
    rate = np.float32(0.1)
    assert seen == [(epoch, float(rate / 2**epoch)) for epoch in range(3)]


async def test_a_rate_of_zero_set_as_an_epoch_begins_holds_all_its_steps(
    trainer: fitbus.Trainer, examples: tuple[Array, Array], by_epoch: Any
) -> None:
    """The steps use what is set: with 0 the weights stay, bit for bit, from the first batch on."""
    schedule = CustomLearningRateScheduler(lambda epoch, _: 0.0 if epoch == 1 else 0.1)
    await trainer.fit(*examples, batch_size=500, epochs=3, callbacks=[by_epoch, schedule])
    first, second, third = ([leaf.tobytes() for leaf in weights] for weights in by_epoch.weights)
    assert first == second
    assert second != third
