"""Reads a journal."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fitbus.control import Control
from fitbus.errors import InvalidArgumentError, JournalError
from fitbus.events import Codec, Event
from fitbus.journal._segments import frames, segments

__all__ = ["check_events", "decoded", "events_of", "read"]


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


def check_events(argument: str, given: object) -> None:
    """Refuses what is neither the path of a journal nor events.

    Raises:
        InvalidArgumentError: It is something else; names the argument.
    """
    is_path = isinstance(given, str | os.PathLike)
    if not (str(given) if is_path else isinstance(given, Iterable)) or isinstance(given, bytes):
        raise InvalidArgumentError(
            argument, given, "give the path of a journal, or events of a run, in order"
        )


def events_of(argument: str, given: Any, *user_types: type[Event | Control]) -> Iterator[Event]:
    """The events of a journal, by its path, or those that are given, one by one.

    Args:
        argument: The name of the argument, for messages.
        given: The path of a journal, a `Journal`, or events.
        user_types: As in `read`, for a path.

    Raises:
        InvalidArgumentError: It is neither.
    """
    check_events(argument, given)
    if isinstance(given, str | os.PathLike):
        return read(given, *user_types)
    events: Iterable[Event] = given
    return iter(events)


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
