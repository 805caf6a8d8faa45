"""How a training thread stands still: for handlers, for room, in a pause. It serves its inbox."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, final

from fitbus._loops import in_event_loop
from fitbus.bus._calls import Call
from fitbus.bus._holdups import Holdups
from fitbus.bus._policy import obey
from fitbus.control import StopTraining
from fitbus.errors import WouldDeadlockError
from fitbus.events import Event

if TYPE_CHECKING:
    from fitbus.bus._bus import Bus
    from fitbus.bus._delivery import Errors
    from fitbus.bus._options import Hook
    from fitbus.bus._publisher import Publisher
    from fitbus.bus._routes import Route
    from fitbus.bus._subscription import Subscription

__all__ = ["TICK_S", "Standstill"]

TICK_S = 0.1  # a safety net only: whatever a thread waits for rings its bell


@final
class Standstill:
    """The waits of one training thread.

    Attributes:
        holdups: Warns of those that are waited for too long.
        awaited: The calls on the event loop that are waited for.
    """

    def __init__(self, publisher: Publisher, bus: Bus) -> None:
        self._publisher = publisher
        self._bus = bus
        self._bell = threading.Event()
        self._deadline: float | None = None
        self.awaited: Sequence[tuple[Subscription[Any], Call]] = ()
        self._ledger = publisher.ledger
        self.holdups = Holdups(bus, publisher.run, publisher.ledger)

    @property
    def cancelled(self) -> bool:
        """Whether the run was cancelled."""
        return self._deadline is not None

    @property
    def given_up(self) -> bool:
        """Whether the loop isn't waited for any more: it was cancelled, and its time is over."""
        return self._given_up()

    @property
    def late(self) -> bool:
        """Whether it was cancelled, and the time for what waits is over."""
        return self._deadline is not None and time.monotonic() > self._deadline

    def cancel(self, within_s: float) -> None:
        """Ends all waits: at once for room, after `within_s` for handlers."""
        if self._deadline is None:
            self._deadline = time.monotonic() + within_s
        self.ring()

    def ring(self) -> None:
        """Lets the thread look again."""
        self._bell.set()

    def check_thread(self, event: Event, route: Route) -> None:
        """Refuses to wait for an event's handlers in the thread in which these would be called."""
        slow = [s for s, _ in route.on_loop] + [s for s, _ in route.in_thread if s.needs_worker]
        if slow:
            what = f"waiting for handler {slow[0].name!r} of {type(event).__name__}"
            self.check_off_loop(what)

    def check_may_block(self, until: Callable[[], bool]) -> None:
        """Refuses to stand still in the thread of an event loop, any one."""
        if in_event_loop() and not until():
            raise WouldDeadlockError(_in_a_thread("standing still"))

    def wait(self, until: Callable[[], bool], charge: Callable[[], object] = lambda: None) -> None:
        """Waits, applying controls as they come.

        Args:
            until: For what.
            charge: Called when that takes long, again and again: so who is waited for is known
                while it is.
        """
        publisher = self._publisher
        publisher.flush()
        while True:
            self._bell.clear()
            if until():
                return
            publisher.desk.serve()
            publisher.on_standstill()
            if until():
                return
            if not self._bell.wait(TICK_S):
                charge()

    def wait_for_room(self) -> None:
        """Holds training while a lossless subscriber of this run has no room."""
        if not self._crowded():
            return
        since = time.perf_counter()
        slow = self._crowded()
        if slow and not self._goes_on():
            self.check_off_loop(f"waiting for room in the mailbox of {slow[0].name!r}")
        for subscription in slow:
            self.holdups.no_room(subscription)

        def charge() -> None:
            nonlocal since, slow
            now = time.perf_counter()
            for subscription in slow:
                self._ledger.charge(subscription, now - since)
            since, slow = now, self._crowded()
            self.holdups.glance(now)

        self._bus.runs.hold(self._publisher)
        try:
            self.wait(
                lambda: self._goes_on() or not self._crowded() or bool(self._unserved()), charge
            )
            if unserved := self._unserved():
                self._bus.hosting.check_hosted(f"the mailbox of {unserved[0].name!r} is full")
        finally:
            self._bus.runs.release(self._publisher)
            charge()

    def calls_on_loop(
        self,
        event: Event,
        handlers: Sequence[tuple[Subscription[Any], Hook]],
        errors: Errors,
        *,
        waited_for: bool = True,
    ) -> list[tuple[Subscription[Any], Call]]:
        """Lets the loop call handlers, together. The lock is held: no later event overtakes.

        Predicates' errors go into `errors`.
        """
        if not handlers:
            return []
        if waited_for:
            self._bus.hosting.check_hosted(
                f"handlers that wait for {type(event).__name__} run on the event loop"
            )
        calls: list[tuple[Subscription[Any], Call]] = []
        for subscription, hook in handlers:
            try:
                if not subscription.filter.passes(event):
                    continue
            except BaseException as error:  # noqa: BLE001  # a predicate's, dealt with by its policy
                errors.append((subscription, event, error))
                continue
            logs = dict(getattr(event, "logs", ())) if hook.shares_logs else None
            call = Call(event, hook, logs, self.ring)
            call.waited_for = waited_for
            subscription.put_marker(call)
            calls.append((subscription, call))
        return calls

    def await_calls(self, event: Event, calls: Sequence[tuple[Subscription[Any], Call]]) -> None:
        """Waits for all; applies what they return."""
        since = calls[0][1].made  # the loop may be through before this thread gets here

        def charge() -> None:
            """To each until its call has ended: one that is through early holds nobody up."""
            nonlocal since
            now = time.perf_counter()
            for subscription, call in calls:
                until = now if call.ended is None else min(call.ended, now)
                if until > since:
                    self._ledger.charge(subscription, until - since)
            since = now
            self.holdups.glance(now)

        self.awaited = calls
        try:
            self.wait(lambda: all(call.done for _, call in calls) or self._given_up(), charge)
        finally:
            self.awaited = ()
            charge()
        for subscription, call in calls:
            if call.give_up():
                continue
            if call.error is not None:
                self._publisher.fail(subscription, event, call.error)
            obey(self._publisher, subscription, event, call.result or ())
        if not self._publisher.desk.put_off:
            self._publisher.desk.serve()

    def _crowded(self) -> list[Subscription[Any]]:
        return self._bus.crowded_by(self._publisher.run)

    def _unserved(self) -> list[Subscription[Any]]:
        """Those without room that nobody would call, ever."""
        missing = self._bus.hosting.missing and not self._goes_on()
        return [s for s in self._crowded() if not s.is_stream] if missing else []

    def _goes_on(self) -> bool:
        """Whether training shall end, room or not."""
        publisher = self._publisher
        stops = publisher.desk.stopping or publisher.inbox.holds(StopTraining)
        return self.cancelled or stops or publisher.failures.pending

    def check_off_loop(self, what: str) -> None:
        """Refuses to block the event loop that the bus lives in."""
        if self._bus.hosting.in_loop:
            raise WouldDeadlockError(_in_a_thread(what))

    def _given_up(self) -> bool:
        return self._bus.closed or self.late


def _in_a_thread(what: str) -> str:
    return (
        f"{what} would block the event loop, which has to go on for that to end; run the training"
        " in a thread: `await anyio.to_thread.run_sync(train, publisher)`"
    )
