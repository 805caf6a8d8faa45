"""How handlers get through what waits for them, before they are ended."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import anyio

from fitbus.bus._calls import Mark
from fitbus.bus._statistics import DeliveryReport, SubscriberReport

if TYPE_CHECKING:
    from fitbus.bus._bus import Bus
    from fitbus.bus._subscription import Subscription

__all__ = ["drained", "finish"]

_logger = logging.getLogger("fitbus")


async def drained(
    bus: Bus,
    subscriptions: Sequence[Subscription[Any]],
    run: str | None,
    drain_s: float,
) -> DeliveryReport:
    """Waits, up to a time, for handlers to reach the end of what they have.

    Args:
        bus: The bus.
        subscriptions: Whom to wait for; streams are reported, but not waited for.
        run: The run that ends, None for all of them: those of its subscribers that have ended
            before are in the report too.
        drain_s: Seconds at the most.
    """
    publishers = bus.runs.of(run)
    started = time.perf_counter()
    with anyio.move_on_after(drain_s):
        known = -1
        while known < (errors := sum(len(p.failures.notes) for p in publishers)):
            known = errors  # of each, others are told
            await _caught_up(bus, subscriptions)
    is_one = run is not None and len(publishers) == 1
    report = publishers[0].ledger.report if is_one else SubscriberReport.of
    with bus.lock:
        entries = {s.order: report(s) for s in subscriptions}
    for publisher in publishers:
        entries |= {r.order: r.own if is_one else r.whole for r in publisher.retired}
    run_s = bus.runs.seconds(run)
    return DeliveryReport(
        subscribers=tuple(
            dataclasses.replace(entries[order], run_s=run_s) for order in sorted(entries)
        ),
        seconds=time.perf_counter() - started,
        errors=tuple(note for publisher in publishers for note in publisher.failures.notes),
        run_s=run_s,
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
