"""Who gets an event of one type in one run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, final

from fitbus.bus._options import Hook
from fitbus.bus._subscription import Subscription
from fitbus.errors import InvalidArgumentError
from fitbus.events import Event

if TYPE_CHECKING:
    from fitbus.bus._bus import Bus

__all__ = ["Route", "Routes"]


class Route(NamedTuple):
    """The subscribers to one type, by how they are called; each group in order of subscribing."""

    mailboxes: tuple[Subscription[Any], ...]
    on_loop: tuple[tuple[Subscription[Any], Hook], ...]
    in_thread: tuple[tuple[Subscription[Any], Hook], ...]
    wanted: bool  # there is one
    waiting: bool  # training waits for one


@final
class Routes:
    """Who gets what in one run; found out once a type, and again when subscribers change.

    Attributes:
        changes: How often subscribers changed: what was asked before that is to be asked again.
    """

    def __init__(self, bus: Bus, run: str) -> None:
        self._bus = bus
        self._run = run
        self._found: dict[type[Event], Route] = {}
        self.changes = 0

    def of(self, kind: type[Event]) -> Route:
        """The subscribers to a type. Any thread."""
        return self._found.get(kind) or self._find(kind)

    def of_event(self, event: Event) -> Route:
        """The subscribers to an event, if it is one. Any thread."""
        route = self._found.get(type(event))
        if route is None:
            if not isinstance(event, Event):
                raise InvalidArgumentError("event", event, "give an event, such as EpochEnd()")
            route = self._find(type(event))
        return route

    def of_events(self, events: Iterable[Event]) -> dict[type[Event], Route]:
        """The subscribers to each type of some events. Any thread."""
        return {kind: self.of_event(event) for kind, event in {type(e): e for e in events}.items()}

    def forget(self) -> None:
        """Finds them out anew from here on. The lock is held."""
        self._found = {}
        self.changes += 1

    def _find(self, kind: type[Event]) -> Route:
        with self._bus.lock:
            route = self._found[kind] = _route(kind, self._run, self._bus.subscriptions)
            return route


def _route(kind: type[Event], run: str, subscriptions: Iterable[Subscription[Any]]) -> Route:
    """Sorts the subscribers that match."""
    mailboxes: list[Subscription[Any]] = []
    on_loop: list[tuple[Subscription[Any], Hook]] = []
    in_thread: list[tuple[Subscription[Any], Hook]] = []
    for subscription in subscriptions:
        if not subscription.matches(kind, run):
            continue
        hook = subscription.hook_for(kind)
        if hook is None or not hook.wait:
            mailboxes.append(subscription)
        elif hook.is_async:
            on_loop.append((subscription, hook))
        else:
            in_thread.append((subscription, hook))
    waiting = bool(on_loop or in_thread)
    wanted = waiting or bool(mailboxes)
    return Route(tuple(mailboxes), tuple(on_loop), tuple(in_thread), wanted, waiting)
