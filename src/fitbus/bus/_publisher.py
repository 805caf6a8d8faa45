"""The thread side of the bus: what a training loop publishes with, and takes controls from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self, final

from fitbus.bus._delivery import Errors
from fitbus.bus._desk import ApplyControl, Desk
from fitbus.bus._failures import Failures
from fitbus.bus._in_thread import ThreadCalls
from fitbus.bus._ledger import Ledger
from fitbus.bus._policy import failed
from fitbus.bus._sender import Sender
from fitbus.bus._standing import Standstill
from fitbus.control import Control, Inbox, Receipt
from fitbus.errors import RunCancelledError
from fitbus.events import Event

if TYPE_CHECKING:
    from fitbus.bus._bus import Bus
    from fitbus.bus._live_runs import Retired
    from fitbus.bus._subscription import Subscription

__all__ = ["ApplyControl", "Publisher"]

_TOO_LATE = "too late: the run has ended"
_NONE: Iterator[Control] = iter(())  # exhausted: it may be handed out again and again


@final
class Publisher(Sender):
    """The end of the bus that a training loop holds, one for each run.

    `publish` may be called in any thread; `boundary` and `barrier` in the training thread only.
    A loop by hand:

        with bus.publisher() as publisher:
            for batch in range(batches):
                for control in publisher.boundary():
                    ...                         # act on it; going on, or break, acknowledges it
                ...                             # the step
                publisher.step += 1
                publisher.publish(BatchEnd(batch=batch, logs=logs, batch_logs=logs))
            publisher.barrier(TrainEnd(logs=logs))

    Args:
        bus: The bus.
        run: The run's id; default `"run-1"`, `"run-2"`, ... by bus.
        apply: Applies a control, given with its source, and returns its result; raises
            `ControlRejectedError` to reject it. With it, controls are also applied while the thread
            stands still, and `boundary` yields none.
        flush_s: Seconds by which telling the event loop may be put off while the thread goes on
            publishing. The loop must call `flush` before it turns to anything long.
        inbox: Where controls wait; one of its own unless given.

    Attributes:
        run: The run's id.
        step: Stamped on the next events: completed optimizer updates.
        epoch: Stamped on the next events: the epoch, from 0.
        inbox: The controls that wait.
        on_standstill: Called, in the training thread, again and again while that stands still.
        on_reroute: Called, under the bus' lock, when subscribers have changed; must not wait.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        run: str | None = None,
        apply: ApplyControl | None = None,
        flush_s: float = 0.0,
        inbox: Inbox | None = None,
    ) -> None:
        super().__init__(bus, bus.runs.new_id("run") if run is None else run, flush_s)
        self.inbox = Inbox() if inbox is None else inbox
        self.on_standstill: Callable[[], object] = lambda: None
        self.on_reroute: Callable[[], object] = lambda: None
        self.failures = Failures()
        self.retired: list[Retired] = []
        self.ledger = Ledger(bus, self.run)
        self.desk = Desk(self, self.inbox, apply)
        self.standstill = Standstill(self, bus)
        self.thread_calls = ThreadCalls(self, self.standstill)
        # Last: others may send to an inbox that was there before, while this is being made.
        self.inbox.may_wait = lambda: not self.served_here()
        self.inbox.on_post = self.ring
        bus.runs.attach(self)

    def __enter__(self) -> Self:
        """Closes it when the block is left."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def barrier(
        self, event: Event, *, step: int | None = None, then: int | None = None
    ) -> dict[str, float]:
        """Publishes, and returns when all waiting handlers of the event have finished.

        Handlers on the loop run first, together; the controls that they return are applied in the
        order of subscribing. Then the `def` handlers run here, one by one. With `apply`, controls
        from elsewhere are applied meanwhile.

        Args:
            event: The event.
            step: Its `step`, if that isn't the publisher's: of steps that were done together.
            then: The `seq` of what is told next, if it isn't the one after the event's.

        Returns:
            The event's logs, with what `def` hooks added to their private copy; or empty.

        Raises:
            WouldDeadlockError: Called in the event loop, where a handler to be waited for runs.
        """
        errors: Errors = []
        self.run_deferred()
        logs: dict[str, float] = dict(getattr(event, "logs", ()))
        with self.lock:
            if self.closed:
                return logs
            route = self.delivery.routes.of_event(event)
            self.standstill.check_thread(event, route)
            at = self.step if step is None else step
            event = self.delivery.one(event, route, at, self.epoch, errors, held=True)
            if then is not None:
                self.delivery.seq = then
            calls = self.standstill.calls_on_loop(event, route.on_loop, errors)
        self.fail_all(errors)
        self.flush()
        self.run_deferred(before=event.seq)
        if calls:
            self.standstill.await_calls(event, calls)
        self.thread_calls.call_all(event, route.in_thread, logs)
        return logs

    def post(self, control: Control, source: str = "") -> Receipt:
        """Sends a control. Any thread; never blocks. Raises `InvalidArgumentError` as `Inbox.post`.

        From a `def` handler in the training thread it is applied on the spot, if there is `apply`.
        """
        receipt = self.inbox.post(control, source)
        self.served_here()
        return receipt

    def served_here(self) -> bool:
        """Whether the caller is the training thread; that applies what it can."""
        is_here = self.thread_calls.may_act()
        if is_here and not self.deferred.calling:
            self.desk.serve()
        return is_here

    def boundary(self) -> Iterator[Control]:
        """Where training may be held, stopped and steered: call it between two steps.

        Holds while a `block` mailbox is full. Raises what a handler raised (`on_error="raise"`).

        Returns:
            The pending controls, unless there is `apply`. Each is acknowledged as applied when the
            next one is asked for; call `reject` first if it wasn't. Leaving the `for` early, by
            `break` or `return`, acknowledges the last one at the next call of the publisher, if no
            exception is under way there, and lets the others wait for the next boundary.

        Raises:
            RunCancelledError: The run was cancelled.
            WouldDeadlockError: Called in the event loop, which has to make room.
        """
        if self._has_to_look():
            self.run_deferred()
            self._check_going_on()
            if self.bus.crowded:
                self.standstill.wait_for_room()
                self._check_going_on()
            self.desk.serve()
        return _NONE if self.desk.apply is not None else self.desk.pending()

    def reject(self, why: str) -> None:
        """Rejects the control that `boundary` yielded last."""
        self.desk.reject(why)

    def stand_still(self, until: Callable[[], bool]) -> None:
        """Waits in the training thread, serving the inbox, until something holds.

        Returns early if the run was cancelled or a handler's error ends it. Not in an event loop.
        """
        self.desk.decide()
        self.standstill.check_may_block(until)
        self.standstill.wait(lambda: until() or self.standstill.cancelled or self.failures.pending)

    def fail(self, subscription: Subscription[Any], event: Event, error: BaseException) -> None:
        """Deals with what a handler raised, as its `on_error` says. Any thread."""
        failed(self, subscription, event, error)

    def cancel(self, within_s: float) -> None:
        """Makes the next `boundary` raise `RunCancelledError`. Any thread.

        Waiting handlers are still waited for, `within_s` seconds at the most.
        """
        self.standstill.cancel(within_s)

    def close(self, why: str = _TOO_LATE) -> None:
        """Ends publishing: what comes later is lost, and controls are rejected with `why`."""
        self.run_deferred()
        self.desk.close(why)
        self.run_deferred()
        self.abandon()

    def abandon(self) -> None:
        """The same from another thread, when the training thread is stuck: nothing is called."""
        self.desk.close(_TOO_LATE)
        with self.lock:
            self.deferred.clear()
            self.closed = True
            self.ledger.end()
        self.flush()

    def reroute(self) -> None:
        """Forgets who gets what. The lock is held."""
        self.delivery.routes.forget()
        self.on_reroute()

    def ring(self) -> None:
        """Wakes the thread if it stands still. Any thread."""
        self.standstill.ring()

    def _has_to_look(self) -> bool:
        """Whether a boundary has anything to do: nearly always not."""
        return bool(
            self.inbox
            or self.bus.crowded
            or self.standstill.cancelled
            or self.failures.pending
            or self.deferred
            or self.desk.left
        )

    def _check_going_on(self) -> None:
        self.failures.check()
        if self.standstill.cancelled:
            raise RunCancelledError(f"run {self.run!r} was cancelled")

    def run_deferred(self, before: float = math.inf) -> None:
        """Calls `def` handlers for what others published (`before` a `seq`). Training thread."""
        self.desk.decide()
        if self.deferred:  # what these publish is for the next time, or they might never end
            self.deferred.call(self.thread_calls, min(before, self.delivery.seq))
