"""How long runs that were interrupted by a signal are waited for."""

from __future__ import annotations

import logging
import queue
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any, final

from fitbus._loops import LoopHandle
from fitbus.train._run import Run

__all__ = ["Patience"]

_TICK_S = 0.1
_MARGIN_S = 2.0  # for what comes after the end of a run's own grace period
_logger = logging.getLogger("fitbus")


@final
class Patience:
    """Waits for runs to end, in a thread of its own, as long as they get on.

    The thread is there before a signal comes, since a signal's handler must start none: whoever it
    interrupts may hold a lock. For the same reason it hears of it through a queue that is made for
    such handlers.

    Args:
        loop: That of the runs.
        runs: Those that were asked to end; filled in the loop, after `begin`.
        grace_s: Seconds without progress; None has no end.
    """

    def __init__(self, loop: LoopHandle, runs: Sequence[Run[Any]], grace_s: float | None) -> None:
        self._loop = loop
        self._runs = runs
        self._told: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        if grace_s is not None:
            main, arguments = self._main, (float(grace_s),)
            self._thread = threading.Thread(
                target=main, args=arguments, name="fitbus signals", daemon=True
            )
            self._thread.start()

    def begin(self, number: int) -> None:
        """A signal has come; for its handler."""
        self._told.put(number)

    def end(self) -> None:
        """Nobody has to wait any more."""
        self._told.put(None)
        if self._thread is not None:
            self._thread.join(_MARGIN_S)

    def _main(self, grace_s: float) -> None:
        number = self._told.get()
        if number is None or not self._stands_still(grace_s):
            return
        name = signal.Signals(number).name
        late = [run for run in self._runs if not run.driver.life.over]
        for run in late:
            _logger.error(
                "%r was to stop at %s, and has stood still for %g s (grace_s): it is %s; it is"
                " cancelled",
                run,
                name,
                grace_s,
                _place(run)[-1],
            )
        for run in late:
            self._loop.call_soon(run.driver.give_up)
        if self._is_over_in(max((run.driver.grace_s for run in late), default=0) + _MARGIN_S):
            return
        _logger.error("the event loop doesn't get to %s: it takes its course now", name)
        main = threading.main_thread().ident
        if main is not None and hasattr(signal, "pthread_kill"):
            signal.pthread_kill(main, number)  # a second one: the handlers of before are put back
        else:
            signal.raise_signal(number)

    def _stands_still(self, grace_s: float) -> bool:
        """Waits until nothing has moved for so long; not at all if all is over before."""
        place: object = None
        since = time.monotonic()
        while not self._is_over_in(_TICK_S):
            now = [_place(run) for run in self._runs if not run.driver.life.over]
            is_draining = any(run.driver.draining for run in self._runs)
            if now != place or (is_draining and now):  # that is bounded by `drain_s`
                place, since = now, time.monotonic()
            elif time.monotonic() - since >= grace_s:
                return True
        return False

    def _is_over_in(self, seconds: float) -> bool:
        try:
            while self._told.get(timeout=seconds) is not None:
                pass
        except queue.Empty:
            return False
        return True


def _place(run: Run[Any]) -> tuple[int, int, int, str]:
    """Where it stands: it is something else whenever the run has got further."""
    engine = run.driver.engine
    if engine is None:
        return 0, 0, 0, "starting"
    calling = engine.publisher.thread_calls.calling
    return engine.publisher.seq, engine.updates, run.driver.waited, calling or engine.activity
