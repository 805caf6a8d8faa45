"""What `ModelCheckpoint` keeps, tells and leaves on the disk, whatever ends the training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np
import pytest

import fitbus
from fitbus.callbacks import Callback, Logs, ModelCheckpoint
from fitbus.checkpoints import load_state, load_weights
from fitbus.errors import FitbusError, InvalidArgumentError
from fitbus.testing import EventRecorder, Gate

from ._cancelling import CancelsAtEnd
from ._saved import names, weights

if TYPE_CHECKING:
    from .conftest import Script

pytestmark = pytest.mark.anyio

NAN = math.nan

# What is given, the losses, and then what is left: epochs, from 1.
KEPT: dict[str, tuple[dict[str, Any], list[float], list[int]]] = {
    "the best": ({"keep": 1}, [4, 3, 5, 2, 6], [4]),
    "the best two": ({"keep": 2}, [4, 3, 5, 2, 6], [2, 4]),
    "the best two, where more is better": ({"keep": 2, "mode": "max"}, [4, 3, 5, 2, 6], [3, 5]),
    "of equal ones the first": ({"keep": 2}, [3, 3, 3, 3], [1, 2]),
    "all, where there are fewer": ({"keep": 9}, [4, 3, 5], [1, 2, 3]),
    "NaN last, the newest first": ({"keep": 2}, [NAN, NAN, 5, NAN], [3, 4]),
    "the best of the best": ({"keep": 2, "save_best_only": True}, [4, 3, 5, 2, 1], [4, 5]),
}


@pytest.mark.parametrize("case", KEPT)
@pytest.mark.parametrize("whole", [False, True])
async def test_it_keeps(script: Script, tmp_path: Path, case: str, *, whole: bool) -> None:
    """Files and directories are deleted alike."""
    given, losses, left = KEPT[case]
    ending = "" if whole else ".safetensors"
    checkpoint = ModelCheckpoint(
        tmp_path / ("{epoch}" + ending), "loss", save_weights_only=not whole, **given
    )
    await script.fit(losses, checkpoint)
    assert names(tmp_path) == [str(epoch) for epoch in left]


async def test_without_a_usable_monitor_it_keeps_the_newest(script: Script, tmp_path: Path) -> None:
    """The default one isn't there without validation."""
    checkpoint = ModelCheckpoint(tmp_path / "{epoch}.safetensors", save_weights_only=True, keep=2)
    await script.fit([1, 2, 3, 4], checkpoint)
    assert names(tmp_path) == ["3", "4"]
    await script.fit([1], checkpoint)
    assert names(tmp_path) == ["1", "4"]


async def test_it_deletes_only_what_it_has_saved_itself(script: Script, tmp_path: Path) -> None:
    (tmp_path / "7.safetensors").write_text("another's")
    await script.fit([3, 2, 1], weights(tmp_path, keep=1))
    assert names(tmp_path) == ["3", "7"]


async def test_what_was_deleted_by_hand_is_no_error(script: Script, tmp_path: Path) -> None:
    checkpoint = weights(tmp_path, keep=1)
    await script.fit([3], checkpoint)
    (tmp_path / "1.safetensors").unlink()
    await script.fit([9, 2], checkpoint, initial_epoch=1)
    assert names(tmp_path) == ["2"]


def test_keeping_several_needs_several_names() -> None:
    with pytest.raises(InvalidArgumentError, match="keep: found 2; the filepath has no field"):
        ModelCheckpoint("w", keep=2)


async def test_it_tells_of_each_when_it_is_complete(script: Script, tmp_path: Path) -> None:
    """In order, before training ends, with the absolute path; of those in the epoch itself."""
    found: list[tuple[str, bool]] = []

    def look(event: fitbus.CheckpointSaved) -> None:
        found.append((event.path, Path(event.path).exists()))

    recorder = EventRecorder()
    await script.fit([1, 2, 3], weights(tmp_path), look, recorder)
    assert found == [(str(tmp_path / f"{epoch}.safetensors"), True) for epoch in (1, 2, 3)]
    assert recorder.names.count("CheckpointSaved") == 3
    assert recorder.names[-1] == "TrainEnd"


async def test_also_where_a_stop_ends_the_training(script: Script, tmp_path: Path) -> None:
    class Stops(Callback):
        def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
            self.model.stop_training = True

    recorder = EventRecorder()
    await script.fit([1, 2, 3], Stops(), weights(tmp_path), recorder)
    assert recorder.names[-2:] == ["CheckpointSaved", "TrainEnd"]
    assert names(tmp_path) == ["1"]


async def test_training_goes_on_while_files_are_written(script: Script, tmp_path: Path) -> None:
    """Copies are made at once: what is written later is of its own epoch."""
    gate = Gate()
    checkpoint = weights(tmp_path)
    checkpoint._background.submit(gate.pass_sync)

    class Opens(Callback):
        def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
            if epoch == 1:
                assert names(tmp_path) == []
                gate.open()

    await script.fit([1, 2, 3], checkpoint, Opens())
    for epoch in (1, 2, 3):
        back = load_weights(tmp_path / f"{epoch}.safetensors", script.trainer.state.params)
        assert np.asarray(back["epoch"]) == epoch - 1


