"""What stays of a CSV file: appended to, gone on with, cut short, on a full disk."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

import fitbus
from fitbus.callbacks import BackupAndRestore, Callback, CSVLogger, Logs
from fitbus.errors import InvalidArgumentError
from fitbus.testing import EventRecorder
from fitbus.train import Position, Restored

from ._cancelling import Cancels
from ._logs import ONE, Only, lines, rows

if TYPE_CHECKING:
    from .conftest import Script

pytestmark = pytest.mark.anyio


async def test_it_is_used_again_and_begins_the_file_anew(script: Script, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    logger = CSVLogger(str(path))
    await script.fit([0.0] * 3, Only(ONE, ONE, ONE), logger)
    await script.fit([0.0], Only({"a": 3.0, "val_a": 4.0}), logger)
    assert lines(path) == ["epoch,a,val_a", "0,3.0,4.0"]


@pytest.mark.parametrize("before", [None, b""])
async def test_append_writes_a_header_only_into_an_empty_file(
    script: Script, tmp_path: Path, before: bytes | None
) -> None:
    path = tmp_path / "log.csv"
    if before is not None:
        path.write_bytes(before)
    logger = CSVLogger(path, append=True)
    await script.fit([0.0] * 2, Only(ONE, ONE), logger)
    await script.fit([0.0], Only(ONE), logger)
    await script.fit([0.0], Only(ONE), CSVLogger(path, append=True))
    rest = ["0,1.0,2.0", "1,1.0,2.0", "0,1.0,2.0", "0,1.0,2.0"]
    assert lines(path) == ["epoch,loss,val_loss", *rest]


async def test_append_keeps_to_the_columns_of_the_file(script: Script, tmp_path: Path) -> None:
    """Keras writes the columns of the new training beneath a header that doesn't have them."""
    path = tmp_path / "log.csv"
    path.write_bytes(b"epoch,z,loss\r\n0,5,6\r\n")
    await script.fit([0.0], Only(ONE), CSVLogger(path, append=True))
    assert lines(path) == ["epoch,z,loss,val_loss", "0,5,6,NA", "0,NA,1.0,2.0"]


async def test_append_refuses_a_file_of_another_kind(script: Script, tmp_path: Path) -> None:
    """Before the first step, and leaves it as it was."""
    path = tmp_path / "log.csv"
    path.write_bytes(b"epoch;loss\n0;1\n")
    step = int(script.trainer.state.step)
    with pytest.raises(InvalidArgumentError, match=r"'epoch;loss', is no header of such a file"):
        await script.fit([0.0], CSVLogger(path, append=True))
    assert path.read_bytes() == b"epoch;loss\n0;1\n"
    assert int(script.trainer.state.step) == step


async def test_a_row_is_there_while_training_goes_on(script: Script, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    found: list[list[str]] = []

    class Waits(Callback):
        """Waits until the first row is there: if it never is, the test's time runs out."""

        async def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
            with anyio.fail_after(30):
                while epoch == 1 and path.read_bytes().count(b"\n") < 2:
                    await anyio.lowlevel.checkpoint()
            if epoch == 1:
                found.extend(rows(path))

    await script.fit([0.0] * 2, Only(ONE, ONE), CSVLogger(path), Waits())
    assert found == [["epoch", "loss", "val_loss"], ["0", "1.0", "2.0"]]


async def test_the_old_file_is_empty_when_training_has_begun(
    script: Script, tmp_path: Path
) -> None:
    path = tmp_path / "log.csv"
    path.write_text("old")
    found: list[str] = []
    await script.fit(
        [0.0],
        CSVLogger(path),
        fitbus.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: found.append(path.read_text())
        ),
    )
    assert found == [""]


async def test_what_was_written_stays_when_training_is_cancelled(
    script: Script, tmp_path: Path
) -> None:
    """And the logger can be used again."""
    path = tmp_path / "log.csv"
    logger, recorder = CSVLogger(path), EventRecorder()
    with anyio.CancelScope() as scope:
        await script.fit([0.0] * 16, recorder, Only(*[ONE] * 16), logger, Cancels(scope))
    assert scope.cancelled_caught
    ended = [f"{event.epoch},1.0,2.0" for event in recorder.of(fitbus.EpochEnd)]
    assert 1 <= len(ended) < 16
    assert lines(path) == ["epoch,loss,val_loss", *ended]
    await script.fit([0.0], Only(ONE), logger)
    assert lines(path) == ["epoch,loss,val_loss", "0,1.0,2.0"]


