"""Reads a journal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fitbus.control import Control
from fitbus.errors import InvalidArgumentError, JournalError
from fitbus.events import Codec, Event
from fitbus.journal._segments import frames, segments

__all__ = ["decoded", "read"]


def read(
    path: str | os.PathLike[str], *user_types: type[Event | Control], run: str | None = None
) -> Iterator[Event]:
    """The events of a journal in the order of writing, one by one as they are asked for.

    Takes memory for one event, however large the journal is. One that is being written is read as
    far as it has come. An event of a type that isn't told of comes as an `UnknownEvent`, a control
    as an `UnknownControl` in its notice. A last frame that a crash cut off ends the reading.

    Args:
        path: The journal: its directory, or one of its files; a `Journal` will do.
        user_types: Subclasses of `Event` and `Control` of your own, to be decoded.
        run: Only the events of the run of this id.

    Raises:
        InvalidArgumentError: An argument is of the wrong kind.
        JournalError: While reading: there is no journal, or it is damaged; names file and offset.
        OSError: While reading: a file isn't there, or can't be read.
    """
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise InvalidArgumentError("path", path, "give the path of a journal")
    if run is not None and not isinstance(run, str):
        raise InvalidArgumentError("run", run, "give the id of a run, a text")
    return _events(Path(path), Codec(*user_types), run)


def _events(path: Path, codec: Codec, run: str | None) -> Iterator[Event]:
    files = [path] if path.is_file() else [file for _, file in segments(path)]
    if not files:
        raise JournalError(path, 0, "the directory has no journal in it")
    for file in files:
        for frame in frames(file, is_last=file is files[-1]):
            event = decoded(codec, frame.payload, file, frame.offset)
            if run is None or event.run == run:
                yield event


def decoded(codec: Codec, payload: bytes, path: Path, offset: int) -> Event:
    """The event in a frame; raises `JournalError` if there is none."""
    try:
        event = codec.from_msgpack(payload)
    except Exception as error:  # whatever a type of the user's own raises, too
        what = f"a frame holds no event ({type(error).__name__}: {error})"
        raise JournalError(path, offset, what) from error
    if not isinstance(event, Event):
        raise JournalError(path, offset, f"a frame holds no event but a {type(event).__name__}")
    return event
