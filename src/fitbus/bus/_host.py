"""Where a bus' handlers run: a task group with one task for each of them."""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, final

import anyio
from anyio.abc import TaskGroup

from fitbus.bus._watch import TICK_S
from fitbus.bus._worker import work

if TYPE_CHECKING:
    from fitbus.bus._bus import Bus
    from fitbus.bus._subscription import Subscription

__all__ = ["Host"]

_LEAVE_S = 30.0
_logger = logging.getLogger("fitbus")


@final
class Host:
    """Hosts a bus while it is entered. Several may: those that leave hand their handlers over.

    Attributes:
        leaving: Whether it is being left.
        leave_s: Seconds that handlers get then to finish what they are at.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._tasks: TaskGroup | None = None
        self._tick: anyio.CancelScope | None = None
        self._workers: set[Subscription[Any]] = set()
        self._idle: anyio.Event | None = None
        self.leaving = False
        self.leave_s = _LEAVE_S

    async def __aenter__(self) -> Self:
        """Starts the handlers that nobody hosts yet."""
        self._bus.hosting.enter_loop()
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(self._ticking)
        self._bus.hosting.add(self)
        self._bus.watch.enter()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Lets handlers finish what they are at, and hands them over to another host.

        The body's error isn't given to the task group: it leaves as itself.
        """
        assert self._tasks is not None
        try:
            with anyio.CancelScope(shield=True):
                await self._leave(self.leave_s)
        finally:  # a native cancellation, which no shield keeps out, comes here too
            if self._tick is not None:
                self._tick.cancel()
            self._tasks.cancel_scope.cancel()
            try:
                await self._tasks.__aexit__(None, None, None)
            finally:
                self._bus.hosting.exit_loop()

    @property
    def tasks(self) -> TaskGroup:
        """Its task group, while it is entered. What is started there must shield itself."""
        assert self._tasks is not None
        return self._tasks

    def start(self, subscription: Subscription[Any]) -> None:
        """Starts the task of a handler; in the loop."""
        assert self._tasks is not None
        self._workers.add(subscription)
        name = f"fitbus {subscription.name}"

        def working() -> Coroutine[Any, Any, None]:
            coroutine = subscription.coroutine = work(subscription, self._bus, self)
            return coroutine

        self._tasks.start_soon(working, name=name)

    def left(self, subscription: Subscription[Any]) -> None:
        """Notes that a handler's task has ended."""
        self._workers.discard(subscription)
        if self._idle is not None and not self._workers:
            self._idle.set()

    async def _leave(self, within_s: float) -> None:
        self.leaving = True
        self._bus.watch.leave()
        self._bus.hosting.remove(self)
        self._idle = anyio.Event()
        if not self._workers:
            return
        for subscription in tuple(self._workers):
            subscription.notify()
        try:
            with anyio.move_on_after(within_s):
                await self._idle.wait()
        finally:
            for subscription in tuple(self._workers):
                _logger.warning(
                    "handler %r was cancelled: it did not return within %g s after its bus was"
                    " left",
                    subscription.name,
                    within_s,
                )
                if subscription.scope is not None:
                    subscription.scope.cancel()

    async def _ticking(self) -> None:
        with anyio.CancelScope(shield=True) as self._tick:
            while not self.leaving:
                await anyio.sleep(TICK_S)
                self._bus.watch.beat()
                self._bus.wakeup.flush()  # a safety net, for what a thread left untold
