"""Async data for a training thread: fetched in the event loop, item by item."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, final

import anyio
from anyio.abc import TaskGroup

from fitbus._loops import LoopHandle, loop_context
from fitbus.train._engine import Engine
from fitbus.train._pass import Interrupted

__all__ = ["Puller"]

_CLOSE_S = 5.0


@final
class Puller:
    """Turns an async iterator into one of the training thread, which stands still meanwhile.

    So a source that stalls can't keep a stop, a control or a cancellation from acting. One task
    reads one iterator, under the context variables of whoever called `fit`.
    """

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._loop: LoopHandle | None = None
        self._start: Callable[[_Pump], object] = _nobody
        self._pumps: set[_Pump] = set()

    def connect(self, engine: Engine, tasks: TaskGroup) -> None:
        """Tells it where to fetch: in the loop of this task group, until `disconnect`."""
        context = loop_context()
        self._engine = engine
        self._loop = LoopHandle()
        self._start = lambda pump: context.run(tasks.start_soon, self._run, pump)

    def disconnect(self) -> None:
        """Ends the tasks; in the loop."""
        self._start = _nobody
        for pump in tuple(self._pumps):
            pump.cancel()

    def __call__(self, items: AsyncIterator[Any], *, owned: bool) -> _Pulled:
        """The items, in the training thread.

        Args:
            items: Where they come from.
            owned: Whether to close it in the end, if it can be closed.
        """
        assert self._engine is not None
        assert self._loop is not None
        pump = _Pump(items, self._engine.publisher.ring, owned=owned)
        return _Pulled(pump, self._engine, self._loop, lambda: self._start(pump))

    async def _run(self, pump: _Pump) -> None:
        self._pumps.add(pump)
        try:
            await pump.run()
        finally:
            self._pumps.discard(pump)


def _nobody(pump: _Pump) -> None:
    """Not connected: nothing is fetched."""


@final
class _Pulled:
    """The training thread's end. An interrupted wait goes on with the next call."""

    def __init__(
        self, pump: _Pump, engine: Engine, loop: LoopHandle, start: Callable[[], object]
    ) -> None:
        self._pump = pump
        self._engine = engine
        self._loop = loop
        self._start = start
        self._started = False
        self._asked = False

    def __next__(self) -> Any:
        pump, engine = self._pump, self._engine
        if pump.ended:
            raise StopIteration
        if not self._asked:
            self._asked = True
            pump.done = False
            self._loop.call_soon(pump.wake if self._started else self._start)
            self._started = True
        engine.publisher.stand_still(lambda: pump.done or engine.called_off())
        if not pump.done:
            engine.publisher.boundary()  # raises if it was cancelled
            raise Interrupted
        self._asked = False
        if pump.error is not None:
            raise pump.error
        if pump.ended:
            raise StopIteration
        return pump.value

    def close(self) -> None:
        """Ends its task."""
        self._loop.call_soon(self._pump.cancel)


@final
class _Pump:
    """The task that reads one async iterator, an item whenever it is asked to."""

    def __init__(
        self, items: AsyncIterator[Any], tell: Callable[[], object], *, owned: bool
    ) -> None:
        self._items = items
        self._tell = tell
        self._owned = owned
        self._asked: anyio.Event | None = None
        self._scope: anyio.CancelScope | None = None
        self._cancelled = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.ended = False
        self.done = False

    def wake(self) -> None:
        """Asks for the next item; in the loop."""
        if self._asked is not None:
            self._asked.set()

    def cancel(self) -> None:
        """Asks for no more; in the loop."""
        self._cancelled = True
        if self._scope is not None:
            self._scope.cancel()

    async def run(self) -> None:
        """Reads until the end, an error, or until it is cancelled; in the loop."""
        with anyio.CancelScope(shield=True) as self._scope:
            try:
                while not self._cancelled and await self._fetched():
                    self._asked = anyio.Event()
                    self._done()
                    await self._asked.wait()
            finally:
                await self._close()
        self._done()

    async def _fetched(self) -> bool:
        try:
            self.value = await anext(self._items)
        except StopAsyncIteration:
            self.ended = True
        except BaseException as error:
            if self._cancelled:
                raise
            self.error = error  # raised again in the training thread
        return not self.ended and self.error is None

    async def _close(self) -> None:
        close = getattr(self._items, "aclose", None)
        if self._owned and close is not None:
            with anyio.move_on_after(_CLOSE_S, shield=True):
                await close()

    def _done(self) -> None:
        self.done = True
        self._tell()
