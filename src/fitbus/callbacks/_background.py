"""Slow work of a callback, in order, in a thread of its own."""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, final

from fitbus.callbacks._arguments import check_seconds
from fitbus.errors import RunCancelledError

if TYPE_CHECKING:
    from fitbus.train import Run

__all__ = ["Background", "Lost", "unless", "within_grace"]

Work = Callable[[], object]

_TICK_S = 0.05


def within_grace(run: Run[Any], limit_s: float) -> float:
    """How long the end of a run may be held: half of the grace period, if it was cancelled."""
    return min(limit_s, run.driver.grace_s / 2) if run.end_reason == "cancelled" else limit_s


class Lost(Exception):
    """What a backup waited for was not written, and won't be: the backup doesn't count.

    A piece of work that raises it is left out, and nobody is told: who failed to write tells.
    """


def unless(
    is_lost: Callable[[], bool], written: Callable[[float], bool]
) -> Callable[[float], bool]:
    """What waits as `written` does, but raises `Lost` if by then something was lost."""

    def wait(timeout_s: float) -> bool:
        through = written(timeout_s)
        if is_lost():
            raise Lost
        return through

    return wait


@final
class Background:
    """Does a callback's slow work (files, network) off the training thread: in order, one by one.

    The thread is started by the first piece of work and ended by `close`; it can be used again
    afterwards. What a piece raises is raised by the next `submit`, or by `close`; the pieces after
    it are left out, since they may build upon it. Any thread may call it.

    Whatever waits here ends when the run was cancelled and half of its grace period is over, so
    that the training thread ends in time however slow the disk is. Where a run ends without a
    `close` (after an error, no hook is called), the thread ends when it is done.

    Args:
        owner: The callback's name, for messages.
        timeout_s: Seconds that `submit` waits for room, and `close` for all that is left.
        room: How many pieces may wait; one more makes `submit` wait, so that memory stays bounded.

    Attributes:
        run: The run for whose callback it works.
    """

    def __init__(self, owner: str, timeout_s: float, room: int = 64) -> None:
        check_seconds(owner, "timeout_s", timeout_s)
        self.run: Run[Any] | None = None
        self._owner = owner
        self._timeout_s = timeout_s
        self._room = room
        self._lock = threading.Lock()
        self._worker: _Worker | None = None

    def attach(self, run: Run[Any]) -> None:
        """Works for a run from here on."""
        self.run = run
        run.at_end(self._leave)

    @property
    def given_up(self) -> bool:
        """Whether nothing is waited for any more: its run was cancelled, and has no time left."""
        engine = None if self.run is None else self.run.driver.engine
        return engine is not None and engine.publisher.standstill.late

    def waits(self, limit: float) -> Iterator[float]:
        """How long to wait, and again, until `limit` seconds are over or it is given up."""
        deadline = time.monotonic() + limit
        yield 0.0
        while not self.given_up and (left := deadline - time.monotonic()) > 0:
            if self.run is not None:
                self.run.driver.waited += 1  # it isn't stuck
            yield min(_TICK_S, left)

    def submit(self, work: Work) -> None:
        """Adds a piece of work; waits only where too much waits already.

        Raises:
            BaseException: What an earlier piece raised, as itself.
            TimeoutError: There was no room in time; the piece isn't done.
            RunCancelledError: The same, in a run that was cancelled.
        """
        self._submit(work, self.waits(self._timeout_s))

    def flush(self) -> None:
        """Waits until all is done that was submitted; raises as `close` does. It goes on."""
        if self._worker is not None:
            done = threading.Event()
            waits = self.waits(self._timeout_s)
            worker = self._submit(done.set, waits)
            if not worker.wait(done, waits):
                raise self._late(worker, self._timeout_s)
            worker.check()

    def mark(self) -> Callable[[float], bool]:
        """Marks the place after all that was submitted; doesn't wait.

        Returns:
            Waits so many seconds at most until what was before is done; tells whether it is. Raises
            `Lost` if some of it failed, or was left out.

        Raises:
            BaseException: What an earlier piece raised, as itself.
        """
        with self._lock:
            worker = self._worker
            if worker is None:
                return lambda _: True
            worker.check()
            return functools.partial(worker.wait_for_done, worker.taken)

    def close(self, timeout_s: float | None = None) -> None:
        """Waits until all is done, and ends the thread. Closing again does nothing.

        Args:
            timeout_s: Seconds for it; the callback's own unless given. Never more than those, nor,
                in a run that was cancelled, than half of its grace period.

        Raises:
            BaseException: What a piece of work raised, as itself.
            TimeoutError: It isn't done in time. The thread, a daemon, is left behind, and ends when
                it is done.
            RunCancelledError: The same, in a run that was cancelled.
        """
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is None:
            return
        limit = self._timeout_s if timeout_s is None else min(timeout_s, self._timeout_s)
        if self.run is not None:
            limit = within_grace(self.run, limit)
        if not worker.end(self.waits(limit)):
            raise self._late(worker, limit)
        worker.check()

    def _leave(self) -> None:
        with contextlib.suppress(Exception):
            self.close(0.0)

    def _submit(self, work: Work, waits: Iterator[float]) -> _Worker:
        while True:
            with self._lock:
                if self._worker is None:
                    self._worker = _Worker(self._owner, self._room)
                worker = self._worker
                worker.check()
                with contextlib.suppress(queue.Full):
                    worker.queue.put_nowait(work)
                    worker.taken += 1
                    return worker
            wait_s = next(waits, None)
            if wait_s is None:
                raise self._late(worker, self._timeout_s)
            worker.wait_for_room(wait_s)

    def late(self, what: str, limit: float) -> TimeoutError | RunCancelledError:
        """What to raise where something, in words, wasn't done within `waits(limit)`."""
        if self.given_up:
            return RunCancelledError(
                f"{self._owner}: {what} when the run was cancelled, and half of its grace period"
                " was over; is the disk or the network slow? give a longer grace_s"
            )
        return TimeoutError(
            f"{self._owner}: {what} after {limit:g} s; is the disk or the network slow? give a"
            " longer timeout_s"
        )

    def _late(self, worker: _Worker, limit: float) -> TimeoutError | RunCancelledError:
        return self.late(f"{worker.left} pieces of work aren't done", limit)


