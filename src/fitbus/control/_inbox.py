"""Where controls wait for the next boundary."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import final

from fitbus.control._door import checked_key
from fitbus.control._messages import Control
from fitbus.control._receipts import Receipt, Rejected

__all__ = ["Inbox"]


@final
class Inbox:
    """Controls in the order of sending, from any thread, until a boundary takes them.

    Attributes:
        on_post: Called, in the sender's thread, after a control came in; must not raise.
        may_wait: Called, in the thread that wants to wait for an open receipt; False if that is the
            thread by which it would be settled.
    """

    def __init__(self) -> None:
        # Reentrant: `put_back` may be called by the garbage collector, in the midst of the others.
        self._lock = threading.RLock()
        self.on_post: Callable[[], object] = _nothing
        self.may_wait: Callable[[], bool] = lambda: True
        self._open: list[Receipt] = []
        self._sent = 0
        self._closed: str | None = None

    def post(self, control: Control, source: str = "", *, returned: bool = False) -> Receipt:
        """Puts a control in; never blocks. After `close` its receipt is rejected at once.

        Args:
            control: The control.
            source: Who sends it.
            returned: Whether a handler returned it, so that nobody holds its receipt.

        Raises:
            InvalidArgumentError: `control` is no `Control`, or has a `key` that is neither a text
                nor None; or `source` is no text.
        """
        key = checked_key(control, source)
        with self._lock:
            receipt = self._receipt(control, source, key, returned=returned)
            closed = self._closed
            if closed is None:
                self._open.append(receipt)
        if closed is None:
            self.on_post()
        else:
            receipt.settle(Rejected(closed))
        return receipt

    def aside(self, control: Control, source: str) -> Receipt:
        """A receipt for a control that is applied at once, whatever waits here."""
        key = checked_key(control, source)
        with self._lock:
            return self._receipt(control, source, key)

    def take(self, *, returned: bool = True) -> list[tuple[Receipt, Receipt | None]]:
        """Empties it: each receipt, with the later one that supersedes it or None.

        Args:
            returned: Whether those are taken, too, that handlers returned.
        """
        if not self._open:
            return []
        with self._lock:
            taken, self._open = self._open, []
            if not returned:
                self._open = [receipt for receipt in taken if receipt.returned]
                taken = [receipt for receipt in taken if not receipt.returned]
        last = {receipt.key: receipt for receipt in taken}
        return [
            (receipt, None if receipt.key is None or winner is receipt else winner)
            for receipt in taken
            for winner in (last[receipt.key],)
        ]

    @property
    def sent(self) -> int:
        """How many controls were sent: the number of the next one."""
        return self._sent

    def go_on(self, sent: int) -> None:
        """Gives the next control this number, where a run goes on from an earlier one."""
        with self._lock:
            self._sent = max(self._sent, sent)

    def waiting(self) -> list[tuple[Control, str]]:
        """What waits, with its senders; it goes on waiting. Any thread."""
        with self._lock:
            return [(receipt.control, receipt.source) for receipt in self._open]

    def put_back(self, receipts: list[Receipt]) -> str | None:
        """Lets controls that were taken wait again, before all others.

        Returns:
            None; or, after `close`, why they can't: they are left to the caller.
        """
        with self._lock:
            if self._closed is None:
                self._open[:0] = receipts
            return self._closed

    def close(self, why: str) -> list[Receipt]:
        """Refuses further controls with `why`; returns those that still waited."""
        with self._lock:
            if self._closed is None:
                self._closed = why
            taken, self._open = self._open, []
        return taken

    def holds(self, kind: type[Control]) -> bool:
        """Whether a control of a type waits."""
        with self._lock:
            return any(isinstance(receipt.control, kind) for receipt in self._open)

    def _receipt(
        self, control: Control, source: str, key: str | None, *, returned: bool = False
    ) -> Receipt:
        receipt = Receipt(self._sent, control, source, self._may_wait, key=key, returned=returned)
        self._sent += 1
        return receipt

    def _may_wait(self) -> bool:
        return self.may_wait()  # as it is then, not as it was when the control was sent

    def __len__(self) -> int:
        """How many controls wait."""
        return len(self._open)

    def __repr__(self) -> str:
        """Shows what waits."""
        state = "closed" if self._closed else f"{len(self._open)} waiting"
        return f"<Inbox: {self._sent} sent, {state}>"


def _nothing() -> None:
    """Nobody is told."""
