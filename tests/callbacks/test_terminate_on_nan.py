"""Where a loss that is NaN or infinite ends training, and what isn't taken for one.

Scenario 29.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest

import fitbus
from fitbus.callbacks import Callback, Logs, TerminateOnNaN
from fitbus.errors import InvalidArgumentError
from fitbus.events import BatchEnd, EpochEnd, TestEnd, TrainEnd
from fitbus.testing import EventRecorder
from fitbus.train import Batch, TrainState

pytestmark = pytest.mark.anyio

NAN, INF = math.nan, math.inf


class Scripted:
    """Its loss is what the data say, weighted; nothing is learned."""

    def __init__(self, name: str = "loss") -> None:
        self.name = name

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Any]:
        return state, self.eval_step(state, batch)

    def eval_step(self, state: TrainState, batch: Batch) -> Any:
        return {self.name: (batch.x[0], batch.weight[0])}

    def predict_step(self, state: TrainState, batch: Batch) -> Any:
        return batch.x


def trainer_of(task: Any) -> fitbus.Trainer:
    return fitbus.Trainer(task, {"w": np.zeros(1, np.float32)})


TRAINER = trainer_of(Scripted())


async def fit(losses: Sequence[float], *callbacks: Any, **given: Any) -> fitbus.History:
    """A batch for each loss."""
    return await TRAINER.fit(
        np.asarray(losses, np.float32), batch_size=1, shuffle=False, callbacks=callbacks, **given
    )


@pytest.mark.parametrize("wrong", [NAN, INF, -INF])
async def test_it_stops_at_the_batch(wrong: float, capsys: pytest.CaptureFixture[str]) -> None:
    """No update more; then the epoch is validated and ended, and the reason is told."""
    recorder = EventRecorder()
    history = await fit(
        [1, 2, wrong, 4, 5],
        TerminateOnNaN(),
        recorder,
        epochs=3,
        validation_data=[np.ones(1, np.float32)],
    )
    assert [event.batch for event in recorder.of(BatchEnd)] == [0, 1, 2]
    assert len(recorder.of(TestEnd)) == len(recorder.of(EpochEnd)) == 1
    assert history.epoch == [0]
    (end,) = recorder.of(TrainEnd)
    assert (end.reason, end.source) == ("stopped", "TerminateOnNaN")
    assert end.detail == f"the loss was {wrong} at batch 2"
    assert capsys.readouterr().out == f"Batch 2: the loss is {wrong}; training ends.\n"


async def test_it_raises_where_asked_to() -> None:
    """As itself; `on_train_end` is called all the same, and there is no update more."""
    ended: list[Any] = []

    class Ends(Callback):
        def on_train_end(self, logs: Logs | None = None) -> None:
            assert self.run is not None
            ended.append(self.run.end_reason)

    recorder = EventRecorder()
    with pytest.raises(RuntimeError, match="NaN or Inf loss encountered at batch 1: it is inf"):
        await fit([1, INF, 3, 4], TerminateOnNaN(raise_error=True), Ends(), recorder)
    assert ended == ["failed"]
    assert [event.batch for event in recorder.of(BatchEnd)] == [0, 1]


@pytest.mark.parametrize("weights", [[0, 0, 1, 1], [1, 0, 0, 1], [1, 1, 1, 0], [0, 0, 0, 1]])
@pytest.mark.parametrize("hidden", [1.0, NAN])
async def test_batches_without_weight_have_no_loss_and_stop_nothing(
    weights: list[float], hidden: float
) -> None:
    """Whatever their rows hold, first in the epoch or later, and the mean is NaN in the logs."""
    losses = [1.0 if weight else hidden for weight in weights]
    recorder = EventRecorder()
    callbacks = [TerminateOnNaN(raise_error=True), TerminateOnNaN(), recorder]
    history = await fit(losses, *callbacks, epochs=2, sample_weight=np.asarray(weights))
    assert [event.batch for event in recorder.of(BatchEnd)] == [0, 1, 2, 3] * 2
    seen = [math.isnan(event.batch_logs["loss"]) for event in recorder.of(BatchEnd)]
    assert seen == [weight == 0 for weight in weights] * 2
    assert history.epoch == [0, 1]


async def test_a_wrong_loss_after_batches_without_weight_stops() -> None:
    recorder = EventRecorder()
    weights = np.asarray([0, 0, 1, 1], np.float32)
    await fit([NAN, 1, NAN, 1], TerminateOnNaN(), recorder, sample_weight=weights)
    assert [event.batch for event in recorder.of(BatchEnd)] == [0, 1, 2]


async def test_one_that_was_hidden_by_the_mean_of_an_epoch_begins_anew_in_the_next() -> None:
    """A first batch of an epoch is looked at as any other."""
    recorder = EventRecorder()
    await fit([1, 1, NAN, 1], TerminateOnNaN(), recorder, steps_per_epoch=2, epochs=5)
    assert [event.epoch for event in recorder.of(BatchEnd)] == [0, 0, 1]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' own
def test_it_stops_where_keras_does() -> None:
    """Of random losses, with and without something wrong in them."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    random = np.random.default_rng(5)
    for _ in range(30):
        losses = random.normal(size=6)
        losses[random.random(6) < 0.15] = random.choice([NAN, INF, -INF])
        theirs = keras.callbacks.TerminateOnNaN()
        theirs.set_model(model)
        model.stop_training = False
        expected = 0
        while expected < 6 and not model.stop_training:
            mean = float(np.mean(losses[: expected + 1]))
            theirs.on_batch_end(expected, {"loss": mean})
            expected += 1
        recorder = EventRecorder()
        TRAINER.fit_sync(
            losses.astype(np.float32),
            batch_size=1,
            shuffle=False,
            callbacks=[TerminateOnNaN(), recorder],
        )
        assert len(recorder.of(BatchEnd)) == expected, losses


async def test_it_can_be_used_again() -> None:
    callback = TerminateOnNaN()
    for losses, batches in (([1.0, NAN, 1.0], 2), ([1.0, 1.0, 1.0], 3), ([INF, 1.0], 1)):
        recorder = EventRecorder()
        await fit(losses, callback, recorder)
        assert len(recorder.of(BatchEnd)) == batches
    assert callback.state_dict() == {}


async def test_a_task_without_a_loss_is_refused_before_the_first_step() -> None:
    trainer = trainer_of(Scripted("error"))
    with pytest.raises(InvalidArgumentError, match=r"watches 'loss', .* will have \['error'\]"):
        await trainer.fit(np.ones(2, np.float32), batch_size=1, callbacks=[TerminateOnNaN()])
    assert int(trainer.state.step) == 0


@pytest.mark.parametrize("value", [None, 1, "yes"])
def test_an_argument_out_of_range_is_refused_with_its_name(value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"TerminateOnNaN\.raise_error: found"):
        TerminateOnNaN(raise_error=value)
