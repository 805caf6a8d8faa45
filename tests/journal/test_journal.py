"""The journal: what is written is read back; what a crash or damage leaves, and what isn't lost."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fitbus
from fitbus._journal_command import main
from fitbus.callbacks import BackupAndRestore, Journal
from fitbus.errors import JournalError
from fitbus.journal import JournalWriter, read
from fitbus.testing import EventRecorder, toy_problem

PROBLEM = toy_problem(64)
TRAINER = fitbus.Trainer(PROBLEM.task, PROBLEM.params)


async def fit(*callbacks: Any, **arguments: Any) -> fitbus.History:
    return await TRAINER.fit(PROBLEM.x, PROBLEM.y, batch_size=16, callbacks=callbacks, **arguments)


def some(count: int, first: int = 0) -> list[fitbus.Event]:
    return [
        fitbus.EpochEnd(run="r", seq=i, step=i, epoch=i, logs={"loss": 1.0 / (i + 1)})
        for i in range(first, first + count)
    ]


@pytest.mark.anyio
async def test_every_event_is_there_in_order_with_the_controls_that_acted(tmp_path: Path) -> None:
    recorder = EventRecorder()

    def steer(event: fitbus.EpochEnd) -> list[fitbus.Control]:
        return [fitbus.SetLearningRate(0.05), fitbus.UpdateState(lambda state: state)]

    journal = Journal(tmp_path / "journal")
    await fit(steer, journal, recorder, epochs=2, validation_split=0.5)
    found = list(read(journal))
    assert [(e.seq, type(e)) for e in found] == [(e.seq, type(e)) for e in recorder.events]
    assert [e.seq for e in found] == list(range(len(found)))
    acted = [e for e in found if isinstance(e, fitbus.ControlApplied)]
    assert [e.control for e in acted][:2] == [
        fitbus.SetLearningRate(0.05),
        fitbus.UnknownControl("UpdateState (in its process only)", {}),
    ]
    same = [(a, b) for a, b in zip(found, recorder.events, strict=True) if a != b]
    assert all(isinstance(b, fitbus.ControlApplied) for _, b in same)


def told(journal: Journal) -> list[dict[str, Any]]:
    """Its events, without what differs from one process to the next."""
    codec = fitbus.Codec()
    return [json.loads(codec.to_json(e)) | {"time": 0, "run": ""} for e in read(journal)]


@pytest.mark.anyio
@pytest.mark.parametrize(("save_freq", "step"), [(3, 7), (3, 6), ("epoch", 7)])
async def test_a_run_that_goes_on_has_the_events_of_one_that_was_never_interrupted(
    tmp_path: Path, save_freq: Any, step: int
) -> None:
    """And a fresh one begins anew. Segments are small: the place may be in an earlier one."""
    whole = Journal(tmp_path / "whole", segment_bytes=2000)
    journal = Journal(tmp_path / "resumed", segment_bytes=2000)

    async def train(*callbacks: Any) -> None:
        trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
        data = (PROBLEM.x, PROBLEM.y)
        await trainer.fit(*data, batch_size=16, epochs=3, callbacks=list(callbacks))

    await train(whole)
    await train(journal)
    assert told(journal) == told(whole)
    with anyio.CancelScope() as scope:

        @fitbus.handler(fitbus.BatchEnd, wait=True)
        async def stop(event: fitbus.BatchEnd) -> None:
            if event.step == step:
                scope.cancel()

        await train(journal, BackupAndRestore(tmp_path / "b", save_freq), stop)
    assert scope.cancelled_caught
    assert len(told(journal)) < len(told(whole))
    await train(journal, BackupAndRestore(tmp_path / "b", save_freq))
    assert told(journal) == told(whole)


def test_segments_are_bounded_kept_by_number_and_read_across(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    writer = JournalWriter(path, segment_bytes=400)
    events = some(40)
    writer.write(events[:15])
    writer.write(events[15:])
    files = sorted(path.iterdir())
    assert len(files) > 5
    assert max(file.stat().st_size for file in files) <= 400
    assert list(read(path)) == events
    files[2].unlink()
    with pytest.raises(JournalError, match=r"000003\.journal, offset 0: the file is missing"):
        list(read(path))
    kept = JournalWriter(tmp_path / "kept", segment_bytes=400, keep_segments=2)
    kept.write(events)
    assert len(list((tmp_path / "kept").iterdir())) == 2
    assert list(read(tmp_path / "kept"))[-1] == events[-1]


def test_a_torn_end_is_left_out_and_cut_off_at_every_length(tmp_path: Path) -> None:
    path, events = tmp_path / "journal", some(3)
    JournalWriter(path).write(events)
    file = path / "000001.journal"
    whole = file.read_bytes()
    for length in range(len(whole)):
        for zeros in (0, 30):
            file.write_bytes(whole[:length] + bytes(zeros))
            if 0 < length < 12 and zeros:  # a header is in one block of the disk
                continue
            found = list(read(path))
            assert found == events[: len(found)]
            JournalWriter(path).write(some(1, first=7))
            assert list(read(path)) == [*found, *some(1, first=7)]


def gathered(path: Path, found: list[fitbus.Event]) -> JournalError | None:
    """Reads as far as it goes; the error that ends it."""
    try:
        found.extend(read(path))
    except JournalError as error:
        return error
    return None


def test_damage_anywhere_is_named_or_is_a_torn_end(tmp_path: Path) -> None:
    """A flipped bit never gives another event."""
    path, events = tmp_path / "journal", some(3)
    JournalWriter(path).write(events)
    file = path / "000001.journal"
    whole = file.read_bytes()
    for place in range(len(whole)):
        for bit in (0, 7):
            data = bytearray(whole)
            data[place] ^= 1 << bit
            file.write_bytes(data)
            found: list[fitbus.Event] = []
            error = gathered(path, found)
            if error is None:
                assert len(found) == 2  # in the last frame's payload
            else:
                assert error.path == str(file)
                assert error.offset <= place
            assert found == events[: len(found)]


@settings(
    max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(max_size=300), at=st.integers(0, 400), whole=st.booleans())
def test_no_bytes_raise_anything_else(tmp_path: Path, data: bytes, at: int, whole: bool) -> None:
    from fitbus.journal._segments import HEADER, framed

    path = tmp_path / "any"
    path.mkdir(exist_ok=True)
    good = HEADER + framed(fitbus.Codec().to_msgpack(some(1)[0]))
    content = good[:at] + (framed(data) if whole else data) + good[at:]
    (path / "000001.journal").write_bytes(content)
    with contextlib.suppress(JournalError):
        assert all(isinstance(event, fitbus.Event) for event in read(path))


def command(*arguments: Any) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "fitbus", "journal", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_the_command_lists_filters_and_exports(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    applied = fitbus.ControlApplied(
        run="r", seq=3, step=3, id=0, control=fitbus.SetLearningRate(0.1), source="me", result=None
    )
    JournalWriter(path).write([*some(3), applied])
    assert len(command(path).stdout.splitlines()) == 4
    (line,) = command(path, "--controls").stdout.splitlines()
    assert "SetLearningRate(value=0.1)" in line
    lines = command(path, "--from-step", 1, "--to-step", 2, "--jsonl").stdout.splitlines()
    assert [fitbus.Codec().from_json(line) for line in lines] == some(3)[1:]
    table = command(path, "--type", "EpochEnd", "--csv").stdout.splitlines()
    assert table[0] == "type,run,seq,time,step,epoch,loss"
    assert len(table) == 4
    missing = command(tmp_path / "none")
    assert (missing.returncode, len(missing.stderr.splitlines())) == (2, 1)


def test_a_table_takes_memory_for_one_row(tmp_path: Path) -> None:
    """Its columns are the names of all rows, the last one's too."""
    path, count = tmp_path / "journal", 5000
    last = fitbus.EpochEnd(run="r", seq=count, logs={"late": 0.5})
    writer = JournalWriter(path)
    writer.write(e for i in range(0, count, 100) for e in some(100, first=i))
    writer.write([last])
    table = tmp_path / "table.csv"
    main([str(path), "--csv", "--to-step", "0"])  # what is made once
    with table.open("w") as file, contextlib.redirect_stdout(file):
        tracemalloc.start()
        try:
            assert main([str(path), "--csv"]) == 0
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    lines = table.read_text().splitlines()
    assert lines[0] == "type,run,seq,time,step,epoch,late,loss"
    assert lines[1] == "EpochEnd,r,0,0.0,0,0,,1.0"
    assert lines[-1] == f"EpochEnd,r,{count},0.0,0,0,0.5,"
    assert len(lines) == count + 2
    assert peak < 500_000  # all rows would be megabytes
