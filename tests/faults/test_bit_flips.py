"""One bit that changed, and a file that was cut off, at every place of what is read again.

Scenario 32.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import msgspec
import numpy as np
import pytest

import fitbus
from fitbus.callbacks import BackupAndRestore
from fitbus.callbacks._backup_file import BackupFiles, Damaged
from fitbus.errors import FitbusError, JournalError
from fitbus.events import BatchEnd, EpochEnd
from fitbus.journal import JournalWriter, read
from fitbus.testing import EventRecorder, toy_problem

PROBLEM = toy_problem(40, 3)
TRAINER = fitbus.Trainer(PROBLEM.task, PROBLEM.params, seed=5)  # one for all: compiled once
BEGIN = TRAINER.state
MAGIC, LENGTH, CHECKSUM = 16, 8, 32  # bytes of a backup


class Interrupted(Exception):
    """What ends a training here."""


def fit(*callbacks: object, epochs: int = 2) -> list[bytes]:
    """Trains from the beginning, or from a backup; the state that comes of it."""
    TRAINER.keeper.take_back(fitbus.Trainer(PROBLEM.task, BEGIN).state)
    data = PROBLEM.x, PROBLEM.y
    TRAINER.fit_sync(*data, batch_size=8, epochs=epochs, callbacks=list(callbacks))
    state = TRAINER.state
    leaves = jax.tree.leaves((state.step, state.params, state.opt_state))
    return [np.asarray(leaf).tobytes() for leaf in (*leaves, jax.random.key_data(state.key))]


def fail_after(batches: int) -> Callable[[BatchEnd], None]:
    left = [None] * batches

    @fitbus.handler(BatchEnd, wait=True)
    def fail(event: BatchEnd) -> None:
        left.pop()
        if not left:
            raise Interrupted

    return fail


@pytest.fixture(scope="module")
def backups(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, bytes, list[bytes]]:
    """A directory, what its `backup-1` and `backup-2` are, and what should come of a training."""
    folder = tmp_path_factory.mktemp("backups")
    for _ in range(2):  # each takes one backup: where the disk is slow, one alone leaves some out
        with pytest.raises(Interrupted):
            fit(BackupAndRestore(folder, 3), fail_after(4))
    one, two = folder / "backup-1", folder / "backup-2"
    return folder, one.read_bytes(), two.read_bytes(), fit()


def flipped(data: bytes, place: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 1 << bit
    return bytes(changed)


def regions(data: bytes) -> dict[str, int]:
    """A place in each part of a backup."""
    header = MAGIC + LENGTH
    end = header + int.from_bytes(data[MAGIC:header], "little")
    decoder = msgspec.msgpack.Decoder(tuple[msgspec.Raw, list[tuple[str, list[int]]]])
    arrays = decoder.decode(data[header:end])[1]
    found = {"magic": 3, "length of the header": MAGIC + 1, "header": (header + end) // 2}
    for number, (dtype, shape) in enumerate(arrays):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        found[f"array {number}"] = end + size // 2
        end += size
    assert end + CHECKSUM == len(data)
    return {**found, "checksum": end + 5}


def test_any_bit_of_a_backup_is_missed_and_the_one_before_is_read(
    backups: tuple[Path, bytes, bytes, list[bytes]], tmp_path: Path
) -> None:
    """At each byte of its ends, and at places between; and so is what is cut off there."""
    _, one, two, _ = backups
    (tmp_path / "backup-1").write_bytes(one)
    newest = tmp_path / "backup-2"
    files = BackupFiles(tmp_path, 2)
    last = len(two) - 64
    places = [*range(300), *range(300, last, 97), *range(last, len(two))]
    assert last > 300
    assert len(places) > 364
    for place in places:
        for data in (*(flipped(two, place, bit) for bit in (0, place % 8, 7)), two[:place]):
            newest.write_bytes(data)
            with pytest.raises(Damaged, match=r"checksum|begin"):
                files.read(newest)
    assert [path.name for path in files.newest_first()] == ["backup-2", "backup-1"]
    assert files.read(tmp_path / "backup-1") == one[MAGIC:-CHECKSUM]
    newest.write_bytes(two + b"\0")
    with pytest.raises(Damaged, match="checksum"):
        files.read(newest)
    newest.write_bytes(two)
    assert files.read(newest) == two[MAGIC:-CHECKSUM]


def test_a_training_goes_on_from_the_one_before_whatever_part_is_damaged(
    backups: tuple[Path, bytes, bytes, list[bytes]],
) -> None:
    """Bit for bit, with a warning that names the file; then the damaged one is gone."""
    folder, one, two, expected = backups
    places = regions(two)
    assert len(places) > 7
    for part, place in places.items():
        for data in (flipped(two, place, 4), two[:place]):
            (folder / "backup-1").write_bytes(one)
            (folder / "backup-2").write_bytes(data)
            seen = EventRecorder()
            with pytest.warns(RuntimeWarning) as warned:
                found = fit(BackupAndRestore(folder, 100, delete_checkpoint=False), seen)
            (told,) = warned
            assert str(folder / "backup-2") in str(told.message), part
            assert f"goes on from the one before, {folder / 'backup-1'}" in str(told.message)
            assert found == expected, part
            assert seen.of(BatchEnd)[0].step == 4, part
            assert seen.of(EpochEnd)[-1].epoch == 1


def test_where_none_is_good_the_error_names_each_and_what_to_do_and_nothing_is_touched(
    backups: tuple[Path, bytes, bytes, list[bytes]],
) -> None:
    folder, one, two, _ = backups
    for part, place in regions(one).items():
        damaged = {"backup-1": flipped(one, place, 1), "backup-2": two[: place + 1]}
        for name, data in damaged.items():
            (folder / name).write_bytes(data)
        seen = EventRecorder()
        with pytest.raises(FitbusError) as caught:
            fit(BackupAndRestore(folder, 3), seen)
        message = str(caught.value)
        assert all(str(folder / name) in message for name in damaged), part
        assert f"delete {folder} to begin anew" in message
        assert seen.of(BatchEnd) == []
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == damaged


def some(count: int, first: int = 0) -> list[fitbus.Event]:
    return [
        EpochEnd(run="r", seq=i, step=i, epoch=i, logs={"loss": 0.5})
        for i in range(first, first + count)
    ]


def as_far(path: Path) -> tuple[list[fitbus.Event], JournalError | None]:
    """What can be read, and what ends it."""
    found: list[fitbus.Event] = []
    events: Iterator[fitbus.Event] = read(path)
    try:
        found.extend(events)
    except JournalError as error:
        return found, error
    return found, None


def test_any_bit_of_a_journal_is_named_or_in_a_torn_end_that_is_appended_to(
    tmp_path: Path,
) -> None:
    """In its first file, in one between and in the last; never is there another event."""
    path, events, more = tmp_path / "journal", some(5), some(2, first=90)
    JournalWriter(path, segment_bytes=250).write(events)
    files = sorted(path.iterdir())
    assert len(files) >= 3
    content = {file: file.read_bytes() for file in files}
    torn = 0
    for file, whole in content.items():
        for place in range(len(whole)):
            for bit in {place % 8, (place + 3) % 8}:
                file.write_bytes(flipped(whole, place, bit))
                found, error = as_far(path)
                assert found == events[: len(found)]
                if error is None:
                    torn += 1
                    assert file == files[-1]
                    assert len(found) == len(events) - 1
                    if bit == place % 8:
                        JournalWriter(path).write(more)
                        assert as_far(path) == ([*found, *more], None)
                    continue
                assert error.path == str(file)
                assert error.offset <= place
                if file == files[-1] and bit == place % 8:  # of others, the writer reads nothing
                    before = file.read_bytes()
                    with pytest.raises(JournalError) as caught:
                        JournalWriter(path).write(more)
                    assert (caught.value.path, caught.value.offset) == (str(file), error.offset)
                    assert file.read_bytes() == before
        file.write_bytes(whole)
    assert torn
    assert as_far(path) == (events, None)


def test_a_file_of_a_journal_that_is_cut_off_anywhere_is_named_if_others_follow(
    tmp_path: Path,
) -> None:
    """But at the end of a frame, where nothing shows it; the last one is appended to."""
    path, events, more = tmp_path / "journal", some(5), some(2, first=90)
    JournalWriter(path, segment_bytes=250).write(events)
    first, *_, last = sorted(path.iterdir())
    whole = first.read_bytes()
    for length in range(len(whole)):
        os.truncate(first, length)
        found, error = as_far(path)
        assert all(event in events for event in found)
        if error is not None:
            assert found == events[: len(found)]
            assert error.path == str(first)
            assert error.offset <= length
        else:
            assert length in (12, *range(60, len(whole)))
        first.write_bytes(whole)
    whole = last.read_bytes()
    for length in range(len(whole)):
        last.write_bytes(whole[:length])
        found, error = as_far(path)
        assert (error, found) == (None, events[: len(found)])
        JournalWriter(path).write(more)
        assert as_far(path) == ([*found, *more], None)
