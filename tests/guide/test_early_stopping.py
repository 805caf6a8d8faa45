"""Early stopping at the minimum loss, with the best weights put back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import pytest

import fitbus
from fitbus.examples.keras_guide import CustomLearningRateScheduler, EarlyStoppingAtMinLoss
from fitbus.testing import EventRecorder

if TYPE_CHECKING:
    from .conftest import WeightsByEpoch

pytestmark = pytest.mark.anyio
Array = np.ndarray[Any, Any]


def ruined_at_epoch_3(epoch: int, learning_rate: float) -> float:
    """A schedule under which the loss falls for three epochs, and never again."""
    return 0.01 if epoch < 3 else 100.0


@pytest.mark.parametrize(("patience", "stopped_epoch"), [(0, 3), (1, 3), (2, 4)])
async def test_it_stops_after_patience_and_puts_the_best_weights_back_bit_for_bit(
    trainer: fitbus.Trainer,
    examples: tuple[Array, Array],
    by_epoch: WeightsByEpoch,
    patience: int,
    stopped_epoch: int,
) -> None:
    stopping, recorder = EarlyStoppingAtMinLoss(patience), EventRecorder()
    history = await trainer.fit(
        *examples,
        batch_size=256,
        epochs=10,
        callbacks=[by_epoch, CustomLearningRateScheduler(ruined_at_epoch_3), stopping, recorder],
    )
    losses = history.history["loss"]
    assert losses[0] > losses[1] > losses[2] == stopping.best
    assert min(losses[3:]) > losses[2]
    assert history.epoch == list(range(stopped_epoch + 1))
    assert stopping.stopped_epoch == stopped_epoch
    (end,) = recorder.of(fitbus.TrainEnd)
    assert (end.reason, end.source) == ("stopped", "EarlyStoppingAtMinLoss")

    final = jax.tree.leaves(trainer.state.params)
    for found, best, last in zip(final, by_epoch.weights[2], by_epoch.weights[-1], strict=True):
        assert np.asarray(found).tobytes() == best.tobytes()
        assert best.tobytes() != last.tobytes()


async def test_a_falling_loss_is_never_stopped_and_nothing_is_put_back(
    trainer: fitbus.Trainer, examples: tuple[Array, Array], by_epoch: WeightsByEpoch
) -> None:
    stopping = EarlyStoppingAtMinLoss(patience=1)
    history = await trainer.fit(
        *examples,
        batch_size=256,
        epochs=3,
        callbacks=[by_epoch, CustomLearningRateScheduler(ruined_at_epoch_3), stopping],
    )
    assert (history.epoch, stopping.stopped_epoch) == ([0, 1, 2], 0)
    for found, last in zip(
        jax.tree.leaves(trainer.state.params), by_epoch.weights[-1], strict=True
    ):
        assert np.asarray(found).tobytes() == last.tobytes()


async def test_one_object_serves_a_second_fit_anew(
    trainer: fitbus.Trainer, examples: tuple[Array, Array]
) -> None:
    """The second fit's losses fall too, but are all worse than the first one's best."""
    x, y = examples
    stopping = EarlyStoppingAtMinLoss(patience=1)
    callbacks = [CustomLearningRateScheduler(ruined_at_epoch_3), stopping]
    first = await trainer.fit(x, y, batch_size=256, epochs=3, callbacks=callbacks)
    second = await trainer.fit(x, y + 100, batch_size=256, epochs=3, callbacks=callbacks)
    assert min(second.history["loss"]) > min(first.history["loss"])
    assert second.epoch == [0, 1, 2]
    assert stopping.best == min(second.history["loss"])
