"""Where a run's controls are taken, applied and acknowledged."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, final

from fitbus.control import (
    Applied,
    Control,
    Inbox,
    Outcome,
    Receipt,
    Rejected,
    StopTraining,
    Superseded,
)
from fitbus.errors import ControlRejectedError
from fitbus.events import ControlApplied, ControlRejected

if TYPE_CHECKING:
    from fitbus.bus._publisher import Publisher

__all__ = ["ApplyControl", "Desk"]

ApplyControl = Callable[[Control, str], object]

_logger = logging.getLogger("fitbus")


class _Left(NamedTuple):
    """A control at which a loop left the `for` over what is pending, and where that was.

    Whether by `break` or by an exception can't be told there: it is seen at the next call.
    """

    receipt: Receipt
    step: int
    epoch: int
    handled: BaseException | None  # what was being handled around the loop
    thread: int


@final
class Desk:
    """Takes the controls of one run out of its inbox; in the training thread, at a boundary.

    Attributes:
        apply: Applies a control; None if the loop does that itself, with what `pending` yields.
        stopping: Whether a stop was applied.
        left: Controls that are still to be acknowledged by `decide`.
        put_off: Whether what handlers return waits for the last event of steps done together.
        pass_on: Takes what waits, where training is somewhere else; None if it is here.
    """

    def __init__(self, publisher: Publisher, inbox: Inbox, apply: ApplyControl | None) -> None:
        self._publisher = publisher
        self._inbox = inbox
        self._taken: dict[int, Receipt] = {}  # out of the inbox, and not settled yet
        self._current: Receipt | None = None
        self._told: set[tuple[str, str]] = set()
        self.apply = apply
        self.stopping = False
        self.put_off = False
        self.pass_on: Callable[[], object] | None = None
        self._closing = False
        self.left: list[_Left] = []

    def serve(self) -> None:
        """Applies all that waits, in order; nothing, if the loop does that itself."""
        if self._inbox and self.pass_on is not None:
            self.pass_on()
        if self.apply is None or not self._inbox:
            return
        taken = self._take()
        try:
            while taken:
                receipt, winner = taken[0]
                if winner is None:
                    self._act(self.apply, receipt)
                else:
                    self.settle(receipt, Superseded(winner.id))
                taken.popleft()
        finally:  # nobody waits for ever, whatever was raised
            self._leave_off(receipt for receipt, _ in taken)

    def perform(self, control: Control, source: str) -> Outcome:
        """Applies a control at once, before all that wait. With `apply` only, at a boundary."""
        assert self.apply is not None
        receipt = self._inbox.aside(control, source)
        self._taken[receipt.id] = receipt
        self._act(self.apply, receipt)
        assert receipt.outcome is not None
        return receipt.outcome

    def pending(self) -> Iterator[Control]:
        """Yields what waits; each is acknowledged when the next one is asked for."""
        taken = self._take()
        outer, handled, here = self._current, sys.exception(), threading.get_ident()
        receipt = None
        try:
            while taken:
                receipt, winner = taken[0]
                if winner is not None:
                    self.settle(receipt, Superseded(winner.id))
                elif receipt.id in self._taken:  # not closed meanwhile
                    self._current = receipt
                    yield receipt.control
                    self._applied(receipt, None)
                taken.popleft()
        except GeneratorExit:
            self._leave([waiting for waiting, _ in taken], handled, here)
            raise
        except BaseException:
            self._leave_off(waiting for waiting, _ in taken)
            raise
        finally:
            if self._current is receipt:
                self._current = outer

    def decide(self, *, in_any_thread: bool = False) -> None:
        """Acknowledges a control at which the loop left off: it goes on, unless it is failing."""
        while self.left and (in_any_thread or self.left[0].thread == threading.get_ident()):
            receipt, step, epoch, handled, _ = self.left.pop(0)
            error = sys.exception()
            if error is not None and error is not handled:
                why = f"the loop raised {type(error).__name__} before it went on; send it again"
                self.settle(receipt, Rejected(why))
                continue
            publisher = self._publisher
            with publisher.lock:  # it acted where the loop left off, not where that is by now
                now = publisher.step, publisher.epoch
                publisher.step, publisher.epoch = step, epoch
                try:
                    self._applied(receipt, None)
                finally:
                    publisher.step, publisher.epoch = now

    def reject(self, why: str) -> None:
        """Rejects the control that was yielded last."""
        if self._current is not None:
            self.settle(self._current, Rejected(why))
        elif self.left:
            self.settle(self.left.pop().receipt, Rejected(why))

    def settle(self, receipt: Receipt, outcome: Outcome) -> None:
        """Publishes how a control ended, and tells its sender; nothing, if that was done before."""
        if self._taken.pop(receipt.id, None) is None:
            return
        id, control, source = receipt.id, receipt.control, receipt.source
        publisher = self._publisher
        try:
            if isinstance(outcome, Applied):
                applied = ControlApplied(
                    id=id, control=control, source=source, result=outcome.result
                )
                publisher.publish(applied, held=True)
            else:
                why = (
                    outcome.why if isinstance(outcome, Rejected) else f"superseded by {outcome.by}"
                )
                rejected = ControlRejected(id=id, control=control, source=source, why=why)
                publisher.publish(rejected, held=True)
                if isinstance(outcome, Rejected) and receipt.returned:
                    self._warn(receipt, why)
            publisher.flush()
        finally:  # its sender doesn't wait for ever, whatever was raised
            receipt.settle(outcome)

    def close(self, why: str) -> None:
        """Refuses what waits, and all that will come; any thread."""
        self.decide(in_any_thread=True)
        self._closing = True
        waiting = self._inbox.close(why)
        self._taken |= {receipt.id: receipt for receipt in waiting}
        self._refuse(list(self._taken.values()), why)

    def _take(self) -> deque[tuple[Receipt, Receipt | None]]:
        taken = deque(self._inbox.take(returned=not self.put_off))
        self._taken |= {receipt.id: receipt for receipt, _ in taken}
        return taken

    def _leave(self, receipts: list[Receipt], handled: BaseException | None, thread: int) -> None:
        """Keeps what was yielded last for `decide`, and lets the others wait again.

        It may be the garbage collector that calls, so nothing is published here.
        """
        last, *others = receipts
        publisher = self._publisher
        if last.id in self._taken:
            self.left.append(_Left(last, publisher.step, publisher.epoch, handled, thread))
        others = [receipt for receipt in others if self._taken.pop(receipt.id, None)]
        why = self._inbox.put_back(others)
        if why is not None:
            for receipt in others:
                receipt.settle(Rejected(why))

    def _leave_off(self, receipts: Iterable[Receipt]) -> None:
        self._refuse(receipts, "the loop left off before it acted on it; send it again")

    def _refuse(self, receipts: Iterable[Receipt], why: str) -> None:
        with contextlib.ExitStack() as stack:  # settles all, also if one of them raises
            for receipt in reversed(list(receipts)):
                stack.callback(self.settle, receipt, Rejected(why))

    def _warn(self, receipt: Receipt, why: str) -> None:
        """Says, once, what became of a control whose handler has no receipt to look at."""
        if self._closing or why.startswith("too late") or (receipt.source, why) in self._told:
            return  # that the run has ended is no news
        self._told.add((receipt.source, why))
        _logger.warning(
            "run %r: handler %r returned %r, which was rejected: %s",
            self._publisher.run,
            receipt.source,
            receipt.control,
            why,
        )

    def _act(self, apply: ApplyControl, receipt: Receipt) -> None:
        try:
            result = apply(receipt.control, receipt.source)
        except ControlRejectedError as error:
            self.settle(receipt, Rejected(error.why))
        except Exception as error:  # noqa: BLE001  # training stays as it was; the sender learns why
            self.settle(receipt, Rejected(f"applying it raised {type(error).__name__}: {error}"))
        else:
            self._applied(receipt, result)

    def _applied(self, receipt: Receipt, result: object) -> None:
        if receipt.id in self._taken:
            self.stopping = self.stopping or isinstance(receipt.control, StopTraining)
            publisher = self._publisher
            self.settle(receipt, Applied(publisher.step, publisher.epoch, result))
