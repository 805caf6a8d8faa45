"""What the bus counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, final

from fitbus._costs import Entry, html_table, table

if TYPE_CHECKING:
    from fitbus.bus._subscription import Subscription

__all__ = ["BusStatistics", "DeliveryReport", "SubscriberReport", "SubscriptionStatistics"]


class _Shares:
    """What a subscriber cost, as shares of a run."""

    seconds: float
    held_s: float
    run_s: float

    @property
    def held_share(self) -> float:
        """For how much of the run training waited for it, from 0 to 1."""
        return min(1.0, self.held_s / self.run_s) if self.run_s else 0.0

    @property
    def handler_share(self) -> float:
        """Seconds in the handler for each second of the run.

        Above 1 for one that can't keep up: it went on when the run was over.
        """
        return self.seconds / self.run_s if self.run_s else 0.0


@final
@dataclasses.dataclass(frozen=True)
class SubscriptionStatistics(_Shares):
    """One subscription at one moment: `published == delivered + dropped + queued + in_flight`.

    As `run.statistics()` gives it, it is of that run. A subscriber of the whole bus then has what
    it counted since the run began, what other runs sent it meanwhile included, and what waited for
    it then; but `held_s` is this run's alone. Elsewhere it is of all runs.

    Attributes:
        name: The subscription's name.
        published: Events that matched it and passed its filters.
        delivered: Events that its handler finished, or that its consumer took.
        dropped: Events that were lost: to a full mailbox, or unread when it ended.
        queued: Events that wait in its mailbox.
        in_flight: Events that its handler is working on, or that were taken out for it: up to 64.
        errors: Calls that raised.
        seconds: Time inside the handler, from call to return.
        held_s: Time that training waited for it: from an event until its handler was through, and
            while its `block` mailbox was full. Of handlers that are waited for together each counts
            until it was through itself, so these times overlap, and one that blocks the event loop
            makes the others late.
        run_s: Wall-clock seconds of the run until then, of which `held_share` and `handler_share`
            are told; of several runs, their sum. 0 for a run's own subscriber when that has ended:
            ask `run.report`. Readings are compared without it.
    """

    name: str
    published: int
    delivered: int
    dropped: int
    queued: int
    in_flight: int
    errors: int
    seconds: float
    held_s: float
    run_s: float = dataclasses.field(default=0.0, compare=False)

    @classmethod
    def of(cls, subscription: Subscription[Any], run_s: float = 0.0) -> Self:
        """Reads them; the bus' lock is held."""
        mailbox, delivered = subscription.mailbox, subscription.delivered
        called = subscription.called  # one number: it needs no lock to add up
        return cls(
            name=subscription.name,
            published=mailbox.published + called,
            delivered=delivered,
            dropped=mailbox.dropped,
            queued=len(mailbox),
            in_flight=mailbox.taken + called - delivered,
            errors=subscription.errors,
            seconds=subscription.seconds + subscription.thread_s,
            held_s=subscription.held_s + subscription.thread_s,
            run_s=run_s,
        )

    def since(self, before: Self) -> Self:
        """What was counted since an earlier reading; what waited then was published since."""
        return dataclasses.replace(
            self,
            published=self.published - before.published + before.queued + before.in_flight,
            delivered=self.delivered - before.delivered,
            dropped=self.dropped - before.dropped,
            errors=self.errors - before.errors,
            seconds=self.seconds - before.seconds,
            held_s=self.held_s - before.held_s,
        )

    @property
    def entry(self) -> Entry:
        """Its line in a table."""
        counts = self.delivered, self.dropped, self.errors
        return Entry(self.name, *counts, self.seconds, self.held_s, self.held_share)


@final
@dataclasses.dataclass(frozen=True)
class BusStatistics:
    """The whole bus at one moment.

    Attributes:
        published: Events that were published, over all runs, lost or not.
        subscriptions: One entry for each live subscription, in the order of subscribing.
        wakes: How often the event loop was woken.
    """

    published: int
    subscriptions: tuple[SubscriptionStatistics, ...]
    wakes: int


@final
@dataclasses.dataclass(frozen=True)
class SubscriberReport(_Shares):
    """What one subscriber got in the end, and cost; of which runs, as `SubscriptionStatistics`.

    Attributes:
        name: The subscription's name.
        delivered: Events that its handler finished, or that its consumer took.
        dropped: Events that its mailbox lost.
        undelivered: Events that still waited, or were worked on, when it ended.
        errors: Calls that raised.
        seconds: Time inside the handler.
        held_s: Time that training waited for it, as in `SubscriptionStatistics`.
        run_s: Wall-clock seconds of the run, or of all runs of the bus.
    """

    name: str
    delivered: int
    dropped: int
    undelivered: int
    errors: int
    seconds: float
    held_s: float
    run_s: float = 0.0

    @classmethod
    def of(cls, subscription: Subscription[Any]) -> Self:
        """Draws it up; the bus' lock is held."""
        return cls.made(SubscriptionStatistics.of(subscription), subscription.undelivered)

    @classmethod
    def made(cls, now: SubscriptionStatistics, undelivered: int) -> Self:
        """From the counters, and how many of the `dropped` it just never got to."""
        return cls(
            name=now.name,
            delivered=now.delivered,
            dropped=now.dropped - undelivered,
            undelivered=undelivered + now.queued + now.in_flight,
            errors=now.errors,
            seconds=now.seconds,
            held_s=now.held_s,
            run_s=now.run_s,
        )

    @property
    def entry(self) -> Entry:
        """Its line in a table."""
        counts = self.delivered, self.dropped + self.undelivered, self.errors
        return Entry(self.name, *counts, self.seconds, self.held_s, self.held_share)


@final
@dataclasses.dataclass(frozen=True)
class DeliveryReport:
    """What closing returns: what everybody got, what was lost, and what it cost; `print` it.

    Attributes:
        subscribers: One entry for each subscriber, in the order of subscribing.
        seconds: How long draining took.
        errors: Every handler error, in words, the first one first.
        run_s: Wall-clock seconds from the run's beginning to its last event, draining not included;
            of a bus, those of all its runs, added up.
    """

    subscribers: tuple[SubscriberReport, ...]
    seconds: float
    errors: tuple[str, ...] = ()
    run_s: float = 0.0

    @property
    def by_name(self) -> Mapping[str, SubscriberReport]:
        """The entries by name; of several with one name the last."""
        return {entry.name: entry for entry in self.subscribers}

    @property
    def complete(self) -> bool:
        """Whether every subscriber got all that it asked for."""
        return all(entry.dropped == entry.undelivered == 0 for entry in self.subscribers)

    def table(self) -> str:
        """Plain text, a line for each subscriber; first those that training waited for longest.

        Its columns: events, those lost, errors, seconds in the handler, seconds that training
        waited for it, and for how much of the run that was.
        """
        return table(entry.entry for entry in self.subscribers)

    def __str__(self) -> str:
        """The table."""
        return self.table()

    def _repr_html_(self) -> str:
        """The table, in a notebook."""
        return html_table(entry.entry for entry in self.subscribers)
