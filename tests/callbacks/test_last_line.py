"""Files of lines whose last one has no end, as a power failure or an editor leaves them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fitbus
from fitbus.callbacks import BackupAndRestore, Callback, CSVLogger, JSONLogger
from fitbus.callbacks._last_line import cut_last_lines, end_last_line
from fitbus.testing import EventRecorder

from ._interrupted import Interrupted, X, Y, fail_after, new_trainer

pytestmark = pytest.mark.anyio

BIG = 70_000  # more than is read at once


@pytest.mark.parametrize("length", [1, 5_000, BIG])
def test_last_lines_are_cut_off_down_to_one_that_stays(tmp_path: Path, length: int) -> None:
    """However long they are; and never what is before a place."""
    path = tmp_path / "lines"
    kept, gone = b"k" * length + b"\n", b"g" * length + b"\n"
    for lines, down_to, after in (
        ([], 0, b""),
        ([kept, kept], 0, kept * 2),
        ([kept, gone, gone], 0, kept),
        ([gone, kept, gone], 0, gone + kept),
        ([gone, gone], 0, b""),
        ([gone, gone, gone], len(gone), gone),
        ([gone], len(gone), gone),
    ):
        path.write_bytes(b"".join(lines))
        cut_last_lines(path, down_to, lambda line: line == gone)
        assert path.read_bytes() == after
    cut_last_lines(tmp_path / "none", 0, lambda line: True)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("before", "kept", "cut"),
    [
        (b"", b"", b""),
        (b"a\nb\n", b"a\nb\n", b"a\nb\n"),
        (b"a\nb", b"a\nb\n", b"a\n"),
        (b"a", b"a\n", b""),
        (b"a\n" + b"b" * BIG, b"a\n" + b"b" * BIG + b"\n", b"a\n"),
        (b"a" * BIG + b"\nb", b"a" * BIG + b"\nb\n", b"a" * BIG + b"\n"),
    ],
    ids=["empty", "ended", "two lines", "one line", "a long line", "after a long line"],
)
def test_a_last_line_without_an_end_gets_one_or_is_cut_off(
    tmp_path: Path, before: bytes, kept: bytes, cut: bytes
) -> None:
    path = tmp_path / "lines"
    for is_whole, after in ((True, kept), (False, cut)):
        path.write_bytes(before)
        end_last_line(path, lambda line, answer=is_whole: answer)  # type: ignore[misc]  # typed by its default
        assert path.read_bytes() == after


def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    end_last_line(tmp_path / "none", lambda line: False)
    end_last_line(Path("/dev/null"), lambda line: False)
    assert list(tmp_path.iterdir()) == []


Make = Callable[[Path, bool], Callback]


def csv_logger(path: Path, append: bool) -> Callback:
    return CSVLogger(path, append=append)


def json_logger(path: Path, append: bool) -> Callback:
    return JSONLogger(path, append=append, types=[fitbus.EpochEnd])


async def interrupted_and_torn(
    tmp_path: Path, make: Make, append: bool, cut: Callable[[bytes], bytes]
) -> list[bytes]:
    """What two trainings write of four epochs; after the first one its file is cut."""
    path = tmp_path / "log"
    backup = [BackupAndRestore(tmp_path / "backup"), make(path, append)]
    options: Any = {"batch_size": 8, "epochs": 4}
    with pytest.raises(Interrupted):
        await new_trainer().fit(X, Y, callbacks=[*backup, fail_after(17)], **options)
    path.write_bytes(cut(path.read_bytes()))
    again = [BackupAndRestore(tmp_path / "backup"), make(path, append)]
    await new_trainer().fit(X, Y, callbacks=again, **options)
    *lines, last = path.read_bytes().splitlines(keepends=True)
    assert all(line.endswith(b"\n") for line in [*lines, last])
    return [*lines, last]


@pytest.mark.parametrize("append", [False, True])
async def test_a_torn_row_is_cut_off_by_the_training_that_goes_on(
    tmp_path: Path, append: bool
) -> None:
    """It isn't glued to the next one."""
    lines = await interrupted_and_torn(tmp_path, csv_logger, append, lambda data: data[:-5])
    assert [line.partition(b",")[0] for line in lines] == [b"epoch", b"0", b"1", b"3"]
    assert {line.count(b",") for line in lines} == {lines[0].count(b",")}


@pytest.mark.parametrize("append", [False, True])
async def test_a_row_that_lacks_half_of_its_end_is_kept(tmp_path: Path, append: bool) -> None:
    lines = await interrupted_and_torn(tmp_path, csv_logger, append, lambda data: data[:-1])
    assert [line.partition(b",")[0] for line in lines] == [b"epoch", b"0", b"1", b"2", b"3"]
    assert all(line.endswith(b"\r\n") for line in lines)


@pytest.mark.parametrize("append", [False, True])
async def test_with_half_a_header_the_file_begins_anew(tmp_path: Path, append: bool) -> None:
    lines = await interrupted_and_torn(tmp_path, csv_logger, append, lambda data: data[:3])
    assert [line.partition(b",")[0] for line in lines] == [b"epoch", b"3"]


@pytest.mark.parametrize("append", [False, True])
async def test_half_an_event_is_cut_off_by_the_training_that_goes_on(
    tmp_path: Path, append: bool
) -> None:
    lines = await interrupted_and_torn(tmp_path, json_logger, append, lambda data: data[:-9])
    events = [fitbus.Codec().from_json(line) for line in lines]
    assert [getattr(event, "epoch", None) for event in events] == [0, 1, 3]


@pytest.mark.parametrize("append", [False, True])
async def test_an_event_that_lacks_its_end_only_is_kept(tmp_path: Path, append: bool) -> None:
    lines = await interrupted_and_torn(tmp_path, json_logger, append, lambda data: data[:-1])
    events = [fitbus.Codec().from_json(line) for line in lines]
    assert [getattr(event, "epoch", None) for event in events] == [0, 1, 2, 3]


async def test_a_row_is_appended_below_somebodys_last_line(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"epoch,loss,mean_absolute_error\n0,1.0,2.0")
    await new_trainer().fit(X, Y, batch_size=8, callbacks=[CSVLogger(path, append=True)])
    header, first, second = path.read_bytes().splitlines()
    assert header == b"epoch,loss,mean_absolute_error"
    assert first == b"0,1.0,2.0"
    assert second.startswith(b"0,1.7")


async def test_a_header_without_an_end_is_one(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"epoch,mean_absolute_error,loss")
    await new_trainer().fit(X, Y, batch_size=8, callbacks=[CSVLogger(path, append=True)])
    header, row = path.read_bytes().splitlines()
    assert header == b"epoch,mean_absolute_error,loss"
    assert row.startswith(b"0,1.0")


async def test_events_are_appended_below_somebodys_last_line(tmp_path: Path) -> None:
    """Whatever that is."""
    path, recorder = tmp_path / "log.jsonl", EventRecorder()
    path.write_bytes(b"mine")
    callbacks: list[Any] = [JSONLogger(path, append=True), recorder]
    await new_trainer().fit(X, Y, batch_size=8, callbacks=callbacks)
    first, *lines = path.read_bytes().splitlines()
    assert first == b"mine"
    assert [fitbus.Codec().from_json(line) for line in lines] == recorder.events
