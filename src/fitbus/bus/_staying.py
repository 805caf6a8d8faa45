"""A thread that stays with one subscriber's concurrent `def` handler between two of its calls."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from fitbus.bus._bus import Bus
    from fitbus.bus._subscription import Subscription
    from fitbus.events import Event

__all__ = ["Stay"]

_IDLE_S = 1.0


@final
class Stay:
    """Where such a thread waits for the next event, since another thread for each would cost more.

    It counts the seconds in the handler, call by call, so that they can be read meanwhile.
    """

    def __init__(self, subscription: Subscription[Any], bus: Bus) -> None:
        self._subscription = subscription
        self._bus = bus
        self._woken = threading.Event()
        self._is_left = False
        self._called_at: float | None = None

    def wake(self) -> None:
        """Something came, or the thread is wanted back. Any thread."""
        self._woken.set()

    def leave(self) -> None:
        """The thread has ended; or nobody waits for it any more, and it takes no further event."""
        self._is_left = True
        self._count()
        self._woken.set()

    def begin(self) -> None:
        """The handler is called now."""
        self._called_at = time.perf_counter()

    def end(self) -> None:
        """It has returned."""
        if not self._is_left:
            self._count()

    def next(self) -> Event | None:
        """The next event; None if the thread shall end, for a while or for good."""
        subscription = self._subscription
        while not (self._is_left or subscription.ended):
            event = subscription.take_event()
            if event is not None:
                return event
            if subscription.closing or self._bus.hosting.is_left(subscription):
                return None
            if not subscription.rests():  # there is a marker, which is the task's
                return None
            if not self._woken.wait(_IDLE_S):
                return None
            self._woken.clear()  # first: what comes from here on wakes it again
        return None

    def _count(self) -> None:
        called_at, self._called_at = self._called_at, None
        if called_at is not None:
            self._subscription.seconds += time.perf_counter() - called_at
