"""How handlers get through what waits for them, before they are ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import anyio

from fitbus.bus._calls import Mark
from fitbus.bus._statistics import DeliveryReport

if TYPE_CHECKING:
    from fitbus.bus._bus import Bus
    from fitbus.bus._publisher import Publisher
    from fitbus.bus._subscription import Subscription

__all__ = ["drained", "finish"]

_logger = logging.getLogger("fitbus")


async def drained(
    bus: Bus,
    subscriptions: Sequence[Subscription[Any]],
    publishers: Sequence[Publisher],
    drain_s: float,
) -> DeliveryReport:
    """Waits, up to a time, for handlers to reach the end of what they have.

    Args:
        bus: The bus.
        subscriptions: Whom to wait for; streams are reported, but not waited for.
        publishers: Of the runs that end: those of their subscribers that have ended before are in
            the report too.
        drain_s: Seconds at the most.
    """
    started = time.perf_counter()
    with anyio.move_on_after(drain_s):
        known = -1
        while known < (errors := sum(len(p.failures.notes) for p in publishers)):
            known = errors  # of each, others are told
            await _caught_up(bus, subscriptions)
    entries = {s.order: s.report() for s in subscriptions}
    for publisher in publishers:
        entries.update(publisher.retired)
    return DeliveryReport(
        subscribers=tuple(report for _, report in sorted(entries.items(), key=lambda e: e[0])),
        seconds=time.perf_counter() - started,
        errors=tuple(note for publisher in publishers for note in publisher.failures.notes),
    )


async def _caught_up(bus: Bus, subscriptions: Sequence[Subscription[Any]]) -> None:
    marks: list[Mark] = []
    for subscription in subscriptions:
        if bus.hosting.hosts_subscription(subscription):
            mark = Mark()
            subscription.put_marker(mark)
            marks.append(mark)
    bus.wakeup.flush()
    for mark in marks:
        await mark.wait()


def finish(subscription: Subscription[Any]) -> None:
    """Ends a subscription: a stream hands out what it has, a handler is left no more time."""
    if subscription.is_stream:
        subscription.close()
        return
    scope = subscription.scope
    busy = subscription.statistics().in_flight
    subscription.cancel()
    if busy and scope is not None:
        _logger.warning("handler %r was cancelled: it ran on past drain_s", subscription.name)
        scope.cancel()
