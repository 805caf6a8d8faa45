"""A journal whose writer is killed: what is there is a beginning of what was written, in order."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import fitbus
from fitbus.errors import JournalError
from fitbus.journal import JournalWriter, read

PROGRAM = """
import sys
import fitbus
from fitbus.journal import JournalWriter

path, segment_bytes, keep_segments, seq = sys.argv[1], *map(int, sys.argv[2:])
writer = JournalWriter(path, segment_bytes=segment_bytes, keep_segments=keep_segments or None)
while True:
    count = 1 + seq * 7 % 40
    writer.write(
        fitbus.EpochEnd(run="r", seq=i, step=i, logs={"loss": 1 / (i + 1), "x" * (i % 90): 0.5})
        for i in range(seq, seq + count)
    )
    seq += count
    if seq % 3 == 0:
        writer.sync()
    sys.stdout.write(f"{seq}\\n")
    sys.stdout.flush()
"""


def killed(path: Path, segment_bytes: int, keep_segments: int, seq: int, marks: int) -> int:
    """Has a process write from a `seq` on, and kills it after so many marks; the last mark."""
    words = [str(path), str(segment_bytes), str(keep_segments), str(seq)]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        last = seq
        for _ in range(marks):
            last = int(process.stdout.readline() or last)
        process.kill()
        for line in process.stdout:  # told before it died
            if line.endswith(b"\n"):
                last = int(line)
        error = process.stderr.read()
        assert process.wait() == -signal.SIGKILL, error
    return last


@pytest.mark.slow
@pytest.mark.parametrize(("segment_bytes", "keep_segments"), [(1 << 20, 0), (900, 0), (2500, 3)])
def test_a_killed_writer_leaves_a_beginning_in_order(
    tmp_path: Path, segment_bytes: int, keep_segments: int
) -> None:
    """All that `write` had returned from is there, and appending goes on, kill after kill."""
    path = tmp_path / "journal"
    chance = random.Random(segment_bytes)  # noqa: S311  # no secret
    first = there = 0
    for _ in range(6):
        told = killed(path, segment_bytes, keep_segments, there, chance.randrange(1, 60))
        found = list(read(path))
        seqs = [event.seq for event in found]
        if keep_segments:
            first = seqs[0]
            assert len(list(path.iterdir())) <= keep_segments
        assert seqs == list(range(first, seqs[-1] + 1))
        assert seqs[-1] + 1 >= told
        there = seqs[-1] + 1
        assert [event.step for event in found] == seqs
    writer = JournalWriter(path, segment_bytes=segment_bytes)
    writer.write([fitbus.TrainEnd(run="r", seq=there)])
    assert [e.seq for e in read(path)] == list(range(first, there + 1))


def events(count: int, first: int) -> list[fitbus.Event]:
    return [
        fitbus.EpochEnd(run="r", seq=i, logs={"loss": 0.5}) for i in range(first, first + count)
    ]


def test_segments_stay_bounded_when_a_journal_is_appended_to_again_and_again(
    tmp_path: Path,
) -> None:
    """Those of writers before count too; what stays is the end, without a gap."""
    path, written = tmp_path / "journal", 0
    for turn in range(12):
        writer = JournalWriter(path, segment_bytes=400, keep_segments=3)
        for _ in range(turn % 4):
            writer.write(events(3, written))
            written += 3
        files = sorted(path.iterdir())
        assert len(files) <= 3
        assert all(file.stat().st_size <= 400 for file in files)
        seqs = [event.seq for event in read(path)]
        assert seqs == list(range(written - len(seqs), written))
        assert len(seqs) >= min(written, 6)  # two whole segments and a begun one, at the least


def test_fewer_segments_are_kept_from_the_next_one_on(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    JournalWriter(path, segment_bytes=400).write(events(40, 0))
    before = len(list(path.iterdir()))
    assert before > 5
    writer = JournalWriter(path, segment_bytes=400, keep_segments=2)
    assert len(list(path.iterdir())) == before  # nothing is deleted by opening
    writer.write(events(8, 40))
    assert len(list(path.iterdir())) == 2
    assert [event.seq for event in read(path)][-8:] == list(range(40, 48))


def test_a_segment_that_a_crash_left_without_its_header_is_gone_on_with(tmp_path: Path) -> None:
    """As one that was just begun; and one that is missing is an error when appended to, too."""
    path = tmp_path / "journal"
    JournalWriter(path, segment_bytes=400).write(events(12, 0))
    files = sorted(path.iterdir())
    following = path / f"{len(files) + 1:06d}.journal"
    following.write_bytes(b"")
    JournalWriter(path, segment_bytes=400, keep_segments=9).write(events(3, 12))
    assert [event.seq for event in read(path)] == list(range(15))
    assert following.stat().st_size > 0
    files[1].unlink()
    with pytest.raises(JournalError, match="the file is missing"):
        JournalWriter(path)
