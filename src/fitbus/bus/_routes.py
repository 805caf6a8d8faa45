"""Who gets an event of one type in one run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from fitbus.bus._options import Hook
from fitbus.bus._subscription import Subscription
from fitbus.events import Event

__all__ = ["Route", "route_for"]


class Route(NamedTuple):
    """The subscribers to one type, by how they are called; each group in order of subscribing."""

    mailboxes: tuple[Subscription[Any], ...]
    on_loop: tuple[tuple[Subscription[Any], Hook], ...]
    in_thread: tuple[tuple[Subscription[Any], Hook], ...]

    @property
    def waiting(self) -> bool:
        """Whether training waits for any of them."""
        return bool(self.on_loop or self.in_thread)


def route_for(kind: type[Event], run: str, subscriptions: Iterable[Subscription[Any]]) -> Route:
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
    return Route(tuple(mailboxes), tuple(on_loop), tuple(in_thread))
