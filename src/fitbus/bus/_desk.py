"""Where a run's controls are taken, applied and acknowledged."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, final

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


@final
class Desk:
    """Takes the controls of one run out of its inbox; in the training thread, at a boundary.

    Attributes:
        apply: Applies a control; None if the loop does that itself, with what `pending` yields.
        stopping: Whether a stop was applied.
    """

    def __init__(self, publisher: Publisher, inbox: Inbox, apply: ApplyControl | None) -> None:
        self._publisher = publisher
        self._inbox = inbox
        self._current: Receipt | None = None
        self.apply = apply
        self.stopping = False

    def serve(self) -> None:
        """Applies all that waits, in order; nothing, if the loop does that itself."""
        if self.apply is None or not self._inbox:
            return
        taken = deque(self._inbox.take())
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

    def pending(self) -> Iterator[Control]:
        """Yields what waits; each is acknowledged when the next one is asked for."""
        taken = deque(self._inbox.take())
        try:
            while taken:
                receipt, winner = taken[0]
                if winner is not None:
                    self.settle(receipt, Superseded(winner.id))
                else:
                    self._current = receipt
                    yield receipt.control
                    if self._current is receipt:
                        self._current = None
                        self._applied(receipt, None)
                taken.popleft()
        finally:
            self._current = None
            self._leave_off(receipt for receipt, _ in taken)

    def reject(self, why: str) -> None:
        """Rejects the control that was yielded last."""
        if self._current is not None:
            current, self._current = self._current, None
            self.settle(current, Rejected(why))

    def settle(self, receipt: Receipt, outcome: Outcome) -> None:
        """Publishes how a control ended, and tells its sender."""
        id, control, source = receipt.id, receipt.control, receipt.source
        if isinstance(outcome, Applied):
            self._publisher.publish(
                ControlApplied(id=id, control=control, source=source, result=outcome.result)
            )
        else:
            why = outcome.why if isinstance(outcome, Rejected) else f"superseded by {outcome.by}"
            self._publisher.publish(ControlRejected(id=id, control=control, source=source, why=why))
        self._publisher.flush()
        receipt.settle(outcome)

    def close(self, why: str) -> None:
        """Refuses what waits, and all that will come."""
        for receipt in self._inbox.close(why):
            self.settle(receipt, Rejected(why))

    def _leave_off(self, receipts: Iterable[Receipt]) -> None:
        for receipt in receipts:
            if receipt.outcome is None:
                self.settle(
                    receipt, Rejected("the loop left off before it acted on it; send it again")
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
        self.stopping = self.stopping or isinstance(receipt.control, StopTraining)
        publisher = self._publisher
        self.settle(receipt, Applied(publisher.step, publisher.epoch, result))
