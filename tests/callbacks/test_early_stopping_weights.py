"""What early stopping puts back, prints, keeps for a checkpoint, and how it serves again."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fitbus
from fitbus import EpochEnd, StopTraining
from fitbus.callbacks import Callback, EarlyStopping, Logs

if TYPE_CHECKING:
    from .conftest import Script, WeightsByEpoch

pytestmark = pytest.mark.anyio

NAN = math.nan


@pytest.mark.parametrize(
    ("losses", "given", "epochs", "best_epoch"),
    [
        ([3, 1, 2, 2, 2], {"patience": 3}, 5, 1),
        ([3, 1, 2, 0], {"patience": 2}, 4, 3),
        ([0.9, 0.8, 0.7, 0.71, 0.72, 0.73], {"baseline": 0.5, "patience": 5}, 5, 2),
        ([1, 2, 3], {"baseline": 0.5, "patience": 9}, 3, 0),
        ([1, 5, 4, 3, 4], {"start_from_epoch": 2}, 5, 3),
        ([NAN, 5, 4, 6], {}, 4, 2),
        ([NAN, NAN, NAN], {"patience": 9}, 3, 0),
        ([1, NAN, NAN], {"patience": 9, "start_from_epoch": 1}, 3, 1),
        ([2, 1.75, 1.5, 1.25], {"min_delta": 1, "patience": 9}, 4, 0),
    ],
    ids=[
        "stopped",
        "the last epoch is the best",
        "a baseline out of reach",
        "the first epoch, though it does not beat the baseline",
        "of the epochs that are judged",
        "a first NaN",
        "nothing but NaN: the first epoch",
        "nothing but NaN: the first one that is judged",
        "the best is what improved, not the least",
    ],
)
async def test_the_weights_of_the_best_epoch_are_put_back_bit_for_bit(
    script: Script,
    by_epoch: WeightsByEpoch,
    losses: list[float],
    given: dict[str, Any],
    epochs: int,
    best_epoch: int,
) -> None:
    stopping = EarlyStopping("loss", restore_best_weights=True, **given)
    history = await script.fit(losses, by_epoch, stopping)
    assert len(history.epoch) == epochs
    assert (stopping.best_epoch, script.epoch) == (best_epoch, best_epoch)
    assert script.weights() == by_epoch.weights[best_epoch]
    assert len({tuple(weights) for weights in by_epoch.weights}) == epochs


async def test_unless_asked_to_it_keeps_no_weights_and_leaves_the_last_ones(
    script: Script, by_epoch: WeightsByEpoch
) -> None:
    stopping = EarlyStopping("loss")
    await script.fit([2, 1, 2, 2], by_epoch, stopping)
    assert stopping.best_epoch == 1
    assert stopping.best_weights is None
    assert script.weights() == by_epoch.weights[2] != by_epoch.weights[1]


async def test_an_epoch_before_the_first_judged_one_is_never_put_back(
    script: Script, by_epoch: WeightsByEpoch
) -> None:
    stopping = EarlyStopping("loss", restore_best_weights=True, start_from_epoch=5)
    await script.fit([1, 2, 3], by_epoch, stopping)
    assert stopping.best_weights is None
    assert script.weights() == by_epoch.weights[2]


@pytest.mark.parametrize("first", [True, False], ids=["asks first", "asks last"])
async def test_it_puts_them_back_when_another_callback_stopped_training(
    script: Script, by_epoch: WeightsByEpoch, first: bool
) -> None:
    def stop(event: EpochEnd) -> StopTraining | None:
        return StopTraining("enough") if event.epoch == 2 else None

    stopping = EarlyStopping("loss", patience=9, restore_best_weights=True)
    order = [stop, stopping] if first else [stopping, stop]
    await script.fit([2, 1, 3, 4], by_epoch, *order)
    assert stopping.stopped_epoch == 0
    assert script.weights() == by_epoch.weights[1]


async def test_it_puts_them_back_when_training_fails(
    script: Script, by_epoch: WeightsByEpoch
) -> None:
    def fail(event: EpochEnd) -> None:
        if event.epoch == 2:
            raise ValueError("no more")

    stopping = EarlyStopping("loss", patience=9, restore_best_weights=True)
    with pytest.raises(ValueError, match="no more"):
        await script.fit([2, 1, 3, 4], by_epoch, stopping, fail)
    assert script.weights() == by_epoch.weights[1]


async def test_two_of_them_each_watch_their_own_and_the_last_one_restores(
    script: Script, by_epoch: WeightsByEpoch
) -> None:
    of_loss = EarlyStopping("loss", patience=3, restore_best_weights=True)
    of_val_loss = EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    history = await script.fit(
        [4, 3, 2, 1, 0, 0], by_epoch, of_loss, of_val_loss, validation=[3, 1, 2, 2, 2, 2]
    )
    assert history.epoch == [0, 1, 2, 3]
    assert (of_loss.stopped_epoch, of_loss.best_epoch) == (0, 3)
    assert (of_val_loss.stopped_epoch, of_val_loss.best_epoch) == (3, 1)
    assert script.weights() == by_epoch.weights[1]


async def test_verbose_says_when_it_stopped_and_what_it_restored_counted_from_1(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    await script.fit([2, 1, 2], EarlyStopping("loss", verbose=1, restore_best_weights=True))
    assert capsys.readouterr().out == (
        "Epoch 3: early stopping\nRestoring model weights from the end of the best epoch: 2.\n"
    )


async def test_verbose_says_nothing_of_a_stop_that_was_none(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    await script.fit([3, 2, 1], EarlyStopping("loss", verbose=1))
    await script.fit([2, 1, 2], EarlyStopping("loss", restore_best_weights=True))
    assert capsys.readouterr().out == ""


async def test_it_serves_a_second_fit_anew(script: Script, by_epoch: WeightsByEpoch) -> None:
    """All values of the second one are worse than the first one's best."""
    stopping = EarlyStopping("loss", patience=2, restore_best_weights=True)
    await script.fit([2, 1, 2, 2, 2], stopping)
    assert (stopping.stopped_epoch, stopping.best, stopping.best_epoch) == (3, 1, 1)
    history = await script.fit([9, 8, 7, 8], by_epoch, stopping)
    assert history.epoch == [0, 1, 2, 3]
    assert (stopping.stopped_epoch, stopping.best, stopping.best_epoch) == (0, 7, 2)
    assert (stopping.wait, script.weights()) == (1, by_epoch.weights[2])


