"""`def` handlers that training waits for, when it wasn't the training thread that published."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from fitbus.bus._in_thread import ThreadCalls
    from fitbus.bus._options import Hook
    from fitbus.bus._subscription import Subscription
    from fitbus.events import Event

__all__ = ["Deferred"]


@final
class Deferred:
    """Calls that are put off to the next boundary or barrier of the training thread.

    Attributes:
        calling: Whether one of them is going on: the controls that it sends wait for the boundary.
    """

    def __init__(self) -> None:
        self.calling = False
        self._calls: deque[tuple[Event, Subscription[Any], Hook]] = deque()

    def add(self, event: Event, handlers: Iterable[tuple[Subscription[Any], Hook]]) -> None:
        """Puts off an event's calls. The lock is held."""
        self._calls.extend((event, *handler) for handler in handlers)

    def call(self, calls: ThreadCalls, before: float = math.inf) -> None:
        """Makes those calls that are for events before a `seq`. Training thread."""
        was_calling = self.calling
        while self._calls and self._calls[0][0].seq < before:
            event, subscription, hook = self._calls.popleft()
            self.calling = True
            try:
                calls.call(event, subscription, hook, dict(getattr(event, "logs", ())))
            finally:
                self.calling = was_calling

    def miss(self, event: Event, handlers: Iterable[tuple[Subscription[Any], Hook]]) -> None:
        """Counts calls that nobody will make, as the thread has ended. The lock is held."""
        for subscription, _ in handlers:
            # What a predicate raises here is nobody's business any more.
            with contextlib.suppress(Exception):
                if not subscription.ended and subscription.filter.passes(event):
                    subscription.count_missed()

    def clear(self) -> None:
        """Forgets what is left, and counts it. The lock is held."""
        while self._calls:
            event, subscription, hook = self._calls.popleft()
            self.miss(event, [(subscription, hook)])

    def __bool__(self) -> bool:
        """Whether any is left."""
        return bool(self._calls)
