"""What was interrupted goes on where it was, and ends as if nothing had happened, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import fitbus
from fitbus import BatchEnd, EpochBegin, EpochEnd, TrainBegin
from fitbus.callbacks import BackupAndRestore, Callback, EarlyStopping, History
from fitbus.testing import EventRecorder

from ._interrupted import (
    EPOCH,
    TRAINER,
    Interrupted,
    Remembers,
    X,
    Y,
    fail_after,
    interrupted,
    new_trainer,
)
from ._numbers import bits

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("save_freq", "after", "left"),
    [
        ("epoch", 2, 15),
        ("epoch", 8, 10),
        (2, 1, 15),
        (2, 8, 9),
        (3, 13, 3),
        (1, 5, 11),
        (5, 6, 10),
        (7, 15, 1),
    ],
    ids=[
        "before the first backup",
        "the last epoch's end",
        "before the first backup of a batch",
        "within an epoch",
        "counted over epochs",
        "the last batch but one",
        "the end of an epoch, but not yet validated",
        "in the last epoch",
    ],
)
async def test_it_goes_on_with_the_next_batch_and_ends_the_same_bit_for_bit(
    tmp_path: Path, save_freq: Any, after: int, left: int
) -> None:
    """Shuffled arrays, validation, early stopping, history: no batch is done twice."""
    options: Any = {"epochs": 3, "validation_data": (X[:9], Y[:9])}
    recorder = EventRecorder()
    undisturbed = await new_trainer().fit(X, Y, batch_size=8, callbacks=[recorder], **options)
    expected = bits(TRAINER.state)
    stopping = EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    await interrupted(tmp_path / "backup", after, stopping, save_freq=save_freq, **options)
    seen = EventRecorder()
    again = EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    history = await new_trainer().fit(
        X,
        Y,
        batch_size=8,
        callbacks=[again, BackupAndRestore(tmp_path / "backup", save_freq), seen],
        **options,
    )
    assert bits(TRAINER.state) == expected
    assert (history.epoch, history.history) == (undisturbed.epoch, undisturbed.history)
    assert (again.best_epoch, again.best) == (2, undisturbed.history["val_loss"][2])
    ends = seen.of(BatchEnd)
    assert len(ends) == left
    tail = recorder.of(BatchEnd)[-left:]
    assert [(e.step, e.epoch, e.batch, e.logs) for e in ends] == [
        (e.step, e.epoch, e.batch, e.logs) for e in tail
    ]
    begin = (3 * EPOCH - left) // EPOCH if save_freq != 5 else 0
    assert seen.of(TrainBegin)[0].initial_epoch == begin
    assert [e.logs for e in seen.of(EpochEnd)] == [e.logs for e in recorder.of(EpochEnd)[begin:]]
    assert not (tmp_path / "backup").exists()


@pytest.mark.parametrize("steps_per_epoch", [3, 7], ids=["less than a pass", "more than a pass"])
@pytest.mark.parametrize("stopped_early", [False, True])
async def test_an_epoch_that_goes_on_in_the_data_where_the_last_one_stopped(
    tmp_path: Path, steps_per_epoch: int, stopped_early: bool
) -> None:
    """With `steps_per_epoch` too, and where an epoch was asked to end before."""

    def end_early(event: BatchEnd) -> fitbus.StopEpoch | None:
        return fitbus.StopEpoch("enough") if stopped_early and event.step == 2 else None

    early = fitbus.handler(BatchEnd, wait=True)(end_early)
    options: Any = {"epochs": 4, "steps_per_epoch": steps_per_epoch}
    await new_trainer().fit(X, Y, batch_size=8, callbacks=[early], **options)
    expected = bits(TRAINER.state)
    await interrupted(tmp_path, steps_per_epoch + 3, early, save_freq=2, **options)
    callbacks = [BackupAndRestore(tmp_path, 2), early]
    history = await new_trainer().fit(X, Y, batch_size=8, callbacks=callbacks, **options)
    assert bits(TRAINER.state) == expected
    assert history.epoch == [0, 1, 2, 3]


def noting(counts: list[int], seen: Sequence[Remembers]) -> Any:
    def note(event: EpochBegin) -> None:
        counts.extend(c.count for c in seen)

    return note


@pytest.mark.parametrize("place", [0, 1, 2], ids=["first", "between", "last"])
@pytest.mark.parametrize(("save_freq", "count"), [("epoch", 105), (2, 106), (5, 5)])
async def test_what_callbacks_remember_is_that_of_the_boundary_whatever_their_order(
    tmp_path: Path, place: int, save_freq: Any, count: int
) -> None:
    """Taken when all hooks have seen what came before; given back when all have begun anew."""
    counts: list[int] = []
    seen: list[Remembers] = []
    for _ in range(2):
        counts, seen = [], [Remembers(), Remembers()]
        callbacks: list[Callback] = [*seen]
        callbacks.insert(place, BackupAndRestore(tmp_path, save_freq))
        note = noting(counts, seen)
        raising = fail_after(7 if save_freq != 5 else 6)
        with pytest.raises(Interrupted):
            await new_trainer().fit(
                X, Y, batch_size=8, epochs=3, callbacks=[*callbacks, note, raising]
            )
    assert counts[:2] == [count, count]
    resumed = seen[0].resumed
    assert (resumed.epoch, resumed.batch) == ((0, 5) if save_freq == 5 else (1, count - 105))


async def test_a_later_fit_on_the_same_trainer_is_as_any_other(tmp_path: Path) -> None:
    """What was gone on with doesn't stick: `epochs=3` then means three epochs."""
    await interrupted(tmp_path, 8, epochs=2)
    trainer = new_trainer()
    backup = BackupAndRestore(tmp_path)
    first = await trainer.fit(X, Y, batch_size=8, epochs=2, callbacks=[backup])
    later = await trainer.fit(X, Y, batch_size=8, epochs=3, callbacks=[backup])
    assert (first.epoch, later.epoch) == ([0, 1], [0, 1, 2])
    assert int(trainer.state.step) == (2 + 3) * EPOCH
    assert backup.run is not None
    assert backup.run.preparation.resumed is None


