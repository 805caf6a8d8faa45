"""How handlers get through what waits for them, before they are ended."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import anyio

from fitbus.bus._calls import Mark
from fitbus.bus._stacks import place_of, text
from fitbus.bus._statistics import DeliveryReport, SubscriberReport
from fitbus.bus._watch import STUCK_S

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
    told: set[Subscription[Any]] = set()
    with anyio.move_on_after(drain_s):
        known = -1
        while known < (errors := sum(len(p.failures.notes) for p in publishers)):
            known = errors  # of each, others are told
            await _caught_up(bus, subscriptions, drain_s, told)
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


async def _caught_up(
    bus: Bus,
    subscriptions: Sequence[Subscription[Any]],
    drain_s: float,
    told: set[Subscription[Any]],
) -> None:
    marks: list[tuple[Subscription[Any], Mark]] = []
    for subscription in subscriptions:
        if bus.hosting.hosts_subscription(subscription):
            mark = Mark()
            subscription.put_marker(mark)
            marks.append((subscription, mark))
    bus.wakeup.flush()
    while marks:
        before = [subscription.delivered for subscription, _ in marks]
        with anyio.move_on_after(STUCK_S):
            for _, mark in marks:
                await mark.wait()
            return
        for (subscription, mark), delivered in zip(marks, before, strict=True):
            is_stuck = subscription.delivered == delivered and not mark.reached
            if is_stuck and subscription not in told:
                told.add(subscription)
                _logger.warning(
                    "at the end, handler %r is waited for, %g s at most (drain_s); it is at:\n%s",
                    subscription.name,
                    drain_s,
                    text(place_of(subscription)),
                )
        marks = [entry for entry in marks if not entry[1].reached]


def finish(subscription: Subscription[Any]) -> None:
    """Ends a subscription: a stream hands out what it has, a handler is left no more time."""
    if subscription.is_stream:
        subscription.close()
        return
    scope = subscription.scope
    busy = subscription.statistics().in_flight
    subscription.cancel()
    if busy and scope is not None:
        _logger.warning(
            "handler %r was cancelled: it ran on past drain_s; it was at:\n%s",
            subscription.name,
            text(place_of(subscription)),
        )
        scope.cancel()
