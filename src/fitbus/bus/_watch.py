"""Names handlers that block the event loop or hold training, with their stacks, while they do."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, final

from fitbus.bus._stacks import called_in, compiles, place_of, text

if TYPE_CHECKING:
    from fitbus.bus._bus import Bus
    from fitbus.bus._publisher import Publisher
    from fitbus.bus._subscription import Subscription

__all__ = ["STUCK_S", "TICK_S", "Watch"]

TICK_S = 0.1  # between two looks, and between two beats of the loop
STUCK_S = 0.6  # named within a second, even if the machine is busy
_TICKS = round(STUCK_S / TICK_S)
# Looks that come later than this say more of the process than of its handlers: it was stopped, or
# something held the interpreter's lock.
_LATE_S = 3 * TICK_S
_AGAIN = 10.0  # times as long as when it was named last
_AGAIN_S = 60.0
_JOIN_S = 1.0

_logger = logging.getLogger("fitbus")


@final
class Watch:
    """A thread that looks after a bus while that is hosted; what it looks at costs nothing more.

    Args:
        bus: The bus.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._lock = threading.Lock()
        self._users = 0
        self._looking: _Looking | None = None

    def enter(self) -> None:
        """Looks from now on; in the event loop."""
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._looking = _Looking(self._bus, threading.get_ident())

    def leave(self) -> None:
        """Undoes `enter`."""
        with self._lock:
            self._users -= 1
            looking = self._looking
            if self._users == 0:
                self._looking = None
        if looking is not None and self._looking is None:
            looking.end()

    def beat(self) -> None:
        """Says that the event loop runs; called there every `TICK_S`."""
        if self._looking is not None:
            self._looking.beats += 1


@final
class _Looking:
    """The thread, from the first host to the last."""

    def __init__(self, bus: Bus, loop_thread: int) -> None:
        self._bus = bus
        self._loop_thread = loop_thread
        self._ended = threading.Event()
        self._same: dict[Any, tuple[Any, int]] = {}  # what was seen, and how often in a row
        self._told: dict[Any, tuple[float, float]] = {}  # how long it had held, and when
        self.beats = 0
        self._thread = threading.Thread(target=self._main, name="fitbus watch", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Ends the thread."""
        self._ended.set()
        self._thread.join(_JOIN_S)

    def _main(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(TICK_S):
            now = time.monotonic()
            if now - last > _LATE_S:
                self._same.clear()
            last = now
            self._look()

    def _look(self) -> None:
        publishers = self._bus.runs.of(None)
        if not publishers:
            self._same.clear()
            return
        missed = self._count("loop", self.beats)
        if missed >= _TICKS:
            self._tell_of_loop(missed * TICK_S)
        for publisher in publishers:
            self._look_at_thread(publisher)
            if missed <= 1:  # else, what runs on the loop waits for what blocks it
                self._look_at_calls(publisher)
            else:
                self._same.pop((publisher, "calls"), None)

    def _count(self, key: Any, seen: Any) -> int:
        """How many looks in a row have seen the same."""
        before, count = self._same.get(key, (None, 0))
        count = count + 1 if before == seen else 0
        self._same[key] = seen, count
        return count

    def _tell_of_loop(self, held_s: float) -> None:
        subscription, stack = called_in(self._loop_thread)
        if compiles(stack) or not self._is_due(("loop", subscription), held_s):
            return
        if subscription is None:
            _logger.warning(
                "the event loop has not run for %.1f s: it is blocked, but by no handler of fitbus;"
                " call what is slow in a thread (anyio.to_thread.run_sync)\n%s",
                held_s,
                text(stack),
            )
        else:
            _logger.warning(
                "the event loop has not run for %.1f s: handler %r blocks it; let it await, call"
                " what is slow in a thread (anyio.to_thread.run_sync), or make it a `def` handler"
                "\n%s",
                held_s,
                subscription.name,
                text(stack),
            )

    def _look_at_thread(self, publisher: Publisher) -> None:
        """At a `def` handler in the training thread."""
        acting = publisher.thread_calls.acting
        if acting is None:
            self._same.pop((publisher, "thread"), None)
            return
        subscription = acting.subscription
        count = self._count((publisher, "thread"), (id(acting), subscription, subscription.called))
        if count >= _TICKS and acting.thread != self._loop_thread:
            found, stack = called_in(acting.thread)
            if found is subscription and not compiles(stack):
                self._tell_of_wait(publisher, subscription, acting.event, count, text(stack))

    def _look_at_calls(self, publisher: Publisher) -> None:
        """At the handlers on the loop that training waits for."""
        calls = publisher.standstill.awaited
        count = self._count((publisher, "calls"), id(calls))
        if count >= _TICKS:
            for subscription, call in calls:
                if not call.done and self._bus.hosting.hosts_subscription(subscription):
                    stack = text(place_of(subscription))
                    self._tell_of_wait(publisher, subscription, call.event, count, stack)

    def _tell_of_wait(
        self,
        publisher: Publisher,
        subscription: Subscription[Any],
        event: object,
        count: int,
        stack: str,
    ) -> None:
        held_s = count * TICK_S
        if self._is_due((publisher, subscription), held_s):
            _logger.warning(
                "run %r has waited %.1f s for handler %r of %s, which has not returned:\n%s",
                publisher.run,
                held_s,
                subscription.name,
                type(event).__name__,
                stack,
            )

    def _is_due(self, key: Any, held_s: float) -> bool:
        """Whether to say it, or again: much longer, or another time a minute later."""
        now = time.monotonic()
        told = self._told.get(key)
        if told is not None and not (
            held_s >= _AGAIN * told[0] or (now - told[1] >= _AGAIN_S and held_s <= told[0])
        ):
            return False
        self._told[key] = held_s, now
        return True
