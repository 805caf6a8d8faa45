"""The task that reads an async iterator for a training thread, and closes it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, final

import anyio

from fitbus.errors import FitbusError

__all__ = ["Pump"]

_CLOSE_S = 5.0
_logger = logging.getLogger("fitbus")


@final
class Pump:
    """Reads an item whenever it is asked to. Nothing but a cancellation leaves its task.

    Args:
        items: What it reads.
        tell: Called when something has changed.
        owned: Whether to close it in the end, if it can be closed.

    Attributes:
        value: The item, once it is `done`.
        error: What reading raised.
        ended: Whether there is no other item.
        done: Whether what was asked for is there.
        closed: Whether its task has ended; readable in any thread.
        close_error: What closing raised, and nobody has raised since.
    """

    def __init__(
        self, items: AsyncIterator[Any], tell: Callable[[], object], *, owned: bool
    ) -> None:
        self._items = items
        self._tell = tell
        self._owned = owned
        self._asked: anyio.Event | None = None
        self._gone: anyio.Event | None = None
        self._scope: anyio.CancelScope | None = None
        self._closing: anyio.CancelScope | None = None
        self._close_s = _CLOSE_S
        self._reading = False
        self._cancelled = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.close_error: BaseException | None = None
        self.ended = False
        self.done = False
        self.closed = False

    # In the loop.

    def wake(self) -> None:
        """Asks for the next item."""
        if self._asked is not None:
            self._asked.set()
        if self.closed:
            self._told()

    def cancel(self, within_s: float = _CLOSE_S) -> None:
        """Asks for no more; a closing that has begun isn't disturbed.

        Args:
            within_s: How long closing the iterator may take.
        """
        self._close_s = within_s
        self._cancelled = True
        if self._reading and self._scope is not None:
            self._scope.cancel()
        elif self._asked is not None:
            self._asked.set()

    def end(self, within_s: float) -> None:
        """Asks for no more; cuts off a closing that has begun, and so has had its time."""
        if self._closing is not None:
            self._closing.cancel()
        else:
            self.cancel(within_s)

    async def until_closed(self) -> None:
        """Waits for the end of its task."""
        if not self.closed:
            self._gone = anyio.Event()
            await self._gone.wait()

    def leave(self) -> None:
        """Notes that its task has ended, or won't be started."""
        self.closed = True
        if self._gone is not None:
            self._gone.set()
        self._told()

    async def run(self) -> None:
        """Reads until the end, an error, or until it is cancelled; then closes the iterator."""
        try:
            # Around all that the iterator does: a scope that it holds open nests in this one, so
            # none is entered here before the iterator has been closed.
            with anyio.CancelScope(shield=True) as self._scope:
                try:
                    await self._read()
                finally:
                    await self._close(self._scope)
        finally:
            self.leave()

    async def _read(self) -> None:
        while not self._cancelled and await self._fetched():
            self._asked = anyio.Event()
            self._told()
            try:
                await self._asked.wait()
            except anyio.get_cancelled_exc_class():
                self.error = FitbusError(
                    f"{_name(self._items)} was cancelled between two batches: by a cancel scope"
                    " or a task group that it holds open over a `yield`"
                )
                return

    async def _fetched(self) -> bool:
        self._reading = True
        try:
            self.value = await anext(self._items)
        except StopAsyncIteration:
            self.ended = True
        except BaseException as error:
            if not self._cancelled:
                self.error = error  # raised again in the training thread
                return False
            self.close_error = _without_closing(error)
            if isinstance(error, anyio.get_cancelled_exc_class()):
                raise
        finally:
            self._reading = False
        return not self.ended and self.error is None

    async def _close(self, scope: anyio.CancelScope) -> None:
        close = getattr(self._items, "aclose", None)
        if not self._owned or close is None:
            return
        # If reading was cancelled, a generator has been left by that, with all its scopes.
        closing = anyio.CancelScope(shield=True) if scope.cancel_called else scope
        closing.deadline = anyio.current_time() + self._close_s
        self._closing = closing
        try:
            with contextlib.nullcontext() if closing is scope else closing:
                await close()
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # noqa: BLE001  # raised again in the training thread
            self.close_error = self.close_error or _without_closing(error)
        finally:
            if closing.cancel_called:
                _logger.warning(
                    "%s wasn't closed within %g s; that was cancelled",
                    _name(self._items),
                    self._close_s,
                )

    def _told(self) -> None:
        self.done = True
        self._tell()


def _name(items: object) -> str:
    return f"the data source {getattr(items, '__qualname__', None) or type(items).__name__}"


def _without_closing(error: BaseException) -> BaseException | None:
    """An error without what closing itself raises in task groups that are left open."""
    closing = (GeneratorExit, anyio.get_cancelled_exc_class())
    if isinstance(error, BaseExceptionGroup):
        _, rest = error.split(closing)
        return rest
    return None if isinstance(error, closing) else error
