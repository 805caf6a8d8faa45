"""The steps in flight: published when their values are there, bounded by time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from copy import copy
from typing import Any, Literal, final

from msgspec.structs import force_setattr

from fitbus.bus import Publisher
from fitbus.events import BatchBegin, BatchEnd, TestBatchBegin, TestBatchEnd
from fitbus.train._context import begin_fetch
from fitbus.train._metrics import MetricsLayout

__all__ = ["Flight", "Pipeline"]

_LEAST, _MOST = 2, 64
_MEASURE_S = 0.01
_SLOW_SOURCE = 4.0  # times as long as a step
_SLOW_S = 0.1


@final
class Flight:
    """How many steps may be in flight: as many as take `flush_s`, or a fixed number."""

    def __init__(self, max_in_flight: int | Literal["auto"], flush_s: float) -> None:
        self._auto = max_in_flight == "auto"
        self.flush_s = flush_s
        self.limit = _LEAST if max_in_flight == "auto" else max_in_flight
        self.step_s = 0.0
        self._since = self._told_at = 0.0
        self._done = 0

    def begin(self) -> None:
        """Starts measuring; what lies between epochs doesn't count."""
        self._since = self._told_at = time.perf_counter()
        self._done = 0

    def landed(self, steps: int = 1) -> None:
        """Counts steps that are done."""
        self._done += steps
        if (elapsed := time.perf_counter() - self._since) >= _MEASURE_S:
            self.step_s = elapsed / self._done
            if self._auto:
                self.limit = max(_LEAST, min(_MOST, round(self.flush_s / self.step_s)))
            self._since, self._done = time.perf_counter(), 0

    def told(self) -> None:
        """Notes that what had landed was published."""
        self._told_at = time.perf_counter()

    def is_due(self, steps: int) -> bool:
        """Whether steps that have landed are to be published: every `flush_s`.

        At once if a fixed number may be in flight: who asks for that counts those not published.
        """
        late = time.perf_counter() - self._told_at >= self.flush_s
        return late or (steps > 0 and not self._auto)

    def stride(self, out: int) -> int:
        """For how many of the steps that are out to wait at once.

        For half of them if they are fast, since going to sleep for each costs; else for the oldest.
        """
        return (out + 1) // 2 if 0 < self.step_s * out <= 2 * self.flush_s else 1


