"""What a sender gets back: the receipt of a control, and how it ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import Any, TypeAlias, final

import anyio
import msgspec

from fitbus._checks import check_timeout
from fitbus._loops import LoopHandle, in_event_loop
from fitbus.control._messages import Control
from fitbus.errors import ControlRejectedError, WouldDeadlockError

__all__ = ["Applied", "Outcome", "Receipt", "Rejected", "Superseded"]


@final
class Applied(msgspec.Struct, frozen=True):
    """A control acted.

    Attributes:
        step: The step at whose boundary it acted: completed optimizer updates before it.
        epoch: The epoch, from 0.
        result: What it gave: the logs of an `Evaluate`; None for most.
    """

    step: int
    epoch: int
    result: Any = None


@final
class Superseded(msgspec.Struct, frozen=True):
    """A later control for the same thing came to the same boundary, and won.

    Attributes:
        by: The number of that control.
    """

    by: int


@final
class Rejected(msgspec.Struct, frozen=True):
    """A control did not act; training is as it was.

    Attributes:
        why: Why, and what to do.
    """

    why: str


Outcome: TypeAlias = Applied | Superseded | Rejected


@final
class Receipt:
    """The acknowledgement of a control: `await` it in a task, or ask for `result()` in a thread.

    It is settled exactly once, also when the run ends first (rejected, "too late").

    Attributes:
        id: The control's number in the run, in the order of sending.
        control: The control.
        source: Who sent it.
        key: What the control sets, as its `key` said when it was sent.
        returned: Whether it is what a handler returned, so that nobody holds the receipt.
    """

    def __init__(
        self,
        id: int,
        control: Control,
        source: str,
        may_wait: Callable[[], bool] = lambda: True,
        *,
        key: str | None = None,
        returned: bool = False,
    ) -> None:
        self.id = id
        self.control = control
        self.source = source
        self.key = key
        self.returned = returned
        self._may_wait = may_wait
        self._lock = threading.Lock()
        self._outcome: Outcome | None = None
        self._waiters: list[Callable[[], object]] = []

    @property
    def outcome(self) -> Outcome | None:
        """How it ended: `Applied`, `Superseded`, `Rejected`; None while that is open."""
        return self._outcome

    def result(self, timeout: float | None = None) -> Applied:
        """Waits, in a thread, until the control acted.

        Args:
            timeout: Seconds; None waits as long as it takes.

        Returns:
            Where it acted, and what it gave.

        Raises:
            InvalidArgumentError: `timeout` is no number of at least 0.
            ControlRejectedError: It was rejected or superseded.
            TimeoutError: Not settled in time; the control may still be applied.
            WouldDeadlockError: Called in an event loop, which it would block: `await` the receipt.
                Or in the training thread, by a handler after which the control would act.
        """
        check_timeout(timeout)
        if self._outcome is None:
            if in_event_loop():
                raise WouldDeadlockError(
                    "receipt.result() would block the event loop; write `await receipt`"
                )
            if not self._may_wait() and self._outcome is None:
                raise WouldDeadlockError(
                    "receipt.result() would block the training thread, which applies the control at"
                    " its next step boundary; let the handler return, and ask later"
                )
            settled = threading.Event()
            self.when_settled(settled.set)
            if not settled.wait(None if timeout is None else min(timeout, threading.TIMEOUT_MAX)):
                raise TimeoutError(self._still_open(timeout))
        return self._value()

    def __await__(self) -> Generator[Any, Any, Applied]:
        """Waits until the control acted; raises `ControlRejectedError` if it won't."""
        return self._wait().__await__()

    async def wait(self, timeout: float | None = None) -> Applied:
        """The same as awaiting it, with a limit.

        Args:
            timeout: Seconds; None waits as long as it takes.

        Raises:
            InvalidArgumentError: `timeout` is no number of at least 0.
            ControlRejectedError: It was rejected or superseded.
            TimeoutError: Not settled in time; the control may still be applied.
        """
        check_timeout(timeout)
        with anyio.move_on_after(timeout):
            return await self._wait()
        raise TimeoutError(self._still_open(timeout))

    async def _wait(self) -> Applied:
        if self._outcome is None:
            settled = anyio.Event()
            loop = LoopHandle()
            self.when_settled(lambda: loop.call_soon(settled.set))
            await settled.wait()
        return self._value()

    def when_settled(self, tell: Callable[[], object]) -> None:
        """Calls a function when it has ended, in whatever thread; at once if it has."""
        with self._lock:
            if self._outcome is None:
                self._waiters.append(tell)
                return
        tell()

    def _value(self) -> Applied:
        match self._outcome:
            case Applied() as applied:
                return applied
            case Superseded(by):
                raise ControlRejectedError(
                    self.control, f"superseded by control {by}, sent later for the same boundary"
                )
            case Rejected(why):
                raise ControlRejectedError(self.control, why)
            case None:  # pragma: no cover  # only called when settled
                raise AssertionError("not settled")

    def _still_open(self, timeout: float | None) -> str:
        return (
            f"{type(self.control).__name__} was not acknowledged within {timeout} s (timeout);"
            " it may still be applied, and its receipt will say so"
        )

    def settle(self, outcome: Outcome) -> bool:
        """Ends it, for those who apply controls. False if it has ended already."""
        with self._lock:
            if self._outcome is not None:
                return False
            self._outcome = outcome
            waiters, self._waiters = self._waiters, []
        for tell in waiters:
            tell()
        return True

    def __repr__(self) -> str:
        """Shows the control and how it ended."""
        state = "open" if self._outcome is None else repr(self._outcome)
        return f"<Receipt {self.id} of {self.control!r} from {self.source!r}: {state}>"
