"""Says in the log, seldom, for which subscriber a run's training waits, and how long."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, final

from fitbus.events import is_rare

if TYPE_CHECKING:
    from fitbus.bus._bus import Bus
    from fitbus.bus._ledger import Ledger
    from fitbus.bus._subscription import Subscription

__all__ = ["Holdups"]

# A second is what a person notices; a tenth of the run is more than a callback should cost. What is
# called at begins and ends only (it validates, it saves) is slow on purpose: that is told if it
# takes more than all the rest.
LEAST_S = 1.0
SHARE = 0.1
RARE_SHARE = 0.5
# A share that doubles from a tenth does so three times at most; as the first ones may do it within
# seconds, when a long compilation is over, a minute has to pass as well.
AGAIN = 2.0
AGAIN_S = 60.0
LOOK_S = 0.2

_logger = logging.getLogger("fitbus")


@final
class Holdups:
    """Warns of the subscribers that hold one run's training up. For the training thread.

    Attributes:
        look_at: When to look again (`time.perf_counter`).
    """

    def __init__(self, bus: Bus, run: str, ledger: Ledger) -> None:
        self._bus = bus
        self._run = run
        self._ledger = ledger
        self._told: dict[int, tuple[float, float]] = {}  # the share, and when, by `order`
        self._had_no_room: set[int] = set()
        self.look_at = ledger.began + LEAST_S

    def no_room(self, subscription: Subscription[Any]) -> None:
        """Warns, once, that training stands still for a full mailbox."""
        if subscription.order in self._had_no_room:
            return
        self._had_no_room.add(subscription.order)
        _logger.warning(
            "run %r is held: subscriber %r has no room in its mailbox of %d events"
            ' (overflow="block"); make it faster, or choose another overflow',
            self._run,
            subscription.name,
            subscription.options.buffer_size,
        )

    def glance(self, now: float) -> None:
        """Looks, if it is time to: nearly always this is one comparison."""
        if now >= self.look_at:
            self.look(now)

    def look(self, now: float) -> None:
        """Names those that have taken too much of the run until now."""
        self.look_at = now + LOOK_S
        run_s = now - self._ledger.began
        for subscription in self._bus.subscriptions:
            if subscription.run in (None, self._run):
                held_s = self._ledger.held_s(subscription)
                if held_s >= LEAST_S:
                    self._weigh(subscription, held_s, run_s, now)

    def _weigh(
        self, subscription: Subscription[Any], held_s: float, run_s: float, now: float
    ) -> None:
        share = min(1.0, held_s / run_s)
        rare = all(is_rare(kind) for kind in subscription.kinds)
        least, since = RARE_SHARE if rare else SHARE, 0.0
        told = self._told.get(subscription.order)
        if told is not None:
            least, since = AGAIN * told[0], told[1] + AGAIN_S
        if share < least or now < since:
            return
        self._told[subscription.order] = share, now
        no_room = subscription.order in self._had_no_room
        _logger.warning(
            "run %r waits for %s %r %.0f %% of its time (%.1f s of %.1f s): %s",
            self._run,
            "room in the mailbox of" if no_room else "handler",
            subscription.name,
            share * 100,
            held_s,
            run_s,
            _remedy(subscription, no_room=no_room, rare=rare),
        )


def _remedy(subscription: Subscription[Any], *, no_room: bool, rare: bool) -> str:
    if subscription.has_hooks:
        if rare:
            return "make it faster, or leave its slow work to a concurrent handler (wait=False)"
        return (
            "make it faster, or its hooks of batches `async def`: training doesn't wait for these"
        )
    other = "choose another overflow" if no_room else "make it concurrent (wait=False)"
    if rare:
        return f"make it faster, or {other}"
    return f"make it faster, {other}, or take every n-th event (every=...)"
