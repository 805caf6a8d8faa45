"""A source, pass after pass: what is read of it, how far, and where it says that it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, final

from fitbus.train._source import HostBatch, Source
from fitbus.train._stateful import Stateful, refuse_other

__all__ = ["Passes"]

_KEPT = 3  # notes of a pass: that of its beginning, and the newest


@final
class Passes:
    """Reads a source, and begins another pass where one is asked for more than it has.

    A source that can say where it is says where it is *now*, and more may have been read of it than
    was trained on. So what it says is noted before it is read ahead of training; of a place between
    two such notes a mark says the note before it, and how many batches to read from there.

    Args:
        argument: The name of the argument, for messages.
        source: Where batches come from.

    Attributes:
        begun: How many passes have begun.
        pulled: How many batches of the last of them were read.
        exhausted: Whether nothing is left, and nothing more will come.
        notes: Whether somebody will ask for marks.
    """

    def __init__(self, argument: str, source: Source) -> None:
        self._argument = argument
        self._source = source
        self._batches: Iterator[HostBatch] | None = None
        self._ended = False  # the last pass, by itself
        self._again = False  # a pass that gives nothing was at its end already: another one begins
        self._noted: list[tuple[tuple[int, int], dict[str, Any]]] = []  # of this pass,
        self._noted_before: list[tuple[tuple[int, int], dict[str, Any]]] = []  # and the one before
        self._gone_to: Mapping[str, Any] | None = None
        self.begun = 0
        self.pulled = 0
        self.exhausted = False
        self.notes = False

    @property
    def under_way(self) -> bool:
        """Whether a pass has begun, and its end wasn't seen."""
        return self._batches is not None

    def pull(self) -> HostBatch | None:
        """The next batch; None at the end of a pass."""
        if self.exhausted:
            return None
        if self._batches is None:
            self.begin()
        assert self._batches is not None
        found = next(self._batches, None)
        if found is not None:
            self.pulled += 1
            self._again = False
            return found
        self._close()
        self._ended = True
        if self._again:
            self._again = False
            return self.pull()
        self.exhausted = not self._source.restarts
        return None

    def begin(self, first: int = 0) -> None:
        """Begins a pass, at a batch other than its first one only if the source `seeks`."""
        self._begin(first)
        self.note()

    def drop(self) -> None:
        """Leaves off a pass; raises what closing it raised."""
        if self._batches is not None and self._source.stateful is not None:
            self._again = self._source.restarts
        self._close()

    def note(self) -> None:
        """Notes where the source is, before it is read ahead, if somebody will ask for marks."""
        if self.notes and self.under_way and self._stateful is not None:
            self._here()

    def mark(self, place: tuple[int, int], *, anew: bool) -> Mapping[str, Any] | None:
        """What to put the source back by.

        Args:
            place: The number of a pass, and how many of its batches are done; not before the last
                place that was asked for.
            anew: Whether another pass begins there.

        Returns:
            Plain values; None if the source has no state, or needs none there.
        """
        own = self._source.stateful is not None
        if not self.notes or (anew and not own):
            return None
        if self._gone_to is not None and self._gone_to["place"] == place:
            return self._gone_to
        if not self.begun:
            return self._told(place) if own else None
        return self._begun_mark(place, anew=anew)

    def _begun_mark(self, place: tuple[int, int], *, anew: bool) -> Mapping[str, Any] | None:
        number, done = place
        end = self.begun - 1, self.pulled
        if anew and number < end[0]:  # the one that begins there has begun
            return {**self._noted[0][1], "place": place, "ended": True}
        if anew and done and not self._ended:  # it will be left off
            (_, at), note = self._noted[-1]
            return {**note, "place": place, "at": at, "read": self.pulled - at, "left": True}
        if place == end and self._ended:
            told = self._told(place) if self._source.stateful is not None else _BARE
            return {**told, "rows": self._source.rows, "place": place, "ended": True}
        if place == end:
            return None if self._stateful is None else self._here()
        for (noted, at), note in reversed(self._noted_before + self._noted):
            if noted == number and at <= done:
                return {**note, "place": place, "read": done - at}
        return None

    def go_to(self, mark: Mapping[str, Any], *, anew: bool) -> bool:
        """Puts the source where it was when it was marked.

        Returns:
            Whether the data reach so far.

        Raises:
            DataError: It was another kind of data.
        """
        source = self._source
        number, taken = mark["place"]
        self._close()
        self.exhausted = self._ended = self._again = False
        self.pulled = 0
        self._noted, self._noted_before = [], []
        source.rows = mark["rows"] or source.rows
        self._gone_to = {**mark, "place": (number, taken)}
        whose = source.stateful
        if mark["type"] and (whose is None) != mark["of_pass"]:
            kind = "data without" if whose is None else "one that has"
            refuse_other(self._argument, mark, f"{kind} a state of its own")
        if whose is not None:
            whose.put(mark)
        if mark["ended"] or (anew and not mark["left"]):
            self.begun, self._again = number + (taken > 0), whose is not None
            return True
        self.begun = number
        self._begin(mark["at"] if source.seeks else 0, None if whose is not None else mark)
        self.pulled = mark["at"]
        told = {**mark, "place": (number, mark["at"]), "read": 0, "left": False}
        self._noted = [((number, self.pulled), told)]  # it may know again when it has been read
        self._again = whose is not None and mark["read"] > 0
        for _ in range(mark["read"]):
            if self.pull() is None:
                return False
        if mark["left"]:
            self.drop()
        return True

    @property
    def _stateful(self) -> Stateful | None:
        """What has a state: the data; or else what this pass reads from."""
        own: Stateful | None = getattr(self._batches, "stateful", None)
        return self._source.stateful or own

    def _begin(self, first: int, told: Mapping[str, Any] | None = None) -> None:
        self._batches = self._source.begin(self.begun, first, told)
        self.begun += 1
        self.pulled, self._ended = first, False
        self._noted_before, self._noted = self._noted, []

    def _close(self) -> None:
        batches, self._batches = self._batches, None
        close: Callable[[], object] | None = getattr(batches, "close", None)
        if close is not None:
            close()

    def _here(self) -> dict[str, Any]:
        """What it says of the place up to which it was read."""
        place = self.begun - 1, self.pulled
        if not self._noted or self._noted[-1][0] != place:
            self._noted.append((place, self._told(place)))
            del self._noted[1 : 1 - _KEPT]
        return self._noted[-1][1]

    def _told(self, place: tuple[int, int]) -> dict[str, Any]:
        assert self._stateful is not None
        told = {**_BARE, **self._stateful.ask(), "rows": self._source.rows}
        return {**told, "of_pass": self._source.stateful is None, "place": place, "at": place[1]}


# Of which only the end of a pass is known.
_BARE: dict[str, Any] = {
    "type": "",  # of what says where it is,
    "methods": "",  # the one that was asked,
    "state": None,  # and what it said.
    "of_pass": True,  # whether it is what a pass reads from, and not the data themselves
    "rows": None,  # up to which short batches are filled
    "place": (0, 0),
    "at": 0,  # batches of the pass that were read when it said so
    "read": 0,  # batches to read from there
    "left": False,  # whether the pass is left off there
    "ended": False,  # whether the end of the pass was seen
}
