"""TensorBoard's event files: where they lie, and how records are added to them."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from fitbus.errors import FitbusError

__all__ = ["EventFile", "check_installed", "check_place", "event", "graph_event", "protos"]


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
            OSError: They can't be written; none of them is.
        """
        if not events:
            return
        with self._lock:
            if self._path is None:
                self._path = self._folder / _name()
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab", buffering=0) as file:
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
    return f"events.out.tfevents.{seconds:010d}.{host}.{os.getpid()}.{rest:09d}"