class Resumes(Callback):
    """Gives another callback its state back as training begins; put it after that one."""

    def __init__(self, stopping: EarlyStopping, state: dict[str, Any]) -> None:
        self.stopping, self.state = stopping, state

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.stopping.load_state_dict(self.state)


async def test_with_its_state_another_one_goes_on_where_it_was(
    script: Script, by_epoch: WeightsByEpoch
) -> None:
    """In two halves it stops in the same epoch, with the same weights, as in one piece."""
    losses = [3, 1, 2, 2, 2, 2]
    whole = EarlyStopping("loss", patience=3, restore_best_weights=True)
    await script.fit(losses, by_epoch, whole)
    assert whole.stopped_epoch == 4

    first = EarlyStopping("loss", patience=3, restore_best_weights=True)
    await script.fit(losses[:3], first)
    second = EarlyStopping("loss", patience=3, restore_best_weights=True)
    history = await script.fit(losses, second, Resumes(second, first.state_dict()), initial_epoch=3)
    assert history.epoch == [3, 4]
    assert (second.stopped_epoch, second.best, second.best_epoch) == (4, 1, 1)
    assert script.weights() == by_epoch.weights[1]


async def test_its_state_is_plain_values_and_arrays(script: Script) -> None:
    stopping = EarlyStopping("loss", patience=5, restore_best_weights=True)
    assert stopping.state_dict() == {
        "wait": 0,
        "stopped_epoch": 0,
        "best": None,
        "best_epoch": 0,
        "best_weights": None,
    }
    await script.fit([2, 1, 2], stopping)
    state = stopping.state_dict()
    weights = state.pop("best_weights")
    assert state == {"wait": 1, "stopped_epoch": 0, "best": 1, "best_epoch": 1}
    assert type(state["best"]) is float
    assert [type(weight) for weight in weights] == [np.ndarray, np.ndarray]


async def test_a_stop_by_hand_in_the_same_epoch_doesnt_disturb_it(script: Script) -> None:
    class Stops(fitbus.Callback):
        def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
            if epoch == 2:
                self.model.stop_training = True

    stopping = EarlyStopping("loss", restore_best_weights=True)
    history = await script.fit([2, 1, 2, 0], Stops(), stopping)
    assert (history.epoch, stopping.stopped_epoch, script.epoch) == ([0, 1, 2], 2, 1)
