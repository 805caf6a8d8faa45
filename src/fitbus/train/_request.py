"""What another thread wants done with the state of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from fitbus.train._state import TrainState

__all__ = ["Request"]


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
