"""The controls that a client sent, until it is known what came of them."""

from __future__ import annotations

from typing import final

import anyio
import httpx

from fitbus._loops import LoopHandle
from fitbus.client._line import Line
from fitbus.control import (
    Applied,
    Control,
    Inbox,
    Outcome,
    Receipt,
    Rejected,
    StopTraining,
    UpdateState,
)
from fitbus.errors import InvalidArgumentError, ServiceError
from fitbus.events import Codec

__all__ = ["TOO_LATE", "Outbox"]

TOO_LATE = "too late: the run has ended"
_OUTCOMES = 1024  # whose controls aren't known yet to be ours: others send some, too


@final
class Outbox:
    """Sends controls one by one, in order; what came of them is told by the run's events.

    So a control that takes long holds up none that comes after it, and an answer isn't lost with
    a connection.

    A run that waits for its turn takes a stop only; others are kept here until it has begun.

    Args:
        line: Where to.
        codec: Encodes them.
    """

    def __init__(self, line: Line, codec: Codec) -> None:
        self._line = line
        self._codec = codec
        self._inbox = Inbox()
        self._loop = LoopHandle()
        self._posted = anyio.Event()
        self._inbox.on_post = lambda: self._loop.call_soon(self._ring)
        self._sent: dict[int, Receipt] = {}  # by their numbers in the run
        self._outcomes: dict[int, Outcome] = {}  # that came before the number did
        self._closed: str | None = None
        self._has_begun = False
        self._early: list[Receipt] = []

    def post(self, control: Control, source: str) -> Receipt:
        """Takes a control; any thread.

        Raises:
            InvalidArgumentError: It is no control, or one that can't be sent.
        """
        if isinstance(control, Control):
            self._encoded(control)
        return self._inbox.post(control, source)

    def begin(self) -> None:
        """Says that the run has begun."""
        if not self._has_begun:
            self._has_begun = True
            self._posted.set()

    async def send_all(self) -> None:
        """Sends what was posted; for a task of its own."""
        while True:
            await self._posted.wait()
            self._posted = anyio.Event()
            self._early += [receipt for receipt, _ in self._inbox.take()]
            for receipt in tuple(self._early):
                if self._has_begun or isinstance(receipt.control, StopTraining):
                    self._early.remove(receipt)
                    await self._send(receipt)

    async def _send(self, receipt: Receipt) -> None:
        try:
            answer = await self._line.send(self._encoded(receipt.control))
        except ServiceError as error:
            receipt.settle(Rejected(str(error)))
        except BaseException:
            receipt.settle(Rejected("the client left before it was answered; it may have acted"))
            raise
        else:
            self._answered(receipt, answer)

    def settle(self, id: int, outcome: Outcome) -> None:
        """Takes note of what came of a control, whoever sent it."""
        receipt = self._sent.pop(id, None)
        if receipt is not None:
            receipt.settle(outcome)
            return
        self._outcomes[id] = outcome
        if len(self._outcomes) > _OUTCOMES:
            del self._outcomes[next(iter(self._outcomes))]

    def close(self, why: str) -> None:
        """Rejects what is open, and what comes."""
        self._closed = why
        for receipt in (*self._early, *self._inbox.close(why), *self._sent.values()):
            receipt.settle(Rejected(why))
        self._early.clear()
        self._sent.clear()

    def _answered(self, receipt: Receipt, answer: httpx.Response) -> None:
        try:
            found = self._line.checked(answer)
        except ServiceError as error:
            receipt.settle(Rejected(error.why))
            return
        if found["status"] == "applied":
            receipt.settle(Applied(found["step"], found["epoch"], found["result"]))
            return
        id = found["id"]
        outcome = self._outcomes.pop(id, None)
        if outcome is None and self._closed is not None:
            outcome = Rejected(self._closed)
        if outcome is None:
            self._sent[id] = receipt
        else:
            receipt.settle(outcome)

    def _encoded(self, control: Control) -> str:
        if isinstance(control, UpdateState):
            raise InvalidArgumentError(
                "control", control, "its function can't be sent; use it where the run is"
            )
        return self._codec.to_json(control).decode()

    def _ring(self) -> None:
        self._posted.set()
