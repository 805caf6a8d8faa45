"""What the bus counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, final

if TYPE_CHECKING:
    from fitbus.bus._subscription import Subscription

__all__ = ["BusStatistics", "DeliveryReport", "SubscriberReport", "SubscriptionStatistics"]


@final
@dataclasses.dataclass(frozen=True)
class SubscriptionStatistics:
    """One subscription at one moment: `published == delivered + dropped + queued + in_flight`.

    Attributes:
        name: The subscription's name.
        published: Events that matched it and passed its filters.
        delivered: Events that its handler finished, or that its consumer took.
        dropped: Events that were lost: to a full mailbox, or unread when it ended.
        queued: Events that wait in its mailbox.
        in_flight: Events that its handler is working on, or that were taken out for it: up to 64.
        errors: Calls that raised.
        seconds: Time inside the handler, from call to return.
        held_s: Time that training waited for it.
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

    @classmethod
    def of(cls, subscription: Subscription[Any]) -> Self:
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
            seconds=subscription.seconds,
            held_s=subscription.held_s,
        )


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
class SubscriberReport:
    """What one subscriber got in the end.

    Attributes:
        name: The subscription's name.
        delivered: Events that its handler finished, or that its consumer took.
        dropped: Events that its mailbox lost.
        undelivered: Events that still waited, or were worked on, when it ended.
        errors: Calls that raised.
        seconds: Time inside the handler.
        held_s: Time that training waited for it.
    """

    name: str
    delivered: int
    dropped: int
    undelivered: int
    errors: int
    seconds: float
    held_s: float

    @classmethod
    def of(cls, subscription: Subscription[Any]) -> Self:
        """Draws it up; the bus' lock is held."""
        now = SubscriptionStatistics.of(subscription)
        return cls(
            name=now.name,
            delivered=now.delivered,
            dropped=now.dropped - subscription.undelivered,
            undelivered=subscription.undelivered + now.queued + now.in_flight,
            errors=now.errors,
            seconds=now.seconds,
            held_s=now.held_s,
        )


@final
@dataclasses.dataclass(frozen=True)
class DeliveryReport:
    """What closing returns: what everybody got, and what was lost.

    Attributes:
        subscribers: One entry for each subscriber, in the order of subscribing.
        seconds: How long draining took.
        errors: Every handler error, in words, the first one first.
    """

    subscribers: tuple[SubscriberReport, ...]
    seconds: float
    errors: tuple[str, ...] = ()

    @property
    def by_name(self) -> Mapping[str, SubscriberReport]:
        """The entries by name; of several with one name the last."""
        return {entry.name: entry for entry in self.subscribers}

    @property
    def complete(self) -> bool:
        """Whether every subscriber got all that it asked for."""
        return all(entry.dropped == entry.undelivered == 0 for entry in self.subscribers)
