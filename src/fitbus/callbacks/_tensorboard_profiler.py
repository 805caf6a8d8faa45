"""A window of batches that JAX' profiler looks at."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import jax

from fitbus.events import BatchBegin, BatchEnd

if TYPE_CHECKING:
    from fitbus.bus import Subscription
    from fitbus.train import Run

__all__ = ["ProfilerWindow"]

_logger = logging.getLogger("fitbus")


@final
class ProfilerWindow:
    """Lets JAX' profiler look at some batches of a run; what it says is never fatal.

    Args:
        folder: Where it writes: below `plugins/profile` in it.
        first: The first batch of the run, from 1, and
        last: the last one.
    """

    def __init__(self, folder: Path, first: int, last: int) -> None:
        self._folder = folder
        self._first = first
        self._last = last
        self._run: Run[Any] | None = None
        self._running = False
        self._step: Any = None
        self._subscription: Subscription[Any] | None = None

    def watch(self, run: Run[Any]) -> None:
        """Subscribes when the window begins; only in it, training waits for each batch."""
        done = run.statistics().step
        self._first, self._last = done + self._first - 1, done + self._last  # completed updates
        self._run = run
        run.preparation.ask_at(self._first, "TensorBoard", self._open)

    def close(self) -> None:
        """Stops the profiler, if this started it. Again, it does nothing."""
        if self._step is not None:
            self._step.__exit__(None, None, None)
            self._step = None
        if self._running:
            self._running = False
            try:
                jax.profiler.stop_trace()
            except Exception:
                _logger.exception("TensorBoard: the profiler couldn't be stopped")
        self._run = None
        if self._subscription is not None:
            self._subscription.cancel()
            self._subscription = None

    def _open(self, step: int) -> tuple[None, None]:
        del step
        run, self._run = self._run, None
        if run is not None:
            assert run.driver.engine is not None
            run.driver.engine.settle()  # what is in flight isn't of the window
            self._subscription = run.add(
                self._look, BatchBegin, BatchEnd, wait=True, name="TensorBoard profiler"
            )
        return None, None

    def _look(self, event: BatchBegin | BatchEnd) -> None:
        if isinstance(event, BatchBegin):
            if event.step == self._first:
                self._start()
            if self._running:
                self._step = jax.profiler.StepTraceAnnotation("train", step_num=event.step)
                self._step.__enter__()
        elif event.step >= self._last:
            self.close()
        elif self._step is not None:
            self._step.__exit__(None, None, None)
            self._step = None

    def _start(self) -> None:
        try:
            jax.profiler.start_trace(str(self._folder))
        except Exception:
            _logger.exception("TensorBoard: the profiler couldn't be started")
        else:
            self._running = True
