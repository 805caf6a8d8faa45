"""The steps in flight: published when their values are there, bounded by time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, final

from msgspec.structs import force_setattr

from fitbus.bus import Publisher
from fitbus.events import BatchBegin, BatchEnd, Event, StepSkipped, TestBatchBegin, TestBatchEnd
from fitbus.train._context import begin_fetch, fetched
from fitbus.train._flight import Flight
from fitbus.train._guarding import Layout
from fitbus.train._watch import Watch

__all__ = ["Execution", "Pipeline"]

_SLOW_SOURCE = 4.0  # times as long as a step
_SLOW_S = 0.1


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
        watch: Looks at what guarded steps say: reads one of them for all that are published
            together, and the others only if something happened.
    """

    def __init__(
        self,
        publisher: Publisher,
        layout: Layout,
        kinds: tuple[type[BatchBegin], type[BatchEnd]]
        | tuple[type[TestBatchBegin], type[TestBatchEnd]],
        flight: Flight,
        before: Mapping[str, float] | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._publisher = publisher
        self._layout = layout
        self._begin: type[BatchBegin | TestBatchBegin] = kinds[0]
        self._end: type[BatchEnd | TestBatchEnd] = kinds[1]
        self._skip_begin = (self._begin,)
        self._skip_both = (self._begin, self._end)
        # What a batch begins or ends with is copied from these, and filled in: to construct it
        # would check values that are known to be right.
        self._a_begin: Any = self._begin(batch=0)
        self._an_end: Any = self._end(batch=0, logs={}, batch_logs={})
        self._asked = -1  # `publisher.changes` when it was asked what it waits for
        self._exact = False
        self._flight = flight
        self._updates = int(self._begin is BatchBegin)  # of the state, by a batch
        self._out: deque[Execution] = deque()  # in flight
        self._there: list[Execution] = []  # landed, and not published yet
        self._before = dict(before or {})
        self._watch = watch
        self._last: Execution | None = None
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

    def push(self, batch: int, step: int, vector: Any, steps: int = 1) -> None:
        """Takes a dispatched execution; every `flush_s`, publishes what has landed meanwhile.

        Args:
            batch: The index of its batch, or of the first one.
            step: Completed optimizer updates after that batch.
            vector: Its values, on the device; a row for each step, if several are fused.
            steps: How many steps it has.
        """
        out, flight = self._out, self._flight
        out.append(Execution(batch, step, vector, steps))
        if self._copies is not False:
            self._begin_copy(vector)
        if len(out) >= flight.executions(steps):
            # First: while this thread waits, the event loop has the GIL.
            if not flight.is_fixed and flight.is_due(soon=True):
                self._catch_up()
            if len(out) >= flight.executions(steps):
                self._wait_for(flight.stride(len(out)))
        if (self._there and flight.is_fixed) or flight.is_due():
            self._catch_up()

    def before_fetching(self, fetch_s: float) -> None:
        """Tells what has landed, before the thread turns to a data source that may block.

        A source that is much slower than the steps keeps their events waiting otherwise; waiting
        for the device first costs it little then.

        Args:
            fetch_s: Seconds that the last batch took to come.
        """
        if fetch_s > _SLOW_SOURCE * self._flight.step_s > 0 or fetch_s > _SLOW_S:
            self.settle()
        self._catch_up()

    def settle(self) -> None:
        """Waits until all that was dispatched has landed, and publishes it."""
        while self._out:
            self._wait_for(len(self._out))
        self._tell()

    def around(self, batch: int, step: int, compute: Callable[[], Any], steps: int = 1) -> None:
        """An execution while training waits for handlers: begin, compute, end.

        Of fused steps, begin and end of each come after all have been computed; what handlers
        return acts after the last one.

        Args:
            batch: The index of its batch, or of the first one.
            step: Completed optimizer updates before it.
            compute: Dispatches it; returns its vector, or vectors.
            steps: How many steps it has.
        """
        self.settle()
        publisher, updates = self._publisher, self._updates
        if steps == 1:
            publisher.step = step
            self._tell_begin(batch)
        vector = compute()
        self._flight.wait_for(vector)
        execution = Execution(batch, step + updates, vector, steps)
        self._flight.landed(steps)
        (self._last,), skipped = self._watched([execution])
        rows = self._last.rows()
        publisher.step = step + updates * len(rows)
        try:
            for place, values in enumerate(rows):
                if steps > 1:
                    publisher.desk.put_off = True
                    self._tell_begin(batch + place, step + updates * place)
                if batch + place in skipped:
                    publisher.barrier(skipped[batch + place], step=step + updates * (place + 1))
                publisher.desk.put_off = place < len(rows) - 1
                end = self._end_of(batch + place, values)
                publisher.barrier(end, step=step + updates * (place + 1))
        finally:
            publisher.desk.put_off = False

    def logs(self) -> dict[str, float]:
        """The running values after the last batch; empty if there was none."""
        self.settle()
        if self._last is None:
            return dict(self._before)
        return self._layout.logs_of(self._last.rows()[-1])[0]

    def _tell_begin(self, batch: int, step: int | None = None) -> None:
        if self._publisher.wanted(self._begin):
            self._publisher.barrier(self._begin_of(batch), step=step)
        else:
            self._publisher.skip(self._skip_begin)

    def _begin_copy(self, vector: Any) -> None:
        if self._copies is None:
            self._copies = any(device.platform != "cpu" for device in vector.devices())
        wanted = self._publisher.wanted
        if self._copies and (wanted(self._end) or wanted(self._begin)):
            begin_fetch(vector)

    def _wait_for(self, executions: int) -> None:
        """Waits for the oldest that are out; only for the first of them, if that takes long."""
        flight = self._flight
        if flight.step_s >= flight.flush_s or executions == len(self._out):
            self._tell()  # of those before, since this may take a while
            if not self._out:  # a step before them had halted
                return
        if executions > 1:
            started = time.perf_counter()
            self._out[0].vector.block_until_ready()
            if time.perf_counter() - started > flight.flush_s:  # steps have become slow
                self._catch_up()
                return
        self._out[executions - 1].vector.block_until_ready()
        self._landed(executions)

    def _catch_up(self) -> None:
        """Sees how many have landed, and publishes them."""
        count = 0
        while count < len(self._out) and self._out[count].vector.is_ready():
            count += 1
        self._landed(count)
        self._tell()

    def _landed(self, executions: int) -> None:
        if executions:
            landed = [self._out.popleft() for _ in range(executions)]
            self._flight.landed(sum(each.steps for each in landed))
            self._there += landed

    def _tell(self) -> None:
        """Publishes the steps that have landed, and lets the event loop know."""
        publisher = self._publisher
        there, self._there = self._there, []
        self._flight.told()
        if there:
            there, skipped = self._watched(there)
            self._last = there[-1]
            begins, ends = publisher.wanted(self._begin), publisher.wanted(self._end)
            if skipped:
                self._publish_with(there, skipped)
            elif begins or ends:
                self._publish(there, with_begin=begins)
            else:
                publisher.step = self._last.step + (self._last.steps - 1) * self._updates
                publisher.skip(self._skip_both, sum(each.steps for each in there))
        publisher.flush()

    def _watched(self, there: list[Execution]) -> tuple[list[Execution], dict[int, StepSkipped]]:
        """What has landed without what did nothing, since a step before it halted."""
        if self._watch is None:
            return there, {}
        found = self._watch.look(there)
        if self._watch.halted:
            self._out.clear()
            self._there.clear()
        return found

    def _publish_with(self, there: list[Execution], skipped: dict[int, StepSkipped]) -> None:
        """Publishes steps one by one, since some of them were left out."""
        publisher = self._publisher
        for execution in there:
            batch, step = execution.batch, execution.step
            for values in execution.rows():
                publisher.step = step - self._updates
                publisher.publish(self._begin_of(batch), held=True)
                publisher.step = step
                if batch in skipped:
                    publisher.publish(skipped[batch], held=True)
                publisher.publish(self._end_of(batch, values), held=True)
                batch, step = batch + 1, step + self._updates

    def _publish(self, there: list[Execution], *, with_begin: bool) -> None:
        events: list[Event] = []
        steps: list[int] = []
        for execution in there:
            batch, step = execution.batch, execution.step
            for values in execution.rows():
                if with_begin:
                    events.append(self._begin_of(batch))
                    steps.append(step - self._updates)
                events.append(self._end_of(batch, values))
                steps.append(step)
                batch, step = batch + 1, step + self._updates
        self._publisher.publish_all(events, steps, () if with_begin else self._skip_begin)

    def _begin_of(self, batch: int) -> Event:
        event: Event = self._a_begin.__copy__()
        force_setattr(event, "batch", batch)
        return event

    def _end_of(self, batch: int, values: list[float]) -> Event:
        logs, own = self._layout.logs_of(values)
        event: Event = self._an_end.__copy__()
        force_setattr(event, "batch", batch)
        force_setattr(event, "logs", logs)
        force_setattr(event, "batch_logs", own)
        return event


class Execution(NamedTuple):
    """One step, or several that were fused."""

    batch: int  # the index of the first batch
    step: int  # completed optimizer updates after it
    vector: Any
    steps: int

    def rows(self) -> list[list[float]]:
        """The values of each step; they are there."""
        found: list[Any] = fetched(self.vector).tolist()
        return found[: self.steps] if type(found[0]) is list else [found]
