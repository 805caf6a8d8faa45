"""What another thread wants done with the state of a run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, final

from fitbus.train._state import TrainState

__all__ = ["Request", "Requests"]


@final
class Request:
    """Something that another thread wants done at a boundary, such as a snapshot."""

    def __init__(self, work: Callable[[TrainState], Any], tell: Callable[[], object]) -> None:
        self._work = work
        self._tell = tell
        self.value: Any = None
        self.error: BaseException | None = None
        self.done = False

    def serve(self, state: TrainState) -> None:
        """Does it, and tells who asked."""
        try:
            self.value = self._work(state)
        except Exception as error:  # noqa: BLE001  # belongs to who asked
            self.error = error
        self.finish()

    def refuse(self, error: BaseException) -> None:
        """Says that it won't be done."""
        self.error = error
        self.finish()

    def finish(self) -> None:
        """Tells who asked."""
        self.done = True
        self._tell()


@final
class Requests:
    """Those that wait for the next boundary of a run.

    Args:
        tell: Lets the training thread know that one came in.
    """

    def __init__(self, tell: Callable[[], object]) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._waiting: list[Request] = []
        self._closed: BaseException | None = None

    def add(self, request: Request) -> None:
        """Asks for something. Any thread."""
        with self._lock:
            closed = self._closed
            if closed is None:
                self._waiting.append(request)
        if closed is not None:
            request.refuse(closed)
        else:
            self._tell()

    def take(self) -> list[Request]:
        """Takes them all."""
        with self._lock:
            taken, self._waiting = self._waiting, []
        return taken

    def close(self, error: BaseException) -> None:
        """Refuses what is still asked for, and all that will be. Any thread."""
        with self._lock:
            self._closed = error
        for request in self.take():
            request.refuse(error)

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)
