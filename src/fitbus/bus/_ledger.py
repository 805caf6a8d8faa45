"""How long a run takes, and for whom its training waits: the books of one run."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any, final

from fitbus.bus._statistics import SubscriberReport, SubscriptionStatistics

if TYPE_CHECKING:
    from fitbus.bus._bus import Bus
    from fitbus.bus._subscription import Subscription

__all__ = ["Ledger"]


@final
class Ledger:
    """Keeps what a subscriber of several runs has in this one apart.

    Such a subscriber counts on from run to run. What it had when this one began is noted then, and
    taken off again from what is told. Time that training waited is noted where it waited, so that
    it is this run's also while others are live.

    Attributes:
        began: When the run began (`time.perf_counter`).
    """

    def __init__(self, bus: Bus, run: str) -> None:
        self._run = run
        self._ended: float | None = None
        self._held_s: dict[int, float] = {}  # by `order`, of subscribers of the whole bus
        with bus.lock:
            self._before = {
                s.order: (SubscriptionStatistics.of(s), s.undelivered)
                for s in bus.subscriptions
                if s.run is None
            }
        self.began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Wall-clock seconds from the run's beginning until now, or until it ended."""
        return (time.perf_counter() if self._ended is None else self._ended) - self.began

    def end(self) -> None:
        """Notes that it has ended: nothing is published any more."""
        if self._ended is None:
            self._ended = time.perf_counter()

    def charge(self, subscription: Subscription[Any], seconds: float) -> None:
        """Notes time for which training waited, outside of a `def` handler. Training thread."""
        subscription.held_s += seconds
        if subscription.run is None:
            self.note_shared(subscription, seconds)

    def note_shared(self, subscription: Subscription[Any], seconds: float) -> None:
        """Notes that the time was this run's."""
        order = subscription.order
        self._held_s[order] = self._held_s.get(order, 0.0) + seconds

    def held_s(self, subscription: Subscription[Any]) -> float:
        """Seconds that this run's training waited for a subscriber."""
        if subscription.run is None:
            return self._held_s.get(subscription.order, 0.0)
        return subscription.held_s + subscription.thread_s

    def statistics(self, subscription: Subscription[Any]) -> SubscriptionStatistics:
        """A subscriber's counters, as far as they are of this run. The lock is held."""
        now = SubscriptionStatistics.of(subscription, self.seconds)
        before = self._before.get(subscription.order)
        if before is not None:
            now = now.since(before[0])
        return dataclasses.replace(now, held_s=self.held_s(subscription))

    def report(self, subscription: Subscription[Any]) -> SubscriberReport:
        """The same in the end. The lock is held."""
        _, undelivered = self._before.get(subscription.order, (None, 0))
        left = subscription.undelivered - undelivered
        return SubscriberReport.made(self.statistics(subscription), left)
