"""The errors of a run's handlers, the first one first."""

from __future__ import annotations

import threading
from typing import final

__all__ = ["Failures"]


@final
class Failures:
    """Collects what handlers raised, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fatal: list[tuple[int, int, BaseException, str]] = []
        self._notes: list[str] = []
        self._interrupt: BaseException | None = None

    def add(self, seq: int, order: int, error: BaseException, note: str, *, fatal: bool) -> None:
        """Notes an error, with the event's `seq` and the subscription's place."""
        with self._lock:
            if not isinstance(error, Exception):
                self._interrupt = self._interrupt or error
            elif fatal:
                self._fatal.append((seq, order, error, note))
                self._fatal.sort(key=lambda entry: entry[:2])
            if error is not self._interrupt:
                self._notes.append(note)

    @property
    def interrupt(self) -> BaseException | None:
        """A KeyboardInterrupt or SystemExit that a handler raised."""
        return self._interrupt

    @property
    def pending(self) -> bool:
        """Whether one of them ends the run."""
        return bool(self._interrupt or self._fatal)

    def check(self) -> None:
        """Raises the first error that ends the run, if there is one."""
        if self._interrupt is not None:
            raise self._interrupt
        if self._fatal:
            raise self._fatal[0][2]

    def lead(self, error: BaseException | None) -> BaseException | None:
        """The error that leaves the run, with the others in its notes.

        It is the first one of a handler, or `error`, the loop's own.
        """
        with self._lock:
            own = {id(entry[2]): entry[3] for entry in self._fatal}
            if error is None or id(error) in own:
                error = self._fatal[0][2] if self._fatal else error
            if error is None:
                return None
            known: set[str] = set(getattr(error, "__notes__", ()))
            for note in self._notes:
                text = f"fitbus: also {note}"
                if note != own.get(id(error)) and text not in known:
                    error.add_note(text)
            mine = own.get(id(error))
            if mine is not None and f"fitbus: {mine}" not in known:
                error.add_note(f"fitbus: {mine}")
            return error

    @property
    def notes(self) -> tuple[str, ...]:
        """All of them, in words, in the order in which they came."""
        return tuple(self._notes)
