"""How far a run has come, and how fast."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias, final

from fitbus.events import BatchEnd, PredictBatchEnd, TestBatchEnd

__all__ = ["AnyBatchEnd", "Left", "Progress", "Row", "View", "speed"]

AnyBatchEnd: TypeAlias = BatchEnd | TestBatchEnd | PredictBatchEnd

_LOOK_S = 0.25
_SHORT_S = 0.5  # too short to tell a speed from


class Row(NamedTuple):
    """A bar, with a label before it, and an amount and a text after it."""

    label: str
    done: float
    total: int | None
    amount: str
    text: str


class View(NamedTuple):
    """What goes on at present: bars, and the logs as of a step."""

    rows: list[Row]
    logs: Mapping[str, Any]
    step: int
    learning_rate: float | None
    status: str
    facts: str


class Left(NamedTuple):
    """What an epoch, an evaluation or a prediction leaves."""

    label: str
    took_s: float
    speed: float | None
    logs: Mapping[str, Any]
    step: int


@final
class Progress:
    """How far a run has come, and how fast: told by the training thread, and looked at in the loop.

    Attributes:
        kind: `"fit"`, `"evaluate"`, `"predict"`, or nothing yet.
        epochs: The number of the last epoch, counted from 1.
        count: Batches of the epoch that have ended.
        speed: Batches a second in the last epoch that ended.
        took_s: How long that took, its validation included.
        validating: Whether a validation goes on.
        over: Whether an evaluation or a prediction has ended.
        step: That of the last batch that ended.
        learning_rate: The last one that was asked for.
    """

    def __init__(self, steps: int | None, epochs: int, kind: str = "") -> None:
        self.kind = kind
        self.epochs = epochs
        self.count = 0
        self.speed: float | None = None
        self.took_s = 0.0
        self.validating = self.over = False
        self.step = 0
        self.learning_rate: float | None = None
        self._lock = threading.Lock()
        self._steps = steps
        self._learned = steps is None
        self._epoch = 0
        self._logs: Mapping[str, Any] = {}
        self._logs_step = 0
        self._looked = 0.0
        self._paused_s = 0.0
        self._viewed = self._begun = self._epoch_begun = time.time()
        self._trained: float | None = None  # when the epoch's last batch had ended
        self._rest_s = 0.0  # what an epoch takes after that: its validation
        # Times and batches of the epoch: when the clock started, and the last look. It starts with
        # the first batch that is seen, since a compilation may come before that.
        self._from: tuple[float, int] | None = None
        self._to = (self._begun, 0)

    # From the training thread.

    def begin_epoch(self, epoch: int) -> None:
        """An epoch begins."""
        with self._lock:
            self._epoch = epoch
            self.count = 0
            self._epoch_begun = self._now()
            self._to = (self._epoch_begun, 0)
            self._from = self._trained = None

    def begin_validation(self) -> None:
        """The epoch's last batch has ended."""
        with self._lock:
            self._end_batches()
            self.validating = True

    def end_epoch(self) -> None:
        """An epoch, an evaluation or a prediction has ended."""
        with self._lock:
            if self._trained is None:
                self._end_batches()
            now = self._now()
            self.took_s, self._rest_s = now - self._epoch_begun, now - (self._trained or now)
            self.speed = self._speed()
            if self._learned and self.count:
                self._steps = max(self.count, self._steps or 0)

    def is_due(self, event: AnyBatchEnd) -> bool:
        """Counts a batch, and says whether it is time to look."""
        self.count, self.step = event.batch + 1, event.step
        if event.time - self._looked < _LOOK_S:
            return False
        self._looked = event.time
        return True

    # In the loop.

    async def look(self, event: AnyBatchEnd) -> None:
        """Looks at a batch."""
        with self._lock:
            self._logs, self._logs_step = getattr(event, "logs", {}), event.step
            if self._trained is not None or (self.kind == "fit" and event.epoch != self._epoch):
                return  # too late to count
            self._to = (event.time - self._paused_s, event.batch + 1)
            if self._from is None:
                self._from = self._to

    # From the display.

    def view(self, status: str) -> View:
        """What goes on at present."""
        with self._lock:
            now = time.time()
            if status == "paused":
                self._paused_s += now - self._viewed
            self._viewed = now
            done, steps = self.count, self._steps
            if steps is not None and done > steps:  # learned from an epoch that was cut short
                steps = None
            took, left_s = _clock(self._now() - self._begun), self._left_s(steps)
            times = took if left_s is None else f"{took}, {_clock(left_s)} left"
            if status == "paused":
                doing = "paused"
            elif self.validating:
                doing = "validating"
            elif done or self.speed is not None:  # epochs may be too short to be seen begun
                doing = speed(self._speed_now())
            else:
                doing = "waiting for the first batch"
            rows: list[Row] = []
            if self.epochs > 1:
                part = 0.0 if steps is None else done / steps
                count = f"{self._epoch + 1}/{self.epochs}"
                rows.append(Row("epoch", self._epoch + part, self.epochs, count, times))
            else:
                doing = f"{times}  {doing}"
            label = "batch" if self.kind == "fit" else self.kind
            count = f"{done:,}" if steps is None else f"{done:,}/{steps:,}"
            rows.append(Row(label, done, steps, count, doing))
            facts = f"{status}, step {self.step:,}, {took}"
            return View(rows, self._logs, self._logs_step, self.learning_rate, status, facts)

    # With the lock held.

    def _now(self) -> float:
        """The time without pauses."""
        return time.time() - self._paused_s

    def _end_batches(self) -> None:
        self._trained = self._now()
        self._to = (self._trained, self.count)

    def _speed(self) -> float | None:
        """Batches a second in this epoch, as far as looked at."""
        since, before = self._from or (self._epoch_begun, 0)
        now, done = self._to
        return (done - before) / (now - since) if done > before and now > since else None

    def _speed_now(self) -> float | None:
        """That of this epoch, if it has lasted a while; else that of the last one."""
        long = self._to[0] - self._epoch_begun >= _SHORT_S
        return self._speed() if long or self.speed is None else self.speed

    def _left_s(self, steps: int | None) -> float | None:
        """Seconds to the end, if all goes on as it has."""
        batches_a_second = self._speed_now()
        if steps is None or batches_a_second is None:
            return None
        epoch_s = steps / batches_a_second + self._rest_s
        if self._trained is None:
            this_s = (steps - self._to[1]) / batches_a_second + self._rest_s
        else:
            this_s = self._rest_s - (self._now() - self._trained)
        return max(0.0, this_s) + (self.epochs - self._epoch - 1) * epoch_s


def _clock(seconds: float) -> str:
    """A time as on a clock."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def speed(steps: float | None, unit: str = "step") -> str:
    """Steps a second; seconds a step where those are few; empty for None."""
    if steps is None or steps <= 0:
        return ""
    if steps < 1:
        return f"{1 / steps:.1f} s/{unit}"
    return f"{steps:,.0f} {unit}s/s" if steps >= 100 else f"{steps:.1f} {unit}s/s"  # three digits