async def test_epochs_may_be_more_than_before(tmp_path: Path) -> None:
    options: Any = {"batch_size": 8}
    await new_trainer().fit(X, Y, epochs=4, **options)
    expected = bits(TRAINER.state)
    backup = BackupAndRestore(tmp_path, delete_checkpoint=False)
    await new_trainer().fit(X, Y, epochs=2, callbacks=[backup], **options)
    await new_trainer().fit(X, Y, epochs=4, callbacks=[backup], **options)
    assert bits(TRAINER.state) == expected


async def test_a_backup_of_more_epochs_than_fit_has_is_told_of(tmp_path: Path) -> None:
    backup = BackupAndRestore(tmp_path, delete_checkpoint=False)
    options: Any = {"batch_size": 8, "callbacks": [backup]}
    await new_trainer().fit(X, Y, epochs=2, **options)
    with pytest.warns(
        RuntimeWarning, match=r"backup-\d was taken after 2 epochs.*ends with epoch 1"
    ):
        history = await new_trainer().fit(X, Y, epochs=1, **options)
    assert history.epoch == [0, 1]  # those of before


async def test_other_callbacks_than_before_are_told_of(tmp_path: Path) -> None:
    """What can't be given back, and who gets nothing, is named; the others get theirs."""
    await interrupted(tmp_path, 8, Remembers(), EarlyStopping("loss", patience=9), epochs=3)
    remembers = Remembers()
    with pytest.warns(
        RuntimeWarning, match=r"1 History begin anew and 1 EarlyStopping of the backup"
    ):
        await new_trainer().fit(
            X,
            Y,
            batch_size=8,
            epochs=3,
            callbacks=[BackupAndRestore(tmp_path), remembers, History()],
        )
    assert remembers.count == 315


async def test_one_that_remembers_nothing_keeps_its_place_among_those_of_its_type(
    tmp_path: Path,
) -> None:
    class Sometimes(Callback):
        def __init__(self, kept: dict[str, Any]) -> None:
            self.kept = kept
            self.loaded: Any = None

        def state_dict(self) -> dict[str, Any]:
            return self.kept

        def load_state_dict(self, state: Any) -> None:
            self.loaded = state

    await interrupted(tmp_path, 8, Sometimes({}), Sometimes({"a": 1}), epochs=3)
    first, second = Sometimes({}), Sometimes({"a": 0})
    callbacks = [BackupAndRestore(tmp_path), first, second]
    await new_trainer().fit(X, Y, batch_size=8, epochs=3, callbacks=callbacks)
    assert (first.loaded, second.loaded) == (None, {"a": 1})
