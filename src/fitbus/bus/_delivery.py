"""Where a run's events are stamped, kept, and put into mailboxes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, TypeAlias, final

from fitbus.bus._envelope import stamped
from fitbus.bus._routes import Route, Routes
from fitbus.bus._tail import Tail
from fitbus.events import Event

if TYPE_CHECKING:
    from fitbus.bus._bus import Bus
    from fitbus.bus._subscription import Subscription

__all__ = ["Delivery", "Errors"]

Errors: TypeAlias = "list[tuple[Subscription[Any], Event, BaseException]]"


@final
class Delivery:
    """What publishing comes down to, event by event or many at once. The bus' lock is held.

    What predicates raise is left to the caller, who deals with it without the lock.

    Args:
        bus: The bus.
        run: The run's id.

    Attributes:
        seq: The place of the next event.
        routes: Who gets what.
        tail: The latest events.
        clock: What tells their time: Unix seconds.
    """

    def __init__(self, bus: Bus, run: str) -> None:
        self._bus = bus
        self._run = run
        self.seq = 0
        self.routes = Routes(bus, run)
        self.tail = Tail(bus.tail_size)
        self.clock = time.time

    def one(
        self,
        event: Event,
        route: Route,
        step: int,
        epoch: int,
        errors: Errors,
        *,
        held: bool,
    ) -> Event:
        """Delivers an event; returns it as it was stamped.

        Args:
            event: The event.
            route: Who gets it.
            step: Its `step`.
            epoch: Its `epoch`.
            errors: What predicates raise.
            held: Whether a `block` mailbox takes it beyond its size, as the loop is held later.
        """
        event = stamped(event, self._run, self.seq, self.clock(), step, epoch)
        self.seq += 1
        self._bus.published += 1
        self.tail.append(event)
        for subscription in route.mailboxes:
            try:
                subscription.offer(event, held=held)
            except BaseException as error:  # noqa: BLE001  # a predicate's, dealt with by its policy
                errors.append((subscription, event, error))
        return event

    def many(
        self,
        events: Sequence[Event],
        routes: Mapping[type[Event], Route],
        steps: Sequence[int],
        epoch: int,
        skipped: tuple[type[Event], ...],
        errors: Errors,
    ) -> float:
        """Delivers several events, for none of which training waits; returns their time.

        Args:
            events: The events.
            routes: Who gets them, by type.
            steps: The `step` of each.
            epoch: The `epoch` of all.
            skipped: Types to which nobody is subscribed; an event of each comes before each event.
            errors: What predicates raise.
        """
        run, first, now = self._run, self.seq, self.clock()
        stride = len(skipped) + 1
        self.seq = first + stride * len(events)
        places = range(first + stride - 1, self.seq, stride)
        made = list(map(stamped, events, repeat(run), places, repeat(now), steps, repeat(epoch)))
        if skipped:
            self.tail.skip(first, self.seq - 2, skipped, (stride - 1) * len(made))
        self.tail.extend(made)
        self._bus.published += len(made)
        takes: dict[Subscription[Any], list[type[Event]]] = {}
        for kind, route in routes.items():
            for subscription in route.mailboxes:
                takes.setdefault(subscription, []).append(kind)
        for subscription, wanted in sorted(takes.items(), key=lambda entry: entry[0].order):
            own = made if len(wanted) == len(routes) else [e for e in made if type(e) in wanted]
            if not subscription.filter.active:
                subscription.offer_all(own)
                continue
            for event in own:
                try:
                    subscription.offer(event, held=True)
                except BaseException as error:  # noqa: BLE001  # a predicate's, likewise
                    errors.append((subscription, event, error))
                    if subscription.ends_at(error):
                        break
        return now

    def skip(self, kinds: tuple[type[Event], ...], times: int) -> None:
        """Takes the places of events to which nobody is subscribed."""
        count = len(kinds) * times
        self.tail.skip(self.seq, self.seq + count - 1, kinds, count)
        self.seq += count
