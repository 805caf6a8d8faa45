"""Measures how fast training is, and how long it waits for its input."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, final

from fitbus.callbacks._arguments import check_flag, check_seconds
from fitbus.callbacks._callback import Callback, Logs
from fitbus.events import BatchEnd, Event

if TYPE_CHECKING:
    from fitbus.train import Run

__all__ = ["Throughput"]

_NAMES = frozenset({"examples_per_second", "input_wait", "steps_per_second"})


@final
class Throughput(Callback):
    """Measures steps and examples a second, and the share of time that training waits for input.

    While an epoch goes on, the attributes are those of its last `window_s` seconds, looked at every
    `every_s`; after it, those of the whole epoch without its validation. The first epoch of a
    training is measured from the end of its first batch on, since a compilation comes before that
    (from its beginning, if there is no other batch). Pauses count as time.

    Examples are those that the data have; rows that fill up a short batch aren't counted. The wait
    is the time that the training thread takes for fetching a batch: until the source gives it, and
    for putting it together. As steps run ahead of the host, the device may be busy meanwhile: what
    it lacks is that share at the most. Much of it says that a faster source is worth the trouble,
    little of it that it isn't.

    Costs one subscription to `BatchEnd`, of which an event is looked at every `every_s`; training
    doesn't wait for it. Within an epoch, and at the beginning of the first one, the figures are as
    exact as the number of steps in flight allows.

    Differs from Keras in being there: Keras has only its TensorBoard's `write_steps_per_second`,
    whose time includes the validation and the first compilation.

    Args:
        log: Whether the epoch's figures are added to its logs, under the attributes' names. Put it
            before what shall see them.
        window_s: Seconds that the figures within an epoch tell of.
        every_s: Seconds between two looks.
        publish: Whether each look is published, as `Throughput.Measured`. When they come depends on
            the clock, so the numbering of a run's events does too, then.

    Attributes:
        steps_per_second: Optimizer updates; None before the first measurement.
        examples_per_second: Examples; likewise.
        input_wait: Of one second, so much was waited for input: 0 to 1; likewise.

    Raises:
        InvalidArgumentError: An argument is of the wrong kind or out of range.
    """

    @final
    class Measured(Event, tag="ThroughputMeasured"):
        """How fast training was lately.

        Attributes:
            steps_per_second: Optimizer updates.
            examples_per_second: Examples.
            input_wait: Of one second, so much was waited for input.
        """

        steps_per_second: float
        examples_per_second: float
        input_wait: float

    adds_logs: ClassVar[bool | frozenset[str]] = False  # unless asked to: see `attach`

    steps_per_second: float | None
    examples_per_second: float | None
    input_wait: float | None

    _samples: deque[_Sample]  # those of the window
    _begun: _Sample  # the epoch's beginning
    _first: _Sample | None  # the end of its first batch, for the first epoch
    _is_first_epoch: bool

    def __init__(
        self,
        *,
        log: bool = False,
        window_s: float = 10.0,
        every_s: float = 1.0,
        publish: bool = False,
    ) -> None:
        check_flag("Throughput", "log", log)
        check_flag("Throughput", "publish", publish)
        check_seconds("Throughput", "window_s", window_s)
        check_seconds("Throughput", "every_s", every_s)
        self._log = log
        self._window_s = window_s
        self._every_s = every_s
        self._publish = publish
        self._reset()

    def attach(self, run: Run[Any]) -> None:
        """Subscribes to a run; `callbacks=[...]` calls it."""
        super().attach(run)
        if self._log:
            run.preparation.added_logs |= _NAMES
        run.add(
            self._tell,
            BatchEnd,
            where=self._look,
            wait=False,
            overflow="latest",
            name="Throughput batches",
        )

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Starts anew: the object can be used again."""
        self._reset()
        self._steps_before = self._engine().updates

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Starts the clock."""
        self._samples.clear()
        self._next_look = 0.0
        self._begun = self._sample(self._engine().updates)
        if not self._is_first_epoch:
            self._samples.append(self._begun)
        self._measures = True

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Stops it: the epoch's batches are done."""
        self._end_epoch()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Stops it, and adds to the logs where asked to."""
        self._end_epoch()
        if self._log and logs is not None and self.steps_per_second is not None:
            logs.update({name: getattr(self, name) for name in sorted(_NAMES)})

    def _look(self, event: BatchEnd) -> bool:
        """Looks, when it is time to. In the training thread: a comparison for nearly all events."""
        if event.time < self._next_look or not self._measures:
            return False
        self._next_look = event.time + self._every_s
        now = self._sample(event.step)
        samples = self._samples
        if not samples:
            self._first = now
        samples.append(now)
        while samples[0].time < now.time - self._window_s and len(samples) > 2:
            samples.popleft()
        return self._measure(samples[0], now) and self._publish

    async def _tell(self, event: BatchEnd) -> None:
        """Publishes what was measured; on the event loop."""
        run, steps = self.run, self.steps_per_second
        examples, wait = self.examples_per_second, self.input_wait
        if run is not None and steps is not None and examples is not None and wait is not None:
            run.publish(
                self.Measured(steps_per_second=steps, examples_per_second=examples, input_wait=wait)
            )

    def _end_epoch(self) -> None:
        """Measures the whole epoch, once all of its batches are done."""
        if not self._measures:
            return
        self._measures = False
        now = self._sample(self._engine().updates)
        if not self._measure(self._first or self._begun, now):
            self._measure(self._begun, now)
        self._is_first_epoch, self._first = False, None

    def _measure(self, since: _Sample, now: _Sample) -> bool:
        """Takes what lies between two samples, if anything does; tells whether."""
        elapsed, steps = now.time - since.time, now.steps - since.steps
        if elapsed <= 0 or steps <= 0:
            return False
        self.steps_per_second = steps / elapsed
        self.examples_per_second = max(0.0, now.examples - since.examples) / elapsed
        self.input_wait = min(1.0, (now.input_s - since.input_s) / elapsed)
        return True

    def _sample(self, steps: int) -> _Sample:
        """The counters, as they were when so many steps were done."""
        engine = self._engine()
        ahead, dispatched = engine.updates - steps, engine.updates - self._steps_before
        mean = engine.examples / dispatched if dispatched > 0 else 0.0
        examples = engine.examples - ahead * mean
        return _Sample(time.perf_counter(), steps, examples, engine.input_s)

    def _engine(self) -> Any:
        assert self.run is not None
        return self.run.driver.engine

    def _reset(self) -> None:
        self.steps_per_second = self.examples_per_second = self.input_wait = None
        self._samples = deque()
        self._begun = _Sample(0.0, 0, 0.0, 0.0)
        self._first = None
        self._is_first_epoch = True
        self._measures = False
        self._next_look = 0.0
        self._steps_before = 0


class _Sample(NamedTuple):
    """The counters at one moment."""

    time: float
    steps: int
    examples: float
    input_s: float
