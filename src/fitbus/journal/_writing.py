"""Writes a journal."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import final

from fitbus._files import naming, sync
from fitbus.errors import InvalidArgumentError
from fitbus.events import Codec, Event
from fitbus.journal._reading import decoded
from fitbus.journal._segments import HEADER, framed, frames, segment, segments

__all__ = ["JournalWriter"]


@final
class JournalWriter:
    """Appends events to a journal; for one thread at a time, and one writer a journal.

    What `write` has returned from survives the death of the process. What `sync` has returned from
    survives that of the machine. Between two calls no file is held open.

    Args:
        path: The directory. It is made if its parent is there.
        segment_bytes: The size at which another segment is begun; a larger event has one alone.
        keep_segments: How many stay, the oldest are deleted; None keeps all.
        anew: Whether what is there is deleted; else half a last frame is cut off.

    Raises:
        InvalidArgumentError: An argument is of the wrong kind or out of range.
        JournalError: What is to be appended to is damaged elsewhere than in its last frame.
        OSError: It can't be written; it names the file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        segment_bytes: int = 64 << 20,
        keep_segments: int | None = None,
        anew: bool = False,
    ) -> None:
        if not isinstance(path, str | os.PathLike) or not os.fspath(path):
            raise InvalidArgumentError("path", path, "give the path of a directory")
        for name, value in (("segment_bytes", segment_bytes), ("keep_segments", keep_segments)):
            is_whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            if not is_whole and not (value is None and name == "keep_segments"):
                raise InvalidArgumentError(name, value, "give a whole number of at least 1")
        self._path = Path(path)
        self._segment_bytes = segment_bytes
        self._keep = keep_segments
        self._codec = Codec()
        self._path.mkdir(exist_ok=True)
        found = segments(self._path)
        if anew:
            for _, file in reversed(found):  # what a crash leaves is a beginning
                file.unlink()
            found = []
        self._numbers = [number for number, _ in found]
        self._size = 0
        if found:
            self._open_last()
        else:
            self._begin_segment(1)

    def write(self, events: Iterable[Event]) -> None:
        """Appends events, in order. One that can't be encoded takes none with it.

        Raises:
            TypeError: A field of an event of yours can't be encoded.
            OSError: The file can't be written, or was deleted meanwhile; it names it.
        """
        gathered: list[bytes] = []
        gathered_bytes = 0
        try:
            for event in events:
                data = framed(self._codec.to_msgpack(event))
                size = self._size + gathered_bytes
                if size > len(HEADER) and size + len(data) > self._segment_bytes:
                    self._append(gathered)
                    gathered, gathered_bytes = [], 0
                    self.sync()
                    self._begin_segment(self._numbers[-1] + 1)
                gathered.append(data)
                gathered_bytes += len(data)
        finally:
            self._append(gathered)

    def sync(self) -> None:
        """Returns when what was written is on the disk."""
        with naming(self._file):
            sync(self._file)

    def cut(self, seq: int) -> None:
        """Takes away what is at the end of the journal, from a `seq` on.

        Args:
            seq: That of the first event that comes now.
        """
        while True:
            kept = len(HEADER)
            for frame in frames(self._file, is_last=True):
                event = decoded(self._codec, frame.payload, self._file, frame.offset)
                if event.seq < seq:
                    kept = frame.end
            if kept > len(HEADER) or len(self._numbers) == 1:
                self._truncate(kept)
                return
            self._file.unlink()
            self._numbers.pop()
            self._size = self._file.stat().st_size

    @property
    def _file(self) -> Path:
        return segment(self._path, self._numbers[-1])

    def _open_last(self) -> None:
        end = 0
        for frame in frames(self._file, is_last=True):
            end = frame.end
        size = self._file.stat().st_size
        if not end:  # no frame: there may be half a header
            with naming(self._file):
                self._file.write_bytes(HEADER)
            end = size = len(HEADER)
        self._size = size
        if size > end:
            self._truncate(end)

    def _truncate(self, size: int) -> None:
        with naming(self._file), self._file.open("r+b") as file:
            file.truncate(size)
            os.fsync(file.fileno())
        self._size = size

    def _begin_segment(self, number: int) -> None:
        file = segment(self._path, number)
        with naming(file):
            file.write_bytes(HEADER)
            self._numbers.append(number)
            self._size = len(HEADER)
            sync(self._path)
            while self._keep is not None and len(self._numbers) > self._keep:
                segment(self._path, self._numbers.pop(0)).unlink(missing_ok=True)

    def _append(self, parts: list[bytes]) -> None:
        data = b"".join(parts)
        if not data:
            return
        path = self._file
        with naming(path), path.open("r+b", buffering=0) as file:  # one that is gone isn't made
            file.seek(0, os.SEEK_END)
            view = memoryview(data)
            try:
                while view:
                    view = view[file.write(view) or 0 :]
            except BaseException:  # half a frame would be damage, if more came after it
                with contextlib.suppress(OSError):
                    file.truncate(self._size)
                raise
        self._size += len(data)
