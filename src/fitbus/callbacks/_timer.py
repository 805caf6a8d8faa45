"""Ends training after some seconds or steps."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, final

from fitbus.callbacks._arguments import check_flag, check_seconds, check_verbose, check_whole
from fitbus.callbacks._callback import Callback, Logs
from fitbus.control import StopTraining
from fitbus.errors import InvalidArgumentError

if TYPE_CHECKING:
    from fitbus.train import Run

__all__ = ["Timer"]


@final
class Timer(Callback):
    """Ends training at a step boundary, after so many seconds, so many steps, or what comes first.

    Seconds are those of a clock on the wall, from the begin of training to its end: pauses,
    validation and compilation count, and what earlier runs took where their state was taken back.
    A thread of its own waits for them, and asks for a stop, which acts as soon as one does that
    anybody asks for: in a pause too, and while data are waited for. Steps end training exactly
    after the update of that number. For neither a batch is looked at, so that steps go on running
    ahead.

    Differs from Keras in: Keras has no such callback.

    Args:
        max_seconds: Seconds, or a `datetime.timedelta`; above 0. None: no limit.
        max_steps: Optimizer updates of this training; at least 1. None: no limit.
        validate: Whether the epoch that it cuts short is still validated.
        verbose: 1 prints a line when it ended training.

    Raises:
        InvalidArgumentError: An argument is out of its range, or there is no limit at all.

    Source: PyTorch Lightning's `Timer`; PyTorch-Ignite's `TimeLimit`.
    """

    adds_logs: ClassVar[bool | frozenset[str]] = False

    def __init__(
        self,
        max_seconds: float | dt.timedelta | None = None,
        max_steps: int | None = None,
        *,
        validate: bool = True,
        verbose: int = 0,
    ) -> None:
        if isinstance(max_seconds, dt.timedelta):
            max_seconds = max_seconds.total_seconds()
        if max_seconds is not None:
            check_seconds("Timer", "max_seconds", max_seconds, also=", or None")
        if max_steps is not None:
            check_whole("Timer", "max_steps", max_steps, 1, also=", or None")
        if max_seconds is None and max_steps is None:
            raise InvalidArgumentError("Timer", None, "give max_seconds, max_steps or both")
        check_flag("Timer", "validate", validate)
        check_verbose("Timer", verbose)
        self.max_seconds = max_seconds
        self.max_steps = max_steps
        self.validate = validate
        self.verbose = verbose
        self._alarm: threading.Timer | None = None
        self._begun: float | None = None  # when the clock was started, if it runs
        self._seconds, self._steps, self._first = 0.0, 0, 0
        self._reason = ""

    @property
    def seconds(self) -> float:
        """Seconds that training has taken so far, or took. Any thread."""
        begun = self._begun
        return self._seconds if begun is None else self._seconds + time.monotonic() - begun

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the limit, at least 0; None without one. Any thread."""
        return None if self.max_seconds is None else max(0.0, self.max_seconds - self.seconds)

    @property
    def steps(self) -> int:
        """Updates of this training that were dispatched so far. Any thread."""
        if self._begun is None or self.run is None:
            return self._steps
        return self._steps + self.run.statistics().step - self._first

    @property
    def steps_left(self) -> int | None:
        """Updates to the limit, at least 0; None without one. Any thread."""
        return None if self.max_steps is None else max(0, self.max_steps - self.steps)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Starts anew: the object can be used again."""
        self._begin()
        self._go_on()

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Stops the clock."""
        self._halt()
        if self.verbose and self._reason and self.run and self.run.stop_reason == self._reason:
            print(f"Timer: training ended, {self._reason}.")  # noqa: T201  # asked for

    def state_dict(self) -> dict[str, Any]:
        """What it has counted."""
        return {"seconds": self.seconds, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes it back; in a training it goes on from there."""
        running = self._begun is not None
        self._halt()
        self._seconds, self._steps = state["seconds"], state["steps"]
        if running:
            self._go_on()

    def _begin(self) -> None:
        self._halt()
        self._seconds, self._steps, self._first = 0.0, 0, 0
        self._reason = ""

    def _go_on(self) -> None:
        assert self.run is not None
        run = self.run
        self._first = run.statistics().step
        self._begun = time.monotonic()
        if self.steps_left is not None:
            run.preparation.ask_at(self._first + self.steps_left, "Timer", self._ask)
        if self.seconds_left == 0:  # used up by earlier runs
            run.post(self._stop_late(), "Timer")
        elif self.seconds_left is not None:
            wait_s = min(self.seconds_left, threading.TIMEOUT_MAX)
            self._alarm = threading.Timer(wait_s, lambda: self._ring(run))
            self._alarm.name, self._alarm.daemon = "fitbus Timer", True
            self._alarm.start()

    def _halt(self) -> None:
        """Stops the clock, if it runs."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm.join()  # it waits for nobody
            self._alarm = None
        self._seconds, self._steps, self._begun = self.seconds, self.steps, None

    def _ask(self, step: int) -> tuple[StopTraining | None, int | None]:
        """Where the steps may be over; other steps may have been taken back meanwhile."""
        left = self.steps_left
        if self._begun is None or left is None or self._reason:
            return None, None
        if left:
            return None, step + left
        return self._stop(f"{self.max_steps} steps are over"), None

    def _ring(self, run: Run[Any]) -> None:
        """In the thread that waits for the seconds."""
        run.post(self._stop_late(), "Timer")

    def _stop_late(self) -> StopTraining:
        return self._stop(f"{self.max_seconds:g} seconds are over")

    def _stop(self, reason: str) -> StopTraining:
        self._reason = self._reason or reason
        return StopTraining(reason, self.validate)