async def test_a_relative_path_is_where_it_was_at_the_time(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    await script.fit([1], ModelCheckpoint("w.safetensors", save_weights_only=True))
    assert names(tmp_path) == ["w"]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("inside", ["w", "deeper/w"])
async def test_a_folder_that_is_a_file_fails_with_the_path(
    script: Script, tmp_path: Path, inside: str, *, whole: bool
) -> None:
    """As itself, with what to do; the trainer keeps its state, and the next fit works."""
    (tmp_path / "file").write_text("x")
    ending = "" if whole else ".safetensors"
    path = tmp_path / "file" / (inside + ending)
    checkpoint = ModelCheckpoint(path, save_weights_only=not whole)
    recorder = EventRecorder()
    with pytest.raises(FitbusError) as raised:
        await script.fit([1, 2], checkpoint, recorder)
    assert str(raised.value).startswith(f"{path} couldn't be written: ")
    assert "is its folder one that can be written to" in str(raised.value)
    assert recorder.of(fitbus.TrainEnd)[0].reason == "failed"
    (tmp_path / "file").unlink()
    await script.fit([1], checkpoint)
    assert path.exists()


async def test_a_path_that_is_a_directory_fails_with_what_to_do(
    script: Script, tmp_path: Path
) -> None:
    path = tmp_path / "w.safetensors"
    path.mkdir()
    with pytest.raises(InvalidArgumentError, match="it is a directory; give the path of a file"):
        await script.fit([1], weights(tmp_path, "w"))
    with pytest.raises(InvalidArgumentError, match="with something else in it, which isn't"):
        await script.fit([1], ModelCheckpoint(tmp_path))
    assert path.is_dir()


async def test_a_failed_one_leaves_the_ones_before(script: Script, tmp_path: Path) -> None:
    (tmp_path / "2.safetensors").mkdir()
    checkpoint = weights(tmp_path, keep=1)
    with pytest.raises(InvalidArgumentError, match=r"path: found '.*/2\.safetensors'"):
        await script.fit([4, 3, 2], checkpoint)
    assert "1" in names(tmp_path)
    load_weights(tmp_path / "1.safetensors", script.trainer.state.params)


async def test_a_cancelled_fit_leaves_whole_files(script: Script, tmp_path: Path) -> None:
    """All that was decided is written; the object works again."""
    checkpoint = ModelCheckpoint(tmp_path / "{epoch}")
    recorder = EventRecorder()
    with anyio.CancelScope() as scope:
        await script.fit([1, 2, 3, 4], checkpoint, CancelsAtEnd(scope), recorder)
    assert recorder.of(fitbus.TrainEnd)[0].reason == "cancelled"
    assert names(tmp_path) in (["1"], ["1", "2"])
    for name in names(tmp_path):
        state = load_state(tmp_path / name, script.trainer.state)
        assert np.asarray(state.params["epoch"]) == int(name) - 1
    await script.fit([1, 2, 3], checkpoint)
    assert names(tmp_path) == ["1", "2", "3"]


async def test_a_cancelled_fit_does_not_wait_long_for_a_hung_disk(
    script: Script, tmp_path: Path
) -> None:
    """Half of the grace period: it ends in time, as cancelled, and says what isn't written."""
    gate = Gate()
    checkpoint, recorder = weights(tmp_path), EventRecorder()
    checkpoint._background.submit(gate.pass_sync)  # a piece of work that hangs
    try:
        with anyio.fail_after(20), anyio.CancelScope() as scope:

            async def cancel(event: fitbus.EpochEnd) -> None:
                scope.cancel()

            await script.fit([1, 2, 3], cancel, checkpoint, recorder, grace_s=0.4)
        assert scope.cancelled_caught
        (failed,) = recorder.of(fitbus.HandlerFailed)
        assert "ModelCheckpoint: " in failed.error
        assert "aren't done when the run was cancelled" in failed.error
    finally:
        gate.open()


async def test_what_it_remembers_goes_through_a_state_dict(script: Script, tmp_path: Path) -> None:
    """A new object goes on as the old one would have, with what is to be deleted too."""
    first = weights(tmp_path, save_best_only=True, keep=1)
    await script.fit([4, 3, 5], first)
    remembered = first.state_dict()
    assert remembered == {
        "best": 3.0,
        "batches": 0,
        "kept": [[str(tmp_path / "2.safetensors"), 3.0]],
    }
    second = weights(tmp_path, save_best_only=True, keep=1)
    second.load_state_dict(remembered)
    assert second.state_dict() == remembered
    await script.fit([9, 9, 9, 3.5, 2], second, initial_epoch=3)
    assert names(tmp_path) == ["5"]


async def test_two_fits_one_after_the_other(script: Script, tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path / "last")
    for losses in ([1.0, 2.0, 3.0], [4.0]):
        await script.fit(losses, checkpoint)
        back = load_state(tmp_path / "last", script.trainer.state)
        assert np.asarray(back.params["epoch"]) == len(losses) - 1
