"""Events that a hub doesn't keep any more, from the run's journal."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from fitbus import journal
from fitbus.errors import JournalError
from fitbus.events import Codec, Event
from fitbus.service._hub import Frame

if TYPE_CHECKING:
    from fitbus.service._launches import Launch

__all__ = ["past_frames"]

_AT_ONCE = 512


async def past_frames(
    launch: Launch, after: int, before: int, codec: Codec
) -> AsyncIterator[list[Frame]]:
    """The frames of the events between two numbers, if the run has a `Journal`."""
    path = _path(launch)
    if path is None:
        return
    of_run = journal.read(path, run=launch.id)
    events: Iterator[Event] = (event for event in of_run if after < event.seq < before)

    def some() -> list[Frame]:
        return [Frame.of(event, codec) for event in islice(events, _AT_ONCE)]

    try:
        while frames := await anyio.to_thread.run_sync(some):
            yield frames
    except (JournalError, OSError):
        return  # what is missing is told


def _path(launch: Launch) -> Any:
    if launch.run is None:
        return None
    found = [each for name, each in launch.run.preparation.callbacks if name == "Journal"]
    return found[0] if found else None
