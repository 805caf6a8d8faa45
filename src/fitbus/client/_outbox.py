"""The controls that a client sent, until it is known what came of them."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, final

import anyio
from anyio.abc import TaskGroup

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

if TYPE_CHECKING:
    from httpx import Response

__all__ = ["TOO_LATE", "Outbox"]

TOO_LATE = "too late: the run has ended"


@final
class Outbox:
    """Sends controls one by one, in order, and then asks what came of each.

    So a control that takes long holds up none that comes after it, and what came of it isn't lost
    with a connection.

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
        self._sent: list[Receipt] = []
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

    async def send_all(self, tasks: TaskGroup) -> None:
        """Sends what was posted; for a task of its own. Others in the same group ask."""
        while True:
            await self._posted.wait()
            self._posted = anyio.Event()
            self._early += [receipt for receipt, _ in self._inbox.take()]
            for receipt in tuple(self._early):
                if self._has_begun or isinstance(receipt.control, StopTraining):
                    self._early.remove(receipt)
                    self._sent.append(receipt)
                    await self._send(receipt, tasks)

    async def _send(self, receipt: Receipt, tasks: TaskGroup) -> None:
        ticket = await self._answered(receipt, self._line.send(self._encoded(receipt.control)))
        if ticket is not None:
            tasks.start_soon(self._ask, receipt, ticket)

    async def _ask(self, receipt: Receipt, ticket: str) -> None:
        await self._answered(receipt, self._line.outcome(ticket))

    async def _answered(self, receipt: Receipt, answer: Awaitable[Response]) -> str | None:
        """Settles a receipt as is answered; or gives the ticket to ask with later."""
        try:
            found = self._line.checked(await answer)
        except ServiceError as error:
            self._settle(receipt, Rejected(error.why or str(error)))
            return None
        if found["status"] != "applied":
            ticket: str = found["ticket"]
            return ticket
        self._settle(receipt, Applied(found["step"], found["epoch"], found["result"]))
        return None

    def _settle(self, receipt: Receipt, outcome: Outcome) -> None:
        receipt.settle(outcome)
        if receipt in self._sent:
            self._sent.remove(receipt)

    def close(self, why: str) -> None:
        """Rejects what wasn't sent, and what comes."""
        for receipt in (*self._early, *self._inbox.close(why)):
            receipt.settle(Rejected(why))
        self._early.clear()

    def abandon(self) -> None:
        """Asks no more what came of what was sent."""
        for receipt in tuple(self._sent):
            self._settle(receipt, Rejected("the client left before the answer; it may have acted"))

    def _encoded(self, control: Control) -> str:
        if isinstance(control, UpdateState):
            raise InvalidArgumentError(
                "control", control, "its function can't be sent; use it where the run is"
            )
        return self._codec.to_json(control).decode()

    def _ring(self) -> None:
        self._posted.set()
