"""What a training loop publishes with."""

from __future__ import annotations

import abc
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fitbus.bus._deferred import Deferred
from fitbus.bus._delivery import Delivery, Errors
from fitbus.errors import InvalidArgumentError
from fitbus.events import Event, HandlerFailed, PredictBatchEnd

if TYPE_CHECKING:
    from fitbus.bus._bus import Bus
    from fitbus.bus._desk import Desk
    from fitbus.bus._standing import Standstill
    from fitbus.bus._subscription import Subscription

__all__ = ["Sender"]


class Sender(abc.ABC):
    """The half of a publisher that sends events: in any thread, without waiting for anybody."""

    desk: Desk
    standstill: Standstill

    def __init__(self, bus: Bus, run: str, flush_s: float) -> None:
        self.bus = bus
        self.run = run
        self.step = self.epoch = 0
        self.closed = False
        self.lock: Any = bus.lock
        self.delivery = Delivery(bus, run)
        self.deferred = Deferred()
        self.tail = self.delivery.tail
        self._wakeup = bus.wakeup
        self._flush_s = flush_s
        self._flushed = 0.0

    def publish(self, event: Event, *, held: bool = False) -> None:
        """Stamps an event and puts it into the mailboxes. Any thread; never blocks.

        Waiting handlers aren't waited for: those on the loop are called there, `def` ones in the
        training thread at its next boundary. Costs well under a microsecond and a mailbox each.
        Never raises for the state of loop or bus: after `close` the event is lost, unless it tells
        of a handler that failed while the run was drained: then `def` handlers that training waits
        for, whose thread has ended, don't get it, which is counted.

        Args:
            event: The event.
            held: For what a loop itself tells between two boundaries, at which it is held while a
                `block` mailbox is full: it takes these beyond its size; others it loses past twice
                that.
        """
        if self.desk.left:
            self.desk.decide()
        errors: Errors = []
        with self.lock:
            late = type(event) is HandlerFailed and self.bus.runs.get(self.run) is self
            if self.closed and not late:
                return
            route = self.delivery.routes.of_event(event)
            event = self.delivery.one(event, route, self.step, self.epoch, errors, held=held)
            if route.on_loop:
                self.standstill.calls_on_loop(event, route.on_loop, errors, waited_for=False)
            if route.in_thread and self.closed:
                self.deferred.miss(event, route.in_thread)
            elif route.in_thread:
                self.deferred.add(event, route.in_thread)
        self._delivered(errors, event.time)

    def publish_all(
        self, events: Sequence[Event], steps: Sequence[int], skipped: tuple[type[Event], ...] = ()
    ) -> None:
        """The same for several events of a loop, a good deal cheaper: all are stamped at one time.

        A `block` mailbox takes them all, since a loop can't be held between them: call `boundary`
        before the next ones.

        Args:
            events: The events; at least one.
            steps: The `step` of each.
            skipped: Types to which nobody is subscribed, and of which each event has one before it.

        Raises:
            InvalidArgumentError: There is no event, or not a step for each; nothing is published.
        """
        if not events or len(events) != len(steps):
            raise InvalidArgumentError("steps", steps, f"give one for each of {len(events)} events")
        errors: Errors = []
        now: float | None = None
        with self.lock:
            routes = self.delivery.routes.of_events(events)
            one_by_one = (
                any(route.waiting for route in routes.values()) or PredictBatchEnd in routes
            )
            if not (one_by_one or self.closed or self.desk.left):
                now = self.delivery.many(events, routes, steps, self.epoch, skipped, errors)
                self.step = steps[-1]
        if now is not None:
            self._delivered(errors, now)
            return
        for event, step in zip(events, steps, strict=True):
            if skipped:
                self.skip(skipped)
            self.step = step
            self.publish(event, held=True)

    def skip(self, kinds: tuple[type[Event], ...], times: int = 1) -> None:
        """Takes the places of events that nobody is subscribed to, so many times these types.

        A loop asks `wanted` first; so `seq` doesn't depend on who listens.
        """
        with self.lock:
            self.delivery.skip(kinds, times)

    @property
    def seq(self) -> int:
        """The `seq` of the next event. Any thread."""
        return self.delivery.seq

    def go_on(self, seq: int) -> None:
        """Gives the next event this `seq`, where a run goes on from an earlier one; never back."""
        with self.lock:
            self.renumber(max(seq, self.delivery.seq))

    def renumber(self, seq: int) -> None:
        """Gives the next event this `seq`, of those that are told once more."""
        with self.lock:
            if seq != self.delivery.seq:
                self.delivery.seq = seq
                self.tail.begin(seq)

    def wanted(self, kind: type[Event]) -> bool:
        """Whether anybody is subscribed to a type, or to a base of it."""
        return self.delivery.routes.of(kind).wanted

    def waits(self, kind: type[Event]) -> bool:
        """Whether training has to wait for a handler of a type."""
        return self.delivery.routes.of(kind).waiting

    @property
    def changes(self) -> int:
        """How often subscribers changed: `wanted` and `waits` say the same as long as this does."""
        return self.delivery.routes.changes

    def flush(self, now: float | None = None) -> None:
        """Tells the event loop what is there, if that was put off."""
        self._flushed = time.time() if now is None else now
        self._wakeup.flush()

    @abc.abstractmethod
    def fail(self, subscription: Subscription[Any], event: Event, error: BaseException) -> None:
        """Deals with what a handler raised. Any thread."""

    def _delivered(self, errors: Errors, now: float) -> None:
        """Deals with what predicates raised, and tells the loop if that is due."""
        if errors:
            self.fail_all(errors)
        if not 0.0 <= now - self._flushed < self._flush_s:
            self.flush(now)

    def fail_all(self, errors: Errors) -> None:
        """Deals with what predicates raised. Without the lock."""
        for subscription, event, error in errors:
            self.fail(subscription, event, error)