async def test_what_was_written_stays_when_training_fails(script: Script, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    with pytest.raises(IndexError):
        await script.fit([0.0] * 2, CSVLogger(path), Only(ONE))
    assert len(lines(path)) == 3


async def test_a_full_disk_fails_the_training_and_names_the_file(script: Script) -> None:
    logger = CSVLogger("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"):
        await script.fit([0.0] * 3, logger)
    for thread in threading.enumerate():
        if thread.name == "fitbus CSVLogger":
            thread.join(10)
            assert not thread.is_alive()


async def test_a_directory_that_is_not_there_is_told_before_the_first_step(
    script: Script, tmp_path: Path
) -> None:
    step = int(script.trainer.state.step)
    with pytest.raises(FileNotFoundError, match="none"):
        await script.fit([0.0], CSVLogger(tmp_path / "none" / "log.csv"))
    assert int(script.trainer.state.step) == step


@pytest.mark.parametrize("append", [False, True])
@pytest.mark.parametrize("when", ["by hand", "from a backup"])
async def test_a_training_that_goes_on_takes_out_the_rows_after_its_checkpoint(
    script: Script, tmp_path: Path, when: str, append: bool
) -> None:
    """Those of its first epoch and later; rows of earlier trainings stay."""
    path = tmp_path / "log.csv"
    earlier = ["0,7,8", "1,7,8", "2,7,8", "3,7,8"] if append else []
    path.write_text("".join(f"{line}\r\n" for line in ["epoch,loss,val_loss", *earlier]))
    logger = CSVLogger(path, append=append)
    await script.fit([0.0] * 4, Only(ONE, ONE, ONE, ONE), logger)
    state = logger.state_dict()

    again = CSVLogger(path, append=append)

    class Restores(Callback):
        def restore(self) -> Restored | None:
            return Restored(None, Position(epoch=2), [("CSVLogger", state)])

    two = {"loss": 3.0, "val_loss": 4.0}
    only = Only(two, two, two)
    if when == "by hand":
        again.load_state_dict(state)
        await script.fit([0.0] * 3, only, again, initial_epoch=2)
    else:
        await script.fit([0.0] * 3, only, again, Restores())
    header, *found = lines(path)
    assert header == "epoch,loss,val_loss"
    assert found[: len(earlier)] == earlier
    assert found[len(earlier) :][:2] == ["0,1.0,2.0", "1,1.0,2.0"]
    assert [line.split(",")[0] for line in found[len(earlier) :]] == ["0", "1", "2"]
    assert again.state_dict() == state


async def test_after_a_crash_the_file_is_that_of_a_training_without_one(
    script: Script, tmp_path: Path
) -> None:
    """The row of the epoch that is trained again isn't there twice."""
    path = tmp_path / "log.csv"

    def crashes(event: fitbus.EpochEnd) -> None:
        if event.epoch == 2:
            raise ZeroDivisionError

    backup = tmp_path / "backup"
    with pytest.raises(ZeroDivisionError):
        await script.fit(
            [0.0] * 4, Only(*[ONE] * 4), CSVLogger(path), BackupAndRestore(backup), crashes
        )
    assert len(lines(path)) == 1 + 3
    await script.fit([0.0] * 4, Only(*[ONE] * 4), CSVLogger(path), BackupAndRestore(backup))
    assert lines(path) == ["epoch,loss,val_loss", *(f"{epoch},1.0,2.0" for epoch in range(4))]


async def test_without_a_backup_to_go_on_with_the_file_begins_anew(
    script: Script, tmp_path: Path
) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"old\r\n")

    class FindsNothing(Callback):
        def restore(self) -> None:
            pass

    await script.fit([0.0], FindsNothing(), Only(ONE), CSVLogger(path))
    assert lines(path) == ["epoch,loss,val_loss", "0,1.0,2.0"]