@final
class Pipeline:
    """The batches of one epoch, or of one evaluation, in order.

    What a step computed is read when the device says that it is there; the thread waits only when
    too many are out: for the oldest, or for half of them. Fast steps are published together, as
    many as came in `flush_s`. Where nobody listens, nothing is read at all.

    Args:
        publisher: Where the events go.
        layout: How to read a vector.
        kinds: The types that begin and end a batch.
        flight: How many steps may be in flight.
        before: The logs of the batches before; they stay if there is no further one.
    """

    def __init__(
        self,
        publisher: Publisher,
        layout: MetricsLayout,
        kinds: tuple[type[BatchBegin], type[BatchEnd]]
        | tuple[type[TestBatchBegin], type[TestBatchEnd]],
        flight: Flight,
        before: Mapping[str, float] | None = None,
    ) -> None:
        self._publisher = publisher
        self._layout = layout
        self._begin: type[BatchBegin | TestBatchBegin] = kinds[0]
        self._end: type[BatchEnd | TestBatchEnd] = kinds[1]
        self._skip_begin = (self._begin,)
        self._skip_both = (self._begin, self._end)
        # What a batch begins or ends with is copied from these, and filled in: to construct it
        # would check values that are known to be right.
        self._a_begin = self._begin(batch=0)
        self._an_end = self._end(batch=0, logs={}, batch_logs={})
        self._asked = -1  # `publisher.changes` when it was asked what it waits for
        self._exact = False
        self._flight = flight
        self._out: deque[tuple[int, int, Any]] = deque()  # in flight
        self._there: list[tuple[int, int, Any]] = []  # landed, and not published yet
        self._before = dict(before or {})
        self._last: Any = None
        self._copies: bool | None = None  # whether values have to come from another memory
        flight.begin()

    @property
    def exact(self) -> bool:
        """Whether training waits for a handler of each batch: then nothing runs ahead."""
        publisher = self._publisher
        if publisher.changes != self._asked:
            self._asked = publisher.changes  # before asking: what changes then is asked again
            self._exact = publisher.waits(self._begin) or publisher.waits(self._end)
        return self._exact

    def push(self, batch: int, step: int, vector: Any) -> None:
        """Takes a dispatched step; every `flush_s`, publishes what has landed meanwhile.

        Args:
            batch: Its index.
            step: Completed optimizer updates after it.
            vector: Its values, on the device.
        """
        out, flight = self._out, self._flight
        out.append((batch, step, vector))
        if self._copies is not False:
            self._begin_copy(vector)
        if len(out) >= flight.limit:
            self._wait_for(flight.stride(len(out)))
        if flight.is_due(len(self._there)):
            self._look()
            self._tell()

    def before_fetching(self, fetch_s: float) -> None:
        """Tells what has landed, before the thread turns to a data source that may block.

        A source that is much slower than the steps keeps their events waiting otherwise; waiting
        for the device first costs it little then.

        Args:
            fetch_s: Seconds that the last batch took to come.
        """
        if fetch_s > _SLOW_SOURCE * self._flight.step_s > 0 or fetch_s > _SLOW_S:
            self.settle()
        self._look()
        self._tell()

    def settle(self) -> None:
        """Waits until all that was dispatched has landed, and publishes it."""
        if self._out:
            self._wait_for(len(self._out))
        self._tell()

    def around(self, batch: int, step: int, compute: Callable[[], Any], updates: int) -> None:
        """One batch while training waits for handlers: begin, compute, end.

        Args:
            batch: Its index.
            step: Completed optimizer updates before it.
            compute: Dispatches the step; returns its vector.
            updates: 1 for a training step, 0 for one of an evaluation.
        """
        self.settle()
        publisher = self._publisher
        publisher.step = step
        if publisher.wanted(self._begin):
            publisher.barrier(self._begin_of(batch))
        else:
            publisher.skip(self._skip_begin)
        vector = compute()
        publisher.step = step + updates
        vector.block_until_ready()
        self._last = vector
        self._flight.landed()
        publisher.barrier(self._end_of(batch, vector))

    def logs(self) -> dict[str, float]:
        """The running values after the last batch; empty if there was none."""
        self.settle()
        return dict(self._before) if self._last is None else self._layout.read(self._last)[0]

    def _begin_copy(self, vector: Any) -> None:
        if self._copies is None:
            self._copies = any(device.platform != "cpu" for device in vector.devices())
        wanted = self._publisher.wanted
        if self._copies and (wanted(self._end) or wanted(self._begin)):
            begin_fetch(vector)

    def _wait_for(self, steps: int) -> None:
        """Waits for the oldest steps that are out."""
        if self._flight.step_s >= self._flight.flush_s or steps == len(self._out):
            self._tell()  # of those before, since this may take a while
        self._out[steps - 1][2].block_until_ready()
        self._landed(steps)

    def _look(self) -> None:
        """Sees how many steps have landed."""
        steps = 0
        while steps < len(self._out) and self._out[steps][2].is_ready():
            steps += 1
        self._landed(steps)

    def _landed(self, steps: int) -> None:
        if steps:
            self._flight.landed(steps)
            self._there += [self._out.popleft() for _ in range(steps)]

    def _tell(self) -> None:
        """Publishes the steps that have landed, and lets the event loop know."""
        publisher, there = self._publisher, self._there
        self._flight.told()
        if there:
            self._there = []
            _, step, self._last = there[-1]
            if publisher.wanted(self._begin):
                train = self._begin is BatchBegin
                events: list[Any] = []
                for batch, _, vector in there:
                    events += (self._begin_of(batch), self._end_of(batch, vector))
                publisher.publish_all(events, [s for _, n, _ in there for s in (n - train, n)])
            elif publisher.wanted(self._end):
                ends = [self._end_of(batch, vector) for batch, _, vector in there]
                publisher.publish_all(ends, [n for _, n, _ in there], self._skip_begin)
            else:
                publisher.step = step
                publisher.skip(self._skip_both, len(there))
        publisher.flush()

    def _begin_of(self, batch: int) -> BatchBegin | TestBatchBegin:
        event = copy(self._a_begin)
        force_setattr(event, "batch", batch)
        return event

    def _end_of(self, batch: int, vector: Any) -> BatchEnd | TestBatchEnd:
        logs, own = self._layout.read(vector)
        event = copy(self._an_end)
        force_setattr(event, "batch", batch)
        force_setattr(event, "logs", logs)
        force_setattr(event, "batch_logs", own)
        return event
