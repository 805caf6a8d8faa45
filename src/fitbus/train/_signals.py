"""Signals that interrupt trainings, so that they go on later."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from types import FrameType
from typing import Any, final

import anyio.lowlevel

from fitbus._loops import LoopHandle
from fitbus.control import StopTraining
from fitbus.errors import FitbusError, InvalidArgumentError
from fitbus.train._patience import Patience
from fitbus.train._run import Run

__all__ = ["stop_on_signals"]

_LEAVE_S = 0.5
_logger = logging.getLogger("fitbus")


@contextlib.asynccontextmanager
async def stop_on_signals(
    run: Run[Any] | Mapping[str, Run[Any]],
    *signals: signal.Signals,
    grace_s: float | None = 20.0,
) -> AsyncGenerator[None]:
    """Interrupts a run at a signal, at its next step boundary; then the signal takes its course.

        async with fitbus.stop_on_signals(run, signal.SIGTERM), run:
            await run.wait()

    The run gets `StopTraining(resumable=True)`: `BackupAndRestore` takes a backup at that boundary,
    and keeps it. When it has ended, with all that its subscribers do at its end, and the block has
    been left, or half a second later, the handlers of before are put back, and the signal is
    raised again for them: SIGTERM ends the process as if nobody had been there, SIGINT raises
    KeyboardInterrupt, a server shuts down. A second signal takes its course at once. Outside of the
    block no signal is touched. What the run failed with is logged before.

    A run that saves its backup, or still validates, is waited for as long as it gets on: a batch,
    an event, another handler. One that has stood at the same place for `grace_s` (a handler that
    never returns, a data source that blocks) is named in the log with what it is in, and cancelled,
    as leaving its block would cancel it; its thread is left behind after the run's own `grace_s`
    (5 s). So the signal takes its course within the half a minute that Kubernetes gives a process
    between SIGTERM and SIGKILL. What a callback waits for within its own `timeout_s`, or a
    subscriber gets within `drain_s`, is no standing still. Where even the event loop is blocked,
    the signal takes its course without it.

    Handlers that were added to an asyncio loop (`loop.add_signal_handler`) hear of a signal both
    times.

    Args:
        run: The run; or `Runs`, each of which is interrupted.
        signals: Which ones; SIGINT (Ctrl-C) and SIGTERM unless given.
        grace_s: Seconds without any progress after which a run is given up; more than its slowest
            step, or compilation, takes. None waits without end, or until a second signal.

    Raises:
        FitbusError: Entered outside the main thread, where Python handles no signals.
        InvalidArgumentError: An argument is of the wrong kind, or a signal can't be handled.
    """
    if not isinstance(run, Run | Mapping):
        raise InvalidArgumentError("run", run, "give a run of `trainer.run(...)`, or `Runs`")
    if threading.current_thread() is not threading.main_thread():
        raise FitbusError(
            "stop_on_signals works in the main thread only, where Python handles signals; enter it"
            " there, or send `StopTraining(resumable=True)` yourself"
        )
    if grace_s is not None and (
        isinstance(grace_s, bool) or not isinstance(grace_s, int | float) or not grace_s >= 0
    ):
        raise InvalidArgumentError(
            "grace_s", grace_s, "give seconds, a number of at least 0, or None for no limit"
        )
    interrupts = _Interrupts(run, grace_s)
    try:
        interrupts.put_on(signals or (signal.SIGINT, signal.SIGTERM))
        yield
        await interrupts.until_over()
    finally:
        interrupts.take_course()
        if interrupts.caught:
            await anyio.lowlevel.checkpoint()  # asyncio raises KeyboardInterrupt by cancelling


@final
class _Interrupts:
    """The handlers of signals, for one block.

    Attributes:
        caught: The signal that came, if one did.
    """

    def __init__(self, run: Run[Any] | Mapping[str, Run[Any]], grace_s: float | None) -> None:
        self._run = run
        self._loop = LoopHandle()
        self._asked: list[Run[Any]] = []
        self._left = 0  # of those that were asked, how many haven't ended
        self._before: dict[int, Any] = {}
        self._timer: threading.Timer | None = None
        self._has_taken = False
        self._patience = Patience(self._loop, self._asked, grace_s)
        self.caught: list[int] = []

    def put_on(self, signals: Sequence[Any]) -> None:
        """Handles signals from now on."""
        for number in signals:
            try:
                before = signal.signal(number, self._handle)
            except (TypeError, ValueError, OSError) as error:
                raise InvalidArgumentError(
                    "signals", number, f"give signals such as signal.SIGTERM ({error})"
                ) from error
            # None: somebody handles it who isn't written in Python.
            self._before[number] = signal.SIG_DFL if before is None else before

    def take_course(self) -> None:
        """Puts the handlers of before back, and raises the signal that came; once."""
        self._patience.end()
        if self._timer is not None:
            self._timer.cancel()
        self._put_back()
        if self.caught and not self._has_taken:
            self._has_taken = True
            name = signal.Signals(self.caught[0]).name
            for run in self._asked:
                if (error := run.driver.life.error) is not None:
                    _logger.error("%r was to stop at %s, and failed", run, name, exc_info=error)
            signal.raise_signal(self.caught[0])

    async def until_over(self) -> None:
        """Waits for the runs that were interrupted; not at all if none was."""
        if self.caught:
            self._interrupt()
        for run in self._asked:
            if run.status != "pending":
                await run.driver.life.until_over()

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.caught:
            self._put_back()
            signal.raise_signal(number)
            return
        self.caught.append(number)
        self._patience.begin(number)
        self._loop.call_soon(self._interrupt)  # whoever was interrupted may hold a lock

    def _interrupt(self) -> None:
        name = signal.Signals(self.caught[0]).name
        for run in [self._run] if isinstance(self._run, Run) else [*self._run.values()]:
            if run in self._asked:
                continue
            self._asked.append(run)
            run.post(StopTraining(name, resumable=True), name)
            if run.status != "pending" and not run.driver.life.over:
                self._left += 1
                run.at_end(self._one_over)
        if not self._left:
            self._all_over()

    def _one_over(self) -> None:
        self._left -= 1
        if not self._left:
            self._all_over()

    def _all_over(self) -> None:
        """Waits a little for the block to be left; whoever waits for something else isn't asked."""
        if self._timer is None:
            self._timer = threading.Timer(_LEAVE_S, lambda: self._loop.call_soon(self.take_course))
            self._timer.daemon = True
            self._timer.start()

    def _put_back(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())
