"""`def` handlers that training waits for: they are called in the training thread itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

from fitbus.bus._calls import Turn
from fitbus.bus._standing import TICK_S, Standstill
from fitbus.bus._worker import Standing, controls_of, standing
from fitbus.events import Event

if TYPE_CHECKING:
    from fitbus.bus._options import Hook
    from fitbus.bus._publisher import Publisher
    from fitbus.bus._subscription import Subscription

__all__ = ["Acting", "ThreadCalls"]


@final
class ThreadCalls:
    """Calls them, one by one, each after what waits in its subscriber's mailbox."""

    def __init__(self, publisher: Publisher, standstill: Standstill) -> None:
        self._publisher = publisher
        self._standstill = standstill
        self._ledger = publisher.ledger
        self._holdups = standstill.holdups
        # The thread, once for each call or group of calls that it is in.
        self._acting: list[Acting] = []

    def may_act(self) -> bool:
        """Whether the caller is the training thread, in a `def` handler."""
        return bool(self._acting) and self._acting[-1].thread == threading.get_ident()

    @property
    def acting(self) -> Acting | None:
        """The call of a `def` handler that the thread is in. Any thread."""
        return next(iter(self._acting[-1:]), None)

    @property
    def calling(self) -> str | None:
        """The `def` handler that the thread is in, in words. Any thread."""
        if (acting := self.acting) is None:
            return None
        return f"in handler {acting.subscription.name!r} of {type(acting.event).__name__}"

    def call_all(
        self,
        event: Event,
        handlers: Sequence[tuple[Subscription[Any], Hook]],
        logs: dict[str, float],
    ) -> None:
        """Calls the handlers of an event. What makes a call dear is done once for all of them."""
        acting: Acting | None = None
        try:
            for subscription, hook in handlers:
                is_plain = not (subscription.needs_worker or subscription.filter.active)
                if is_plain and subscription.turn.acquire(blocking=False):
                    acting = acting or self._begin(event, subscription)
                    acting.subscription = subscription
                    self._call(acting, hook, logs)
                    continue
                if acting is not None:
                    self._end(acting)
                    acting = None
                self.call(event, subscription, hook, logs)
        finally:
            if acting is not None:
                self._end(acting)

    def call(
        self, event: Event, subscription: Subscription[Any], hook: Hook, logs: dict[str, float]
    ) -> None:
        """Calls one."""
        if not self._passes(subscription, event):
            return
        standstill = self._standstill
        since = time.perf_counter()
        turn = None
        if subscription.needs_worker:
            standstill.check_off_loop(f"waiting for the turn of handler {subscription.name!r}")
            turn = Turn(standstill.ring)
            subscription.put_marker(turn)
            mine = turn
            standstill.wait(lambda: mine.reached or standstill.late)
        try:
            # If it isn't reached, its worker is still at something else, and calls never overlap.
            has_turn = (turn is None or turn.reached) and self._has_turn(subscription)
            self._ledger.charge(subscription, time.perf_counter() - since)
            if has_turn:
                acting = self._begin(event, subscription)
                try:
                    self._call(acting, hook, logs)
                finally:
                    self._end(acting)
            else:
                subscription.count_missed()
        finally:
            if turn is not None:
                turn.release()

    def _has_turn(self, subscription: Subscription[Any]) -> bool:
        while not subscription.turn.acquire(timeout=TICK_S):
            if self._standstill.late:
                return False
            self._publisher.desk.serve()
        return True

    def _begin(self, event: Event, subscription: Subscription[Any]) -> Acting:
        acting = Acting(self._publisher, event, subscription)
        self._acting.append(acting)
        return acting

    def _end(self, acting: Acting) -> None:
        self._acting.pop()
        acting.mark.active = False
        standing.reset(acting.token)
        self._holdups.glance(time.perf_counter())

    def _call(self, acting: Acting, hook: Hook, logs: dict[str, float]) -> None:
        """Calls a handler whose turn was acquired, and gives that back."""
        subscription, event, publisher = acting.subscription, acting.event, self._publisher
        if subscription.ended:  # while its turn was waited for, or by a handler before it
            subscription.turn.release()
            return
        subscription.called += 1
        error: BaseException | None = None
        started = time.perf_counter()
        try:
            result = hook.function(event, logs) if hook.shares_logs else hook.function(event)
            if result is not None:
                for control in controls_of(subscription, result):
                    publisher.inbox.post(control, subscription.name, returned=True)
                    if not publisher.desk.put_off:
                        publisher.served_here()
        except BaseException as raised:  # noqa: BLE001  # the policy decides; it isn't lost
            error = raised
        finally:
            elapsed = time.perf_counter() - started
            subscription.delivered += 1
            subscription.thread_s += elapsed
            if subscription.run is None:
                self._ledger.note_shared(subscription, elapsed)
            subscription.turn.release()
        if error is not None:
            self._acting.pop()  # or a stop that its policy sends would act before the next handler
            try:
                publisher.fail(subscription, event, error)
            finally:
                self._acting.append(acting)

    def _passes(self, subscription: Subscription[Any], event: Event) -> bool:
        if subscription.ended or not subscription.filter.active:
            return not subscription.ended
        try:
            with self._publisher.lock:  # a filter counts, and may be shared by two runs
                return subscription.filter.passes(event)
        except BaseException as error:  # noqa: BLE001  # a predicate's, dealt with by its policy
            self._publisher.fail(subscription, event, error)
            return False


@final
class Acting:
    """That the training thread is in a `def` handler, which of them, and for what."""

    __slots__ = ("event", "mark", "subscription", "thread", "token")

    def __init__(self, publisher: Publisher, event: Event, subscription: Subscription[Any]) -> None:
        self.thread = threading.get_ident()
        self.event = event
        self.subscription = subscription
        self.mark = Standing(publisher, in_thread=True)
        self.token = standing.set(self.mark)
