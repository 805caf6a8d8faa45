"""Slow work of a callback, in order, in a thread of its own."""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable
from typing import final

from fitbus.errors import InvalidArgumentError

__all__ = ["Background"]

Work = Callable[[], object]


@final
class Background:
    """Does a callback's slow work (files, network) off the training thread: in order, one by one.

    The thread is started by the first piece of work and ended by `close`; it can be used again
    afterwards. What a piece raises is raised by the next `submit`, or by `close`; the pieces after
    it are left out, since they may build upon it.

    Args:
        owner: The callback's name, for messages.
        timeout_s: Seconds that `submit` waits for room, and `close` for all that is left.
        room: How many pieces may wait; one more makes `submit` wait, so that memory stays bounded.
    """

    def __init__(self, owner: str, timeout_s: float, room: int = 64) -> None:
        number = isinstance(timeout_s, int | float) and not isinstance(timeout_s, bool)
        if not number or not 0 < timeout_s < math.inf:
            raise InvalidArgumentError(
                f"{owner}.timeout_s", timeout_s, "give seconds, a finite number above 0"
            )
        self._owner = owner
        self._timeout_s = timeout_s
        self._room = room
        self._worker: _Worker | None = None

    def submit(self, work: Work) -> None:
        """Adds a piece of work; waits only where too much waits already.

        Raises:
            BaseException: What an earlier piece raised, as itself.
            TimeoutError: There was no room in time; the piece isn't done.
        """
        if self._worker is None:
            self._worker = _Worker(self._owner, self._room)
        worker = self._worker
        worker.check()
        try:
            worker.queue.put(work, timeout=self._timeout_s)
        except queue.Full:
            raise self._late(worker, self._timeout_s) from None

    def flush(self) -> None:
        """Waits until all is done that was submitted; raises as `close` does. It goes on."""
        if self._worker is not None:
            done = threading.Event()
            self.submit(done.set)
            if not self._worker.wait(done, self._timeout_s):
                raise self._late(self._worker, self._timeout_s)
            self._worker.check()

    def close(self, timeout_s: float | None = None) -> None:
        """Waits until all is done, and ends the thread. Closing again does nothing.

        Args:
            timeout_s: Seconds for it; the callback's own unless given. Never more than those.

        Raises:
            BaseException: What a piece of work raised, as itself.
            TimeoutError: It isn't done in time. The thread, a daemon, is left behind, and ends when
                it is done.
        """
        worker, self._worker = self._worker, None
        if worker is None:
            return
        limit = self._timeout_s if timeout_s is None else min(timeout_s, self._timeout_s)
        if not worker.end(limit):
            raise self._late(worker, limit)
        worker.check()

    def _late(self, worker: _Worker, limit: float) -> TimeoutError:
        left = worker.queue.qsize() + (worker.busy is not None)
        return TimeoutError(
            f"{self._owner}: {left} pieces of work aren't done after {limit:g} s; is the disk or"
            " the network slow? give a longer timeout_s"
        )


@final
class _Worker:
    """The thread, and what waits for it."""

    def __init__(self, owner: str, room: int) -> None:
        self.queue: queue.Queue[Work | None] = queue.Queue(room)
        self.busy: Work | None = None
        self._error: BaseException | None = None
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, name=f"fitbus {owner}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises what a piece of work raised; once."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def wait(self, done: threading.Event, limit: float) -> bool:
        """Waits for a piece that sets an event; one that is left out counts as done."""
        deadline = time.monotonic() + limit
        while not done.is_set() and self._error is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            done.wait(min(0.05, left))
        return True

    def end(self, limit: float) -> bool:
        """Asks it to end after all that waits; tells whether it did in time."""
        deadline = time.monotonic() + limit
        try:
            self.queue.put(None, timeout=limit)
        except queue.Full:
            self._is_ending = True
            with contextlib.suppress(queue.Full):  # it may have taken the last one meanwhile
                self.queue.put_nowait(None)
            return False
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (work := self.queue.get()) is not None:
            if self._error is None:
                self.busy = work
                try:
                    work()
                except BaseException as error:  # noqa: BLE001  # raised where the work came from
                    self._error = error
                self.busy = None
            if self._is_ending and self.queue.empty():
                return
