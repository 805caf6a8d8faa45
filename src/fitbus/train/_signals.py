"""Signals that interrupt trainings, so that they go on later."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from types import FrameType
from typing import Any, final

import anyio.lowlevel

from fitbus._loops import LoopHandle
from fitbus.control import StopTraining
from fitbus.errors import FitbusError, InvalidArgumentError
from fitbus.train._run import Run

__all__ = ["stop_on_signals"]


@contextlib.asynccontextmanager
async def stop_on_signals(
    run: Run[Any] | Mapping[str, Run[Any]], *signals: signal.Signals
) -> AsyncGenerator[None]:
    """Interrupts a run at a signal, at its next step boundary; then the signal takes its course.

        async with fitbus.stop_on_signals(run, signal.SIGTERM), run:
            await run.wait()

    The run gets `StopTraining(resumable=True)`: `BackupAndRestore` takes a backup at that boundary,
    and keeps it. When it has ended, with all that its subscribers do at its end, the handlers of
    before are put back, and the signal is raised again for them: SIGTERM ends the process as if
    nobody had been there, SIGINT raises KeyboardInterrupt, a server shuts down. A second signal
    takes its course at once. Outside of the block no signal is touched.

    Handlers that were added to an asyncio loop (`loop.add_signal_handler`) hear of a signal both
    times.

    Args:
        run: The run; or `Runs`, each of which is interrupted.
        signals: Which ones; SIGINT (Ctrl-C) and SIGTERM unless given.

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
    interrupts = _Interrupts(run)
    try:
        interrupts.put_on(signals or (signal.SIGINT, signal.SIGTERM))
        yield
        await interrupts.until_over()
    finally:
        interrupts.put_back()
        if interrupts.caught:
            signal.raise_signal(interrupts.caught[0])
            await anyio.lowlevel.checkpoint()  # asyncio raises KeyboardInterrupt by cancelling


@final
class _Interrupts:
    """The handlers of signals, for one block.

    Attributes:
        caught: The signal that came, if one did.
    """

    def __init__(self, run: Run[Any] | Mapping[str, Run[Any]]) -> None:
        self._run = run
        self._loop = LoopHandle()
        self._asked: list[Run[Any]] = []
        self._before: dict[int, Any] = {}
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

    def put_back(self) -> None:
        """Puts those of before back."""
        while self._before:
            signal.signal(*self._before.popitem())

    async def until_over(self) -> None:
        """Waits for the runs that were interrupted; not at all if none was."""
        if self.caught:
            self._interrupt()
        for run in self._asked:
            if run.status != "pending":
                await run.driver.life.until_over()

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.caught:
            self.put_back()
            signal.raise_signal(number)
            return
        self.caught.append(number)
        self._loop.call_soon(self._interrupt)  # whoever was interrupted may hold a lock

    def _interrupt(self) -> None:
        name = signal.Signals(self.caught[0]).name
        for run in [self._run] if isinstance(self._run, Run) else [*self._run.values()]:
            if run not in self._asked:
                self._asked.append(run)
                run.post(StopTraining(name, resumable=True), name)
