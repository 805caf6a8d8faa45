"""Async data for a training thread: fetched in the event loop, item by item."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, final

import anyio
from anyio.abc import TaskGroup

from fitbus._loops import LoopHandle
from fitbus.train._engine import Engine

__all__ = ["Puller"]


@final
class Puller:
    """Turns an async iterator into one of the training thread, which stands still meanwhile.

    So a source that stalls can't keep a stop, a control or a cancellation from acting.
    """

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._loop: LoopHandle | None = None
        self._start: Callable[[_Fetch], object] | None = None

    def connect(self, engine: Engine, tasks: TaskGroup) -> None:
        """Tells it where to fetch: in the loop of this task group."""
        self._engine = engine
        self._loop = LoopHandle()
        self._start = lambda fetch: tasks.start_soon(fetch.run)

    def __call__(self, items: AsyncIterator[Any]) -> Iterator[Any]:
        """The items, in the training thread. Ends early when the run is stopped or cancelled."""
        engine, loop, start = self._engine, self._loop, self._start
        assert engine is not None
        assert loop is not None
        assert start is not None
        while True:
            fetch = _Fetch(items, engine.publisher.ring)
            begin = start
            loop.call_soon(lambda fetch=fetch: begin(fetch))  # type: ignore[misc]  # bound early
            engine.publisher.stand_still(lambda fetch=fetch: fetch.done or engine.stopping)  # type: ignore[misc]  # bound early
            if not fetch.done:
                loop.call_soon(fetch.scope.cancel)
                return
            if fetch.error is not None:
                raise fetch.error
            if fetch.ended:
                return
            yield fetch.value


@final
class _Fetch:
    """One item on its way."""

    def __init__(self, items: AsyncIterator[Any], tell: Callable[[], object]) -> None:
        self._items = items
        self._tell = tell
        self.scope = anyio.CancelScope(shield=True)
        self.value: Any = None
        self.error: Exception | None = None
        self.ended = False
        self.done = False

    async def run(self) -> None:
        """Fetches it; in the loop."""
        with self.scope:
            try:
                self.value = await anext(self._items)
            except StopAsyncIteration:
                self.ended = True
            except Exception as error:  # noqa: BLE001  # raised again in the training thread
                self.error = error
            self.done = True
        self._tell()
