"""How many steps may be in flight, and how they are waited for."""

from __future__ import annotations

import time
from typing import Any, Literal, final

__all__ = ["Flight"]

_LEAST, _MOST = 2, 64
_MANY = 8
_MEASURE_S = 0.01
_SOON = 0.75
_FAST_S = 0.0005
_SPIN_S = 0.0003


@final
class Flight:
    """How many steps may be in flight: as many as take about `flush_s`, or a fixed number."""

    def __init__(self, max_in_flight: int | Literal["auto"], flush_s: float) -> None:
        # Who asks for a number counts steps whose events weren't published as in flight.
        self.is_fixed = max_in_flight != "auto"
        self.flush_s = flush_s
        self.limit = _LEAST if max_in_flight == "auto" else max_in_flight
        self.step_s = 0.0
        self._since = self._told_at = 0.0
        self._seconds = 0.0
        self._done = 0

    def begin(self) -> None:
        """Starts measuring; what lies between epochs doesn't count."""
        self._since = self._told_at = time.perf_counter()

    def landed(self, steps: int = 1) -> None:
        """Counts steps that are done."""
        now = time.perf_counter()
        self._seconds += now - self._since
        self._since = now
        self._done += steps
        if self._seconds >= _MEASURE_S:  # of several epochs, where these are short
            self.step_s = self._seconds / self._done
            self._seconds, self._done = 0.0, 0
            if not self.is_fixed:
                limit = round(self.flush_s / self.step_s)
                # Of fast ones the thread waits for half: so many are in flight on the average.
                limit += limit // 2 if limit >= _MANY else 0
                self.limit = max(_LEAST, min(_MOST, limit))

    def executions(self, steps: int) -> int:
        """How many executions of so many steps may be in flight.

        Of fused ones at least two, if no number was asked for.
        """
        if steps == 1:
            return self.limit
        return max(1 if self.is_fixed else _LEAST, self.limit // steps)

    def told(self) -> None:
        """Notes that what had landed was published."""
        self._told_at = time.perf_counter()

    def is_due(self, *, soon: bool = False) -> bool:
        """Whether nothing was published for `flush_s`; or for most of that time."""
        late_s = time.perf_counter() - self._told_at
        return late_s >= (_SOON * self.flush_s if soon else self.flush_s)

    def wait_for(self, vector: Any) -> None:
        """Waits for a step while there is nothing else to do.

        To be woken takes a thread a good part of a fast step: for that time it looks by itself.
        """
        if 0 < self.step_s < _FAST_S:
            end = time.perf_counter() + _SPIN_S
            while not vector.is_ready() and time.perf_counter() < end:
                pass
        vector.block_until_ready()

    def stride(self, out: int) -> int:
        """For how many of the steps that are out to wait at once.

        For half of them if they are fast, since going to sleep for each costs; else for the oldest.
        """
        return (out + 1) // 2 if 0 < self.step_s * out <= 2 * self.flush_s else 1
