"""The curves that TensorBoard gets: their names, steps and values are Keras'."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fitbus import BatchEnd, EpochEnd, TestEnd
from fitbus.callbacks import Callback, Logs, TensorBoard
from fitbus.testing import EventRecorder

from ._tensorboard_reading import Records, Toy, as_float32, folders
from ._waits import waits

if TYPE_CHECKING:
    from .conftest import Script

pytestmark = pytest.mark.anyio

NAMES = ("loss", "mean_absolute_error")


async def test_an_epoch_has_its_logs_and_the_learning_rate_where_keras_has_them(
    toy: Toy, tmp_path: Path
) -> None:
    recorder = EventRecorder()
    await toy.fit(TensorBoard(tmp_path), recorder, validation_split=0.25)
    epochs = recorder.of(EpochEnd)
    for folder, prefix in (("train", ""), ("validation", "val_")):
        found = Records(tmp_path / folder)
        for name in NAMES:
            wanted = [(e.epoch, as_float32(e.logs[prefix + name])) for e in epochs]
            assert found.scalars(f"epoch_{name}") == wanted
    train = Records(tmp_path / "train")
    assert train.scalars("epoch_learning_rate") == [(0, as_float32(0.1)), (1, as_float32(0.1))]
    names = {f"epoch_{name}" for name in (*NAMES, "learning_rate")}
    assert set(train.tags) == names | {"train_step"}
    validation = {f"epoch_{name}" for name in NAMES}
    validation |= {f"evaluation_{name}_vs_iterations" for name in NAMES}
    assert set(Records(tmp_path / "validation").tags) == validation


@pytest.mark.parametrize(("update_freq", "every"), [("batch", 1), (1, 1), (3, 3)])
async def test_batches_have_their_running_means_at_their_updates(
    toy: Toy, tmp_path: Path, update_freq: Any, every: int
) -> None:
    recorder = EventRecorder()
    await toy.fit(TensorBoard(tmp_path, update_freq=update_freq), recorder)
    found = Records(tmp_path / "train")
    due = [event for event in recorder.of(BatchEnd) if event.step % every == 0]
    assert len(due) == (8 if every == 1 else len(due)) > 0
    for name in NAMES:
        assert found.scalars(f"batch_{name}") == [(e.step, as_float32(e.logs[name])) for e in due]
    assert [record.time for record in found.tags["batch_loss"]] == [event.time for event in due]


async def test_nothing_is_written_of_batches_by_default(toy: Toy, tmp_path: Path) -> None:
    await toy.fit(TensorBoard(tmp_path))
    assert Records(tmp_path / "train").starting("batch_") == set()


async def test_a_directory_is_made_only_where_there_is_something_to_write(
    toy: Toy, tmp_path: Path
) -> None:
    await toy.fit(TensorBoard(tmp_path / "fit"))
    await toy.evaluate(TensorBoard(tmp_path / "evaluate"))
    TensorBoard(tmp_path / "nothing")
    assert folders(tmp_path) == {"fit", "evaluate"}
    assert folders(tmp_path / "fit") == {"train"}
    assert folders(tmp_path / "evaluate") == {"validation"}


async def test_an_evaluation_is_written_over_the_updates_before_it(
    toy: Toy, tmp_path: Path
) -> None:
    recorder, board = EventRecorder(), TensorBoard(tmp_path)
    await toy.fit(board, recorder, validation_split=0.25)
    await toy.evaluate(board, recorder)
    found, tests = Records(tmp_path / "validation"), recorder.of(TestEnd)
    assert len(tests) == 3
    for name in NAMES:
        wanted = [(event.step, as_float32(event.logs[name])) for event in tests]
        assert found.scalars(f"evaluation_{name}_vs_iterations") == wanted


async def test_in_a_second_fit_the_updates_go_on_in_the_same_file(toy: Toy, tmp_path: Path) -> None:
    recorder, board = EventRecorder(), TensorBoard(tmp_path, update_freq=1)
    await toy.fit(board, recorder)
    await toy.fit(board, recorder, epochs=4, initial_epoch=2)
    found = Records(tmp_path / "train")
    steps = [event.step for event in recorder.of(BatchEnd)]
    assert steps == list(range(steps[0], steps[0] + 16))
    assert found.steps("batch_loss") == steps
    assert found.steps("epoch_loss") == [0, 1, 2, 3]
    assert len(folders(tmp_path / "train")) == 1


async def test_speeds_are_written_by_epoch_and_by_batch_where_asked_for(
    toy: Toy, tmp_path: Path
) -> None:
    board = TensorBoard(tmp_path, update_freq=2, write_steps_per_second=True)
    recorder = EventRecorder()
    await toy.fit(board, recorder)
    found = Records(tmp_path / "train")
    batches = {event.step: event.time for event in recorder.of(BatchEnd)}
    assert [step for step, _ in found.scalars("epoch_steps_per_second")] == [0, 1]
    assert all(speed > 0 for _, speed in found.scalars("epoch_steps_per_second"))
    speeds = dict(found.scalars("batch_steps_per_second"))
    assert list(speeds) == found.steps("batch_loss")
    for step in list(speeds)[1::2]:  # the second one that is written of an epoch
        took = batches[step] - batches[step - 2]
        assert speeds[step] == pytest.approx(2 / took)


async def test_nan_and_infinities_are_what_they_are(script: Script, tmp_path: Path) -> None:
    losses = [math.nan, math.inf, -math.inf, 1.5]
    await script.fit(losses, TensorBoard(tmp_path, update_freq=1), validation=losses[::-1])
    train, validation = Records(tmp_path / "train"), Records(tmp_path / "validation")
    for found, tag, wanted in (
        (train, "epoch_loss", losses),
        (train, "batch_loss", losses),
        (validation, "epoch_loss", losses[::-1]),
    ):
        values = [value for _, value in found.scalars(tag)]
        assert values == pytest.approx(wanted, nan_ok=True)


class Adds(Callback):
    """Adds to the logs."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        assert logs is not None
        logs.update(beta=0.5 + epoch, note="no number", val_gamma=[1, 2], learning_rate=7.0)


async def test_numbers_that_callbacks_add_are_written_and_the_learning_rate_is_the_optimizers(
    toy: Toy, tmp_path: Path
) -> None:
    await toy.fit([Adds(), TensorBoard(tmp_path)])
    found = Records(tmp_path / "train")
    assert found.scalars("epoch_beta") == [(0, 0.5), (1, 1.5)]
    assert [value for _, value in found.scalars("epoch_learning_rate")] == [as_float32(0.1)] * 2
    assert found.starting("epoch_note") == set()
    assert folders(tmp_path) == {"train"}


async def test_the_logs_that_others_get_are_left_as_they_are(toy: Toy, tmp_path: Path) -> None:
    history = await toy.fit(TensorBoard(tmp_path, write_steps_per_second=True))
    assert set(history.history) == set(NAMES)


async def test_training_waits_for_no_batch(toy: Toy, tmp_path: Path) -> None:
    seen: list[bool] = []

    class Looks(Callback):
        def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
            seen.extend(waits(self.run))

    await toy.fit(TensorBoard(tmp_path, update_freq=1, histogram_freq=1), Looks())
    assert seen == [False] * 4
