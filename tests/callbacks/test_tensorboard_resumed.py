"""A training that goes on from a backup: its curves are those of one that nobody disturbed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fitbus
from fitbus import BatchEnd, EpochEnd
from fitbus.callbacks import BackupAndRestore, TensorBoard

from ._interrupted import Interrupted, X, Y, new_trainer
from ._tensorboard_reading import Records

pytestmark = pytest.mark.anyio

OPTIONS: Any = {"batch_size": 8, "epochs": 4, "validation_data": (X[:9], Y[:9])}
WRITES: Any = {"update_freq": "batch", "histogram_freq": 1}


@pytest.fixture
def anyio_backend() -> str:
    """One loop is enough: it is the training thread that takes records out."""
    return "asyncio"


class Notes(fitbus.Callback):
    """Writes records of its own, at the beginning and in each epoch."""

    def __init__(self, board: TensorBoard) -> None:
        self.board = board
        board.text("about", "these trainings", 0)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.board.scalar("noted", 10.0 * epoch, epoch)
        self.board.scalar("noted", 1.0 * epoch, epoch, to="validation")


async def fit(folder: Path, *callbacks: Any) -> None:
    board = TensorBoard(folder / "logs", **WRITES)
    await new_trainer().fit(X, Y, callbacks=[board, Notes(board), *callbacks], **OPTIONS)


def curves(folder: Path) -> dict[tuple[str, str], Any]:
    """All that is there, but times; of histograms the counts."""
    found: dict[tuple[str, str], Any] = {}
    for name in ("train", "validation"):
        records = Records(folder / "logs" / name)
        found[name, "graphs"] = len(records.graphs)
        for tag, each in records.tags.items():
            found[name, tag] = [(record.step, str(record.value)) for record in each]
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    import anyio

    folder = tmp_path_factory.mktemp("undisturbed")
    anyio.run(fit, folder)
    return curves(folder)


def dies_at(kind: Any, step: int) -> Any:
    @fitbus.handler(kind, wait=True)
    def die(event: Any) -> None:
        if event.step == step:
            raise Interrupted

    return die


@pytest.mark.parametrize("save_freq", ["epoch", 1, 3])
async def test_curves_have_neither_gap_nor_double(
    tmp_path: Path, undisturbed: dict[tuple[str, str], Any], save_freq: Any
) -> None:
    """Interrupted twice, within an epoch and at the end of one, in the same directory."""
    batches = len(undisturbed["train", "batch_loss"]) // 4
    for kind, step in ((BatchEnd, batches + 2), (EpochEnd, 3 * batches)):
        with pytest.raises(Interrupted):
            await fit(tmp_path, BackupAndRestore(tmp_path / "b", save_freq), dies_at(kind, step))
    await fit(tmp_path, BackupAndRestore(tmp_path / "b", save_freq))
    found = curves(tmp_path)
    assert found.keys() == undisturbed.keys()
    for tag, records in undisturbed.items():
        assert found[tag] == records, tag


async def test_what_an_earlier_training_wrote_stays(
    tmp_path: Path, undisturbed: dict[tuple[str, str], Any]
) -> None:
    """A file that is older than the training isn't its own; nor is anything else there."""
    folder = tmp_path / "logs" / "train"
    await fit(tmp_path)
    (old,) = folder.iterdir()
    older = old.rename(folder / "events.out.tfevents.0000000001.host.1.0")
    other = folder / "events.out.tfevents.notes"
    other.write_text("mine")
    before = older.read_bytes()
    with pytest.raises(Interrupted):
        await fit(tmp_path, BackupAndRestore(tmp_path / "b", 1), dies_at(BatchEnd, 5))
    await fit(tmp_path, BackupAndRestore(tmp_path / "b", 1))
    assert (older.read_bytes(), other.read_text()) == (before, "mine")
    older.unlink()
    other.unlink()
    assert curves(tmp_path)["train", "batch_loss"] == undisturbed["train", "batch_loss"]


async def test_half_a_record_that_a_kill_left_is_taken_out(
    tmp_path: Path, undisturbed: dict[tuple[str, str], Any]
) -> None:
    """A reader would never get past it."""
    with pytest.raises(Interrupted):
        await fit(tmp_path, BackupAndRestore(tmp_path / "b", 1), dies_at(BatchEnd, 5))
    (file,) = (tmp_path / "logs" / "train").iterdir()
    with file.open("ab") as end:
        end.write(b"\x10\0\0\0\0\0\0\0half")
    await fit(tmp_path, BackupAndRestore(tmp_path / "b", 1))
    assert curves(tmp_path) == undisturbed
