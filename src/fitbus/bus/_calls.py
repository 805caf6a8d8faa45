"""Markers in a mailbox by which a thread or a task learns where its subscriber has got to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

import anyio

from fitbus._loops import LoopHandle
from fitbus.bus._mailbox import Marker

if TYPE_CHECKING:
    from fitbus.bus._options import Hook
    from fitbus.events import Event

__all__ = ["Call", "Mark", "Passed", "Turn"]


@final
class Call(Marker):
    """A call of a waiting handler on the event loop, for which a thread stands still.

    Attributes:
        made: When it was made (`time.perf_counter`): from then on training waits.
        done: Whether it returned, failed or was given up, and
        ended: when.
        result: What the handler returned.
        error: What it raised.
    """

    def __init__(
        self, event: Event, hook: Hook, logs: dict[str, float] | None, tell: Callable[[], object]
    ) -> None:
        self.event = event
        self.hook = hook
        self.logs = logs
        self.waited_for = True
        self.made = time.perf_counter()
        self.done = False
        self.ended: float | None = None
        self.result: Any = None
        self.error: BaseException | None = None
        self._tell = tell
        self._lock = threading.Lock()

    def finish(self) -> None:
        """Lets the thread go on."""
        self.ended = time.perf_counter()
        with self._lock:
            self.done = True
        self._tell()

    def give_up(self) -> bool:
        """Waits no longer. False if it is done: either the thread or the loop has its answer."""
        with self._lock:
            self.waited_for = self.done
            return not self.done


@final
class Turn(Marker):
    """Holds a subscriber's worker while a thread calls one of its `def` hooks."""

    def __init__(self, tell: Callable[[], object]) -> None:
        self.reached = False
        self._tell = tell
        self._released = False
        self._wake: Callable[[], object] | None = None

    def finish(self) -> None:
        """Says that nothing is left before it; also when the subscriber has ended."""
        self.reached = True
        self._tell()

    async def hold(self) -> None:
        """Waits, in the worker, until the thread is through."""
        freed = anyio.Event()
        loop = LoopHandle()
        self._wake = lambda: loop.call_soon(freed.set)
        self.finish()
        if not self._released:
            await freed.wait()

    def release(self) -> None:
        """Lets the worker go on."""
        self._released = True
        if self._wake is not None:
            self._wake()


@final
class Mark(Marker):
    """Tells a task in the loop that everything before it was handled."""

    def __init__(self) -> None:
        self._reached = anyio.Event()
        self._loop = LoopHandle()

    @property
    def reached(self) -> bool:
        """Whether everything was."""
        return self._reached.is_set()

    def finish(self) -> None:
        """Says so. Any thread."""
        self._loop.call_soon(self._reached.set)

    async def wait(self) -> None:
        """Waits for it."""
        await self._reached.wait()


@final
class Passed(Marker):
    """Tells threads that everything before it was handled."""

    def __init__(self) -> None:
        self._reached = threading.Event()

    def finish(self) -> None:
        """Says so. Any thread."""
        self._reached.set()

    def wait(self, timeout_s: float) -> bool:
        """Waits for it, so long at most; tells whether it came. Not in the event loop."""
        return self._reached.wait(timeout_s)
