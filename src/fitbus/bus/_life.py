"""Where a run stands, what came of it, and the block that it lives in."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

import anyio

from fitbus.errors import RunCancelledError, ThreadStuckError

if TYPE_CHECKING:
    from fitbus.bus._bus import Bus
    from fitbus.bus._handle import RunStatus
    from fitbus.bus._host import Host
    from fitbus.bus._statistics import DeliveryReport

__all__ = ["Block", "Life"]


@final
class Life:
    """A run's status, and its result or error. Written in the loop, readable in any thread.

    Attributes:
        status: Where it stands; whether it is paused or finishing is known to its thread.
        final: Whether it has ended, and the status won't change any more.
        result: Of the job.
        error: What ended it, and wasn't asked for; raised by `wait`.
        error_seen: Whether somebody who waited got the error.
    """

    def __init__(self) -> None:
        self.status: RunStatus = "pending"
        self.final = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.error_seen = False
        self._over = anyio.Event()

    @property
    def over(self) -> bool:
        """Whether nobody has to wait any more."""
        return self._over.is_set()

    def end(self) -> None:
        """Lets those who wait go on."""
        self._over.set()

    async def until_over(self) -> None:
        """Waits for the end."""
        await self._over.wait()

    async def wait(self) -> Any:
        """Waits for the end; returns the result, or raises what ended it."""
        await self._over.wait()
        if self.error is not None:
            self.error_seen = True
            raise self.error
        return self.result

    def keep_error(self, error: BaseException) -> None:
        """Ends with an error that kept the run from starting, or that nobody has waited for."""
        if not self.final:
            self.error, self.status, self.final = error, "failed", True
        self._over.set()


class Block(abc.ABC):
    """The block of a run: `async with run:`. Leaving it waits for the run, or cancels it.

    Attributes:
        life: Where the run stands, and what came of it.
        grace_s: Seconds that it gets to end after a cancellation.
        report: What subscribers got, once it has ended.
        draining: Whether the work is done, and subscribers get what is left, for `drain_s`.
        at_end: Called, in the loop, when it has ended.
    """

    def __init__(self, *, grace_s: float, drain_s: float) -> None:
        self.life = Life()
        self.grace_s = grace_s
        self.report: DeliveryReport | None = None
        self.draining = False
        self.at_end: list[Callable[[], object]] = []
        self._drain_s = drain_s
        self._host: Host | None = None
        self._drain_scope: anyio.CancelScope | None = None

    async def leave(self, error: BaseException | None) -> None:
        """Leaves the block: waits for the run, or cancels it because of the body's error."""
        assert self._host is not None
        cancelled: BaseException | None = None
        try:
            if error is None:
                await self.life.until_over()
        except BaseException as raised:  # noqa: BLE001  # raised again below
            cancelled = raised
        if not self.life.over:
            cancelled = await self._cancel() or cancelled
        try:
            await self._host.__aexit__(None, None, None)
        except anyio.get_cancelled_exc_class() as raised:
            cancelled = raised
        own = self.life.error
        if error is None and cancelled is None:
            if own is not None and not self.life.error_seen:
                raise own
            return
        if isinstance(own, ThreadStuckError) and not isinstance(error, Exception):
            raise own from (error or cancelled)
        if error is not None:
            _note_on(error, own)
        if cancelled is not None and not (error and isinstance(error, type(cancelled))):
            raise cancelled

    def give_up(self) -> None:
        """Cancels the run, as leaving its block would; in the loop, from no task."""
        if self._host is not None and not self.life.over:
            self._host.tasks.start_soon(self._cancel)

    @abc.abstractmethod
    async def _cancel(self) -> BaseException | None:
        """Cancels the run, and waits until it has ended or the grace period is over.

        Returns:
            A native cancellation that came meanwhile: no shield keeps those out.
        """

    async def _end_by(self, deadline: float) -> BaseException | None:
        again: BaseException | None = None
        while not self.life.over and anyio.current_time() < deadline:
            try:
                with anyio.CancelScope(deadline=deadline):
                    await self.life.until_over()
            except anyio.get_cancelled_exc_class() as raised:
                again = raised
        return again

    async def _drain(self, bus: Bus, id: str) -> None:
        """Lets subscribers have what is left, and ends those of the run."""
        self.draining = True
        with anyio.CancelScope() as self._drain_scope:
            self.report = await bus.drain(id, self._drain_s)
        self.report = self.report or await bus.drain(id, 0)  # if it was cancelled meanwhile
        bus.finish_run(id)
        assert self._host is not None
        self._host.leave_s = max(0.1, self._drain_s - self.report.seconds)

    def _tell_end(self) -> None:
        """Calls those who asked to be told of the end; it is final."""
        for function in self.at_end:
            try:
                function()
            except Exception as late:  # noqa: BLE001  # the run has ended; it isn't lost
                self.life.error = self.life.error or late
        self.life.final = True


def _note_on(error: BaseException, own: BaseException | None) -> None:
    """Notes on the error that leaves a run's block what the run raised itself."""
    if own is None or own is error:
        return
    if isinstance(own, RunCancelledError):
        for note in getattr(own, "__notes__", ()):  # what failed while it was cancelled
            error.add_note(note)
    else:
        error.add_note(f"fitbus: the run also raised {type(own).__name__}: {own}")
