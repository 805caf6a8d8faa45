"""The history as a callback, and how it and the record that `fit` returns see the logs."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fitbus
from fitbus import EpochEnd, StopTraining, TrainEnd
from fitbus.callbacks import History
from fitbus.testing import EventRecorder

from ._logs import Adds

if TYPE_CHECKING:
    from .conftest import Script

pytestmark = pytest.mark.anyio


async def test_it_records_the_logs_of_each_epoch_as_fit_does(script: Script) -> None:
    history = History()
    returned = await script.fit([3, 1, 2], history, validation=[4, 5, 6])
    assert history.epoch == returned.epoch == [0, 1, 2]
    assert history.history == returned.history
    assert history.history["loss"] == [3, 1, 2]
    assert history.history["val_loss"] == [4, 5, 6]
    assert list(history.history) == sorted(history.history)
    assert {type(value) for value in history.history["loss"]} == {float}


async def test_used_again_epochs_begin_anew_and_the_history_goes_on(script: Script) -> None:
    history = History()
    await script.fit([3, 2], history)
    second = await script.fit([5, 6, 7, 8], history, initial_epoch=1)
    assert history.epoch == [1, 2, 3]
    assert history.history["loss"] == [3, 2, 6, 7, 8]
    assert second.history["loss"] == [6, 7, 8]


async def test_where_validation_runs_less_often_its_lists_are_shorter(script: Script) -> None:
    history = History()
    await script.fit([0] * 5, history, validation=[1, 2, 3, 4, 5], validation_freq=2)
    assert history.epoch == [0, 1, 2, 3, 4]
    assert len(history.history["loss"]) == 5
    assert history.history["val_loss"] == [2, 4]


async def test_it_sees_what_callbacks_before_it_add_and_fits_record_sees_all(
    script: Script,
) -> None:
    history = History()
    warmth, temperature = Adds("warmth", [0.5] * 2), Adds("temperature", [20] * 2)
    returned = await script.fit([1, 2], warmth, history, temperature)
    assert history.history["warmth"] == [0.5, 0.5]
    assert "temperature" not in history.history
    assert returned.history["warmth"] == [0.5, 0.5]
    assert returned.history["temperature"] == [20, 20]


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.array(0.5)], ids=["float", "f4", "()"])
async def test_numbers_that_callbacks_add_are_in_the_logs_of_the_end_of_training(
    script: Script, value: Any
) -> None:
    """As in Keras, `on_train_end` has what the last epoch had; the epoch's own event hasn't."""
    recorder = EventRecorder()
    returned = await script.fit([1, 2], Adds("temperature", [value] * 2), recorder)
    (end,) = recorder.of(TrainEnd)
    assert end.logs["temperature"] == 0.5
    assert type(end.logs["temperature"]) is float
    assert returned.history["temperature"] == [0.5, 0.5]
    assert [set(event.logs) for event in recorder.of(EpochEnd)] == [
        set(end.logs) - {"temperature"}
    ] * 2


async def test_what_is_no_number_is_recorded_but_is_in_no_event(script: Script) -> None:
    recorder = EventRecorder()
    returned = await script.fit([1, 2], Adds("note", ["warm"] * 2), recorder)
    assert returned.history["note"] == list[Any](["warm", "warm"])
    assert all("note" not in event.logs for event in recorder.of(TrainEnd))


async def test_a_stopped_training_has_the_epochs_that_ended(script: Script) -> None:
    def stop(event: EpochEnd) -> StopTraining | None:
        return StopTraining() if event.epoch == 1 else None

    history = History()
    returned = await script.fit([3, 2, 1], history, stop)
    assert history.epoch == returned.epoch == [0, 1]
    assert history.history["loss"] == returned.history["loss"] == [3, 2]


async def test_a_failed_training_leaves_the_epochs_that_ended(script: Script) -> None:
    def fail(event: EpochEnd) -> None:
        if event.epoch == 1:
            raise ValueError("no more")

    history = History()
    with pytest.raises(ValueError, match="no more"):
        await script.fit([3, 2, 1], history, fail)
    assert (history.epoch, history.history["loss"]) == ([0, 1], [3, 2])


async def test_evaluation_and_prediction_add_nothing(script: Script) -> None:
    history = History()
    row = np.zeros((1, 16), np.float32)
    await script.trainer.evaluate([row], callbacks=[history])
    await script.trainer.predict([row], callbacks=[history])
    assert (history.epoch, history.history) == ([], {})


async def test_its_state_is_a_copy_and_can_be_loaded(script: Script) -> None:
    history = History()
    await script.fit([3, 2], history)
    state = history.state_dict()
    kept = copy.deepcopy(state)
    await script.fit([1], history)
    assert state == kept != history.state_dict()

    other = History()
    other.load_state_dict(state)
    await script.fit([9, 9, 1], other, initial_epoch=2)
    assert (other.epoch, other.history["loss"]) == ([2], [3, 2, 1])
    assert state == kept


async def test_a_monitor_of_what_nobody_adds_is_refused_beside_it(script: Script) -> None:
    """It reads the logs at the end of an epoch, and adds nothing: that is known before."""
    with pytest.raises(fitbus.errors.InvalidArgumentError, match=r"EarlyStopping\.monitor"):
        await script.fit([1], History(), fitbus.callbacks.EarlyStopping("temperature"))
