"""Thread to event loop: one wake-up for however many events."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, final

from fitbus._loops import LoopHandle

if TYPE_CHECKING:
    from fitbus.bus._intake import Intake

__all__ = ["Wakeup"]


@final
class Wakeup:
    """Collects the subscriptions that have something to do, and tells their loop once.

    Whoever puts something into a mailbox appends its subscription to `ready`, then calls `flush`,
    at once or some time later. The flag is ours because an asyncio loop writes a byte for each
    call, and trio wakes for each. It is cleared before the list is taken, so that nothing that
    comes in meanwhile is overlooked.

    Attributes:
        ready: Subscriptions to notify; guarded by `lock`.
        loop: The loop, None as long as nobody hosts the bus.
        wakes: How often the loop was told.
    """

    def __init__(self, lock: threading.RLock) -> None:
        self._lock: Any = lock
        self._armed = False
        self.ready: list[Intake] = []
        self.loop: LoopHandle | None = None
        self.wakes = 0

    def bind(self, loop: LoopHandle) -> None:
        """Uses this loop from now on."""
        self.loop = loop
        self._armed = False
        self.flush()

    def drop(self, subscription: Intake) -> None:
        """Forgets one that nobody waits for. The lock is held."""
        self.ready = [other for other in self.ready if other is not subscription]

    def flush(self) -> None:
        """Tells the loop, if there is something to tell and it hasn't been told. Any thread."""
        if self.ready and not self._armed and self.loop is not None:
            self._armed = True
            self.wakes += 1
            if not self.loop.call_soon(self._on_wake):
                self._armed = False

    def _on_wake(self) -> None:
        """Runs in the loop, where an exception would end everything."""
        self._armed = False
        with self._lock:
            ready, self.ready = self.ready, []
        for subscription in ready:
            subscription.notify()
