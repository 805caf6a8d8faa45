"""The server's end, which nothing that waits may hold up."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

import anyio

if TYPE_CHECKING:
    from fitbus.train import Runs

__all__ = ["Closing"]

_LOOK_S = 0.1
_PATIENCE_S = 2.0  # for a client that takes nothing


@final
class Closing:
    """Ends what waits when the server ends: streams, and answers that come later.

    A server waits for open responses before it ends the application's lifespan, in which the runs
    are stopped: an event stream would hold both up until the server cuts it. ASGI tells an
    application nothing before that. uvicorn, where it minds the signals, can be asked, and is,
    while something waits: it says `should_exit`. For other servers there is `set`.

    Args:
        runs: Whose block the asking lives in.
    """

    def __init__(self, runs: Runs) -> None:
        self.is_set = False
        self._runs = runs
        self._open: dict[anyio.CancelScope, Callable[[], None] | None] = {}
        self._looks = False

    @contextmanager
    def ends(self, wake: Callable[[], None] | None = None) -> Generator[anyio.CancelScope]:
        """A scope that is cancelled then; after a while only, if `wake` ends it more gently."""
        with anyio.CancelScope() as scope:
            self._open[scope] = wake
            try:
                if self.is_set:
                    self._end(scope)
                elif not self._looks and self._runs.is_open:
                    self._looks = True
                    self._runs.spawn(self._look)
                yield scope
            finally:
                del self._open[scope]

    def set(self) -> None:
        """Ends all that waits, and what comes later."""
        self.is_set = True
        for scope in list(self._open):
            self._end(scope)

    def _end(self, scope: anyio.CancelScope) -> None:
        wake = self._open[scope]
        if wake is None:
            scope.cancel()
        else:
            wake()
            if scope.deadline == math.inf:
                scope.deadline = anyio.current_time() + _PATIENCE_S

    async def _look(self) -> None:
        try:
            while self._open and self._runs.is_open and not self.is_set:
                # The bound method of a server that minds the signals; a number or a function else.
                server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
                if getattr(server, "should_exit", False) is True:
                    self.set()
                await anyio.sleep(_LOOK_S)
        finally:
            self._looks = False
