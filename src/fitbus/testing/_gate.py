"""Holds threads and tasks until it is opened."""

from __future__ import annotations

import threading
from typing import final

import anyio

from fitbus._loops import LoopHandle

__all__ = ["Gate"]


@final
class Gate:
    """A barrier for tests without sleeps: a handler passes it, a test waits and opens it.

    Works between threads and event loops. Who passes says so (`arrived`), then waits for `open`.
    """

    def __init__(self) -> None:
        self._arrived = threading.Event()
        self._opened = threading.Event()
        self._lock = threading.Lock()
        self._tell: list[tuple[threading.Event, LoopHandle, anyio.Event]] = []

    def open(self) -> None:
        """Lets all pass, for good. Any thread."""
        self._set(self._opened)

    @property
    def arrived(self) -> bool:
        """Whether somebody has come to it."""
        return self._arrived.is_set()

    def pass_sync(self, timeout: float = 30.0) -> None:
        """Waits, in a thread, until it is open."""
        self._set(self._arrived)
        if not self._opened.wait(timeout):
            raise TimeoutError(f"the gate wasn't opened within {timeout:g} s")

    async def pass_async(self) -> None:
        """Waits, in a task, until it is open."""
        self._set(self._arrived)
        await self._wait(self._opened)

    async def wait_arrived(self, timeout: float = 30.0) -> None:
        """Waits, in a task, until somebody has come to it."""
        with anyio.fail_after(timeout):
            await self._wait(self._arrived)

    def wait_arrived_sync(self, timeout: float = 30.0) -> None:
        """Waits, in a thread, until somebody has come to it."""
        if not self._arrived.wait(timeout):
            raise TimeoutError(f"nobody came to the gate within {timeout:g} s")

    def _set(self, event: threading.Event) -> None:
        with self._lock:
            event.set()
            mine = [entry for entry in self._tell if entry[0] is event]
            self._tell = [entry for entry in self._tell if entry[0] is not event]
        for _, loop, waiter in mine:
            loop.call_soon(waiter.set)

    async def _wait(self, event: threading.Event) -> None:
        with self._lock:
            if event.is_set():
                return
            waiter = anyio.Event()
            self._tell.append((event, LoopHandle(), waiter))
        await waiter.wait()
