"""What comes in for one subscriber: its filter, its mailbox and its counters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import anyio

from fitbus._loops import Alarm
from fitbus.bus._calls import Call, Mark, Passed, Turn
from fitbus.bus._filter import Filter
from fitbus.bus._mailbox import Item, Mailbox
from fitbus.events import Event, Lagged

if TYPE_CHECKING:
    from fitbus.bus._bus import Bus
    from fitbus.bus._options import Options
    from fitbus.bus._staying import Stay

__all__ = ["Intake"]

_TOGETHER = 64  # events that a worker takes at once


class Intake:
    """Where publishing threads put a subscriber's events, and its worker or consumer takes them.

    Args:
        bus: The bus.
        name: What the subscriber is called.
        options: Its options.
        wants_lagged: Whether it subscribed to `Lagged` as well.
        one_by_one: Whether its worker must not take several events at once, because a call of the
            handler may itself take further ones, which would then be overtaken.

    Attributes:
        filter: What holds events back.
        mailbox: What waits.
        closing: Whether it takes no more events, and hands out those it has.
        ended: Whether nothing is handed out any more.
        called: Events for which a waiting handler was called, past the mailbox.
        delivered: Events that its handler finished, or that its consumer took.
        errors: Calls that raised.
        undelivered: Events that it had and never handed out.
        unyielded: Events handled since its worker last let others run.
        seconds: Time inside the handler, by its worker.
        thread_s: Time inside it in a training thread, which waits meanwhile.
        held_s: Time that training waited for it otherwise.
    """

    def __init__(
        self, bus: Bus, name: str, options: Options, *, wants_lagged: bool, one_by_one: bool
    ) -> None:
        self._bus = bus
        self._runs = bus.runs
        self._lock: Any = bus.lock
        self._wakeup = bus.wakeup
        self._blocks = options.overflow == "block"
        # A policy that drops can't reach what a worker has taken.
        self._together = _TOGETHER if self._blocks and not one_by_one else 1
        self._armed = False  # in the ready list, or its worker is at it
        self._changed: anyio.Event | None = None  # of a stream, for which several may wait
        self.alarm: Alarm | None = None  # of its worker, while there is one
        self.stay: Stay | None = None  # of its worker's thread, while it is in one
        self.filter = Filter(options)
        self.mailbox = Mailbox(
            name, options.buffer_size, options.overflow, wants_lagged=wants_lagged
        )
        self.closing = False
        self.ended = False
        self.called = 0
        self.delivered = 0
        self.errors = 0
        self.undelivered = 0
        self.unyielded = 0
        self.seconds = 0.0
        self.thread_s = 0.0
        self.held_s = 0.0

    @property
    def crowded(self) -> bool:
        """Whether training has to be held until there is room."""
        return self._blocks and not self.closing and self.mailbox.full

    def offer(self, event: Event, *, held: bool = False) -> None:
        """Takes an event in, unless a filter holds it back. The lock is held.

        Args:
            event: The event.
            held: Whether a `block` mailbox takes it beyond its size, as the loop is held later.
        """
        if self.filter.active and not self.filter.passes(event):
            return
        if self.closing:  # a predicate has ended it, its own or one before
            return
        full = self.mailbox.put_all((event,)) if held else self.mailbox.put(event)
        if full and self._blocks:
            self._bus.crowded = True
        if not self._armed:
            self._arm()

    def offer_all(self, events: Sequence[Event]) -> None:
        """Takes several events in, where no filter is active. The lock is held."""
        if self.closing:
            return
        if self.mailbox.put_all(events) and self._blocks:
            self._bus.crowded = True
        if not self._armed:
            self._arm()

    def put_marker(self, marker: Call | Turn | Mark | Passed) -> None:
        """Puts a marker behind what waits; finishes it at once if nobody will get there."""
        with self._lock:
            if not self.ended:
                self.mailbox.put_marker(marker)
                self._arm()
                return
        marker.finish()

    def take(self) -> Item | None:
        """Takes what comes next. None if nothing waits: from then on its owner will be woken."""
        with self._lock:
            item = self.mailbox.take()
            if item is None:
                self._armed = False
        if self._runs.holding:
            self._runs.ring()
        return item

    def take_some(self) -> list[Item]:
        """Takes what waits, for its worker; empty if nothing does: from then on it will be woken.

        Many at once where nothing can be dropped or overtaken.
        """
        with self._lock:
            items = self.mailbox.take_some(self._together)
            if not items:
                self._armed = False
        if self._runs.holding:
            self._runs.ring()
        return items

    def give_up(self, items: Sequence[Item]) -> None:
        """Counts what its worker took and won't handle; nobody is left waiting for a marker."""
        with self._lock:
            events = sum(isinstance(i, Event) and not isinstance(i, Lagged) for i in items)
            self.mailbox.give_up(events)
            self.undelivered += events
            self.count_missed(sum(isinstance(i, Call) for i in items))
        for item in items:
            if isinstance(item, Call | Turn | Mark | Passed):
                item.finish()

    def take_event(self) -> Event | None:
        """Takes the next event if one comes next, and leaves a marker where it is. Any thread."""
        with self._lock:
            event = self.mailbox.take_event()
        if self._runs.holding:
            self._runs.ring()
        return event

    def rests(self) -> bool:
        """Whether nothing waits, no marker either: from then on its worker will be woken."""
        with self._lock:
            if self.mailbox:
                return False
            self._armed = False
            return True

    def count_missed(self, calls: int = 1) -> None:
        """Counts events that a waiting handler should have been called for, and wasn't."""
        with self._lock:
            self.mailbox.published += calls
            self.mailbox.dropped += calls
            self.undelivered += calls

    async def wait_for_change(self) -> None:
        """Waits in the loop until there may be something to take, or the stream ends."""
        if self.mailbox or self.ended:
            return
        if self._changed is None or self._changed.is_set():
            self._changed = anyio.Event()
        await self._changed.wait()

    def notify(self) -> None:
        """Wakes its worker or consumer; in the loop."""
        if self.stay is not None:
            self.stay.wake()
        elif self.alarm is not None:
            self.alarm.ring()
        elif self._changed is not None:
            self._changed.set()

    def _arm(self) -> None:
        self._armed = True
        self._wakeup.ready.append(self)