@final
class _Worker:
    """The thread, and what waits for it."""

    def __init__(self, owner: str, room: int) -> None:
        self.queue: queue.Queue[Work | None] = queue.Queue(room)
        self.taken = 0  # pieces that it was given
        self._done = 0  # of them, or left out
        self._lost: int | None = None  # the first one that failed
        self._moved = threading.Condition()
        self._error: BaseException | None = None
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, name=f"fitbus {owner}", daemon=True)
        self._thread.start()

    @property
    def left(self) -> int:
        """How many pieces aren't done."""
        return self.queue.unfinished_tasks

    def check(self) -> None:
        """Raises what a piece of work raised; once."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def wait_for_room(self, seconds: float) -> None:
        """Waits until one more may wait, if that is soon."""
        has_room = lambda: len(self.queue.queue) < self.queue.maxsize  # noqa: E731  # the lock is held
        with self.queue.not_full:
            self.queue.not_full.wait_for(has_room, seconds)

    def wait(self, done: threading.Event, waits: Iterator[float]) -> bool:
        """Waits for a piece that sets an event; one that is left out counts as done."""
        return any(done.wait(wait_s) or self._error is not None for wait_s in waits)

    def wait_for_done(self, number: int, timeout_s: float) -> bool:
        """Waits for the first `number` pieces, so long at most; tells whether they are done.

        Raises:
            Lost: One of them isn't, and won't be.
        """
        with self._moved:
            done = self._moved.wait_for(lambda: self._done >= number, timeout_s)
            if self._lost is not None and self._lost < number:
                raise Lost
            return done

    def end(self, waits: Iterator[float]) -> bool:
        """Asks it to end after all that waits; tells whether all was done in time."""
        for wait_s in waits:
            try:
                self.queue.put(None, timeout=wait_s)
            except queue.Full:
                continue
            break
        else:
            self._is_ending = True
            with contextlib.suppress(queue.Full):  # it may have taken the last one meanwhile
                self.queue.put_nowait(None)
            return False
        for wait_s in waits:
            self._thread.join(wait_s)
            if not self._thread.is_alive():
                break
        return self.left == 0

    def _run(self) -> None:
        while True:
            work = self.queue.get()
            if work is not None and self._error is None:
                try:
                    work()
                except Lost:
                    pass
                except BaseException as error:  # noqa: BLE001  # raised where the work came from
                    self._error = error
            with self._moved:
                if self._error is not None and self._lost is None:
                    self._lost = self._done
                self._done += 1
                self._moved.notify_all()
            self.queue.task_done()
            if work is None or (self._is_ending and self.queue.empty()):
                return
