"""Async data for a training thread: fetched in the event loop, item by item."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any, final

from anyio.abc import TaskGroup

from fitbus._loops import LoopHandle, loop_context
from fitbus.train._closing import closing_failed
from fitbus.train._engine import Engine
from fitbus.train._pass import Interrupted
from fitbus.train._pump import Pump

__all__ = ["Puller"]

_LATE_S = 0.5
_logger = logging.getLogger("fitbus")


@final
class Puller:
    """Turns an async iterator into one of the training thread, which stands still meanwhile.

    So a source that stalls can't keep a stop, a control or a cancellation from acting. One task
    reads one iterator, under the context variables of whoever called `fit`.
    """

    def __init__(self) -> None:
        self._line: _Line | None = None

    def connect(self, engine: Engine, tasks: TaskGroup) -> None:
        """Tells it where to fetch: in the loop of this task group, until `disconnect`."""
        self._line = _Line(engine, tasks)

    async def disconnect(self) -> None:
        """Ends the tasks that the thread has left, and keeps nothing of its run; in the loop."""
        line, self._line = self._line, None
        if line is not None:
            await line.end()

    def __call__(self, items: AsyncIterator[Any], *, owned: bool) -> _Pulled:
        """The items, in the training thread.

        Args:
            items: Where they come from.
            owned: Whether to close it in the end, if it can be closed.
        """
        assert self._line is not None
        return self._line.pulled(items, owned=owned)


@final
class _Line:
    """Between one run's thread and its loop."""

    def __init__(self, engine: Engine, tasks: TaskGroup) -> None:
        self._tasks: TaskGroup | None = tasks
        self._context = loop_context()
        self._pumps: list[Pump] = []
        self.engine = engine
        self.loop = LoopHandle()

    def pulled(self, items: AsyncIterator[Any], *, owned: bool) -> _Pulled:
        return _Pulled(self, Pump(items, self.engine.publisher.ring, owned=owned))

    def start(self, pump: Pump) -> None:
        """Starts its task, unless the run is over; in the loop."""
        if self._tasks is None:
            pump.leave()
            return
        self._pumps.append(pump)
        self._context.run(self._tasks.start_soon, self._run, pump)

    async def _run(self, pump: Pump) -> None:
        await pump.run()
        if pump.close_error is None:
            self._pumps.remove(pump)

    async def end(self) -> None:
        """Ends all tasks. What closing raised comes after what anything else raised."""
        self._tasks = None
        pumps = tuple(self._pumps)
        for pump in pumps:
            pump.end(_LATE_S)
        for pump in pumps:
            await pump.until_closed()
            if (error := pump.close_error) is not None:
                closing_failed(self.engine.publisher, error)
                _logger.error("closing the data of a run failed", exc_info=error)


@final
class _Pulled:
    """The training thread's end. An interrupted wait goes on with the next call."""

    def __init__(self, line: _Line, pump: Pump) -> None:
        self._line = line
        self._pump = pump
        self._started = False
        self._asked = False

    def __next__(self) -> Any:
        pump, line = self._pump, self._line
        publisher, called_off = line.engine.publisher, line.engine.called_off
        if pump.ended:
            raise StopIteration
        if not self._asked:
            self._asked = True
            pump.done = False
            line.loop.call_soon(pump.wake if self._started else lambda: line.start(pump))
            self._started = True
        publisher.stand_still(lambda: pump.done or called_off())
        if not pump.done:
            publisher.boundary()  # raises if it was cancelled
            raise Interrupted
        self._asked = False
        if pump.error is not None:
            raise pump.error
        if pump.ended:
            raise StopIteration
        if pump.closed:  # its loop has left it
            raise Interrupted
        return pump.value

    def close(self) -> None:
        """Ends its task, and waits until the iterator is closed, or a cancelled run's time is over.

        Raises:
            BaseException: What closing it raised.
        """
        pump, line = self._pump, self._line
        if self._started and not pump.closed and line.loop.call_soon(pump.cancel):
            standstill = line.engine.publisher.standstill
            standstill.wait(lambda: pump.closed or standstill.given_up)
        if pump.closed and pump.close_error is not None:
            error, pump.close_error = pump.close_error, None
            raise error
