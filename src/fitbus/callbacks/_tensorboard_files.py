"""TensorBoard's event files: where they lie, and how records are added to them."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, final

from fitbus._files import naming, sync
from fitbus.errors import FitbusError

__all__ = ["EventFile", "check_installed", "check_place", "event", "graph_event", "protos"]


_PREFIX = "events.out.tfevents."
_HEAD, _TAIL = 12, 4  # a record's length and its checksum, and that of its content


def check_installed() -> None:
    """Loads what writes the records; it knows nothing of TensorFlow.

    Raises:
        FitbusError: It isn't installed.
    """
    try:
        protos()
        _encoded([])
    except ImportError as error:
        raise FitbusError(
            f"TensorBoard needs the package tensorboard, which can't be imported ({error}):"
            ' pip install "fitbus[tensorboard]"'
        ) from error


def check_place(folder: Path) -> None:
    """Refuses a directory that can't be made, before the first step; makes nothing.

    Raises:
        OSError: Something on the way to it is a file, or may not be written to.
    """
    place = folder.absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))


def protos() -> Any:
    """What a record consists of: `Summary`, and its parts."""
    from tensorboard.compat.proto import summary_pb2

    return summary_pb2


def event(values: Sequence[Any], step: int, wall_time: float) -> Any:
    """A record of summaries.

    Args:
        values: The summaries.
        step: What TensorBoard draws them over.
        wall_time: Unix seconds.
    """
    return _record(wall_time=wall_time, step=step, summary=protos().Summary(value=values))


def graph_event(graph: Any, wall_time: float) -> Any:
    """A record of a graph, for TensorBoard's tab of that name."""
    return _record(wall_time=wall_time, graph_def=graph.SerializeToString())


@final
class EventFile:
    """The event file of one directory. It comes into being with its first record.

    Nothing is held open between two writes: what was written can be read, and nothing has to be
    closed. A write that fails, on a full disk for one, leaves the file as it was. Any thread.

    Args:
        folder: Its directory, made when it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path: Path | None = None
        self._lock = threading.Lock()

    def write(self, events: Sequence[Any]) -> None:
        """Adds records; waits for the file system.

        Raises:
            OSError: They can't be written; none of them is. It names the file.
        """
        if not events:
            return
        with self._lock:
            if self._path is None:
                self._path = self._folder / _name()
            self._folder.mkdir(parents=True, exist_ok=True)
            with naming(self._path), self._path.open("ab", buffering=0) as file:
                start = file.tell()
                first = [] if start else [_version()]
                rest = memoryview(_encoded([*first, *events]))
                try:
                    while rest:
                        rest = rest[file.write(rest) :]
                except OSError:
                    with contextlib.suppress(OSError):
                        file.truncate(start)  # a reader would never get past half a record
                    raise

    def cut(self, began: int, count: int, step: int) -> None:
        """Takes out what comes after a place, of all files of the directory that are no older.

        Args:
            began: Unix seconds: what older files have stays.
            count: How many records stay that are of no batch.
            step: Those of batches stay up to this step.

        Raises:
            OSError: A file can't be read or written.
        """
        with self._lock:
            self._path = None
            for path in sorted(self._folder.glob(f"{_PREFIX}*")):
                seconds = path.name.removeprefix(_PREFIX).partition(".")[0]
                if seconds.isdigit() and int(seconds) >= began:
                    count -= _cut(path, count, step)


def _cut(path: Path, count: int, step: int) -> int:
    """Takes records out of a file; returns how many it keeps that are of no batch."""
    data = path.read_bytes()
    head, kept = b"", bytearray()
    others = 0
    for start, end in _places(data):
        found = _parsed(data[start + _HEAD : end - _TAIL])
        if found.file_version:
            head = data[start:end]
        elif found.summary.value and found.summary.value[0].tag.startswith("batch_"):
            if found.step <= step:
                kept += data[start:end]
        elif others < count:
            others += 1
            kept += data[start:end]
    if not kept:
        path.unlink()
    elif len(head) + len(kept) != len(data):
        with naming(path):
            new = path.with_name(f".{path.name}")
            new.write_bytes(head + kept)
            sync(new)
            new.replace(path)
    return others


def _places(data: bytes) -> Iterator[tuple[int, int]]:
    """Where the records of a file begin and end; of one that was cut off, nothing is kept."""
    start = 0
    while start + _HEAD <= len(data):
        end = start + _HEAD + int.from_bytes(data[start : start + 8], "little") + _TAIL
        if end > len(data):
            return
        yield start, end
        start = end


def _parsed(data: bytes) -> Any:
    from tensorboard.compat.proto import event_pb2

    made: Any = event_pb2
    return made.Event.FromString(data)


def _encoded(events: Sequence[Any]) -> bytes:
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for each in events:
        writer.write(each.SerializeToString())
    return buffer.getvalue()


def _version() -> Any:
    """What a file begins with."""
    return _record(wall_time=time.time(), file_version="brain.Event:2")


def _record(**fields: Any) -> Any:
    from tensorboard.compat.proto import event_pb2

    made: Any = event_pb2
    return made.Event(**fields)


def _name() -> str:
    """A name by which TensorBoard knows such a file; they are read in the order of their names."""
    seconds, rest = divmod(time.time_ns(), 10**9)
    host = socket.gethostname().replace(os.sep, "_")
    return f"{_PREFIX}{seconds:010d}.{host}.{os.getpid()}.{rest:09d}"
