"""The events of a plain `model.fit` on a bus."""

from __future__ import annotations

from typing import Any, Self, final

import jax
import keras
import numpy as np

from fitbus.bus import Bus, Publisher
from fitbus.control import Control, Inbox, Receipt, StopTraining
from fitbus.errors import FitbusError, InvalidArgumentError, RunCancelledError, WouldDeadlockError
from fitbus.events import (
    BatchBegin,
    BatchEnd,
    EndReason,
    EpochBegin,
    EpochEnd,
    Event,
    PredictBatchBegin,
    PredictBatchEnd,
    PredictBegin,
    PredictEnd,
    TestBatchBegin,
    TestBatchEnd,
    TestBegin,
    TestEnd,
    TrainBegin,
    TrainEnd,
)
from fitbus.keras._nested_calls import calls_under_way, ignore_call
from fitbus.keras._plain_controls import apply_to_plain

__all__ = ["PublishEvents"]


@final
class PublishEvents(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """A Keras callback that publishes what a plain `model.fit` does, and takes controls for it.

    For those who can't change their call of `fit`. It runs in a thread; handlers, streams and
    controls are there as with a `Trainer`:

        events = fitbus.keras.PublishEvents(bus)

        def train():
            with events:
                model.fit(x, y, callbacks=[events], verbose=0)

        async with bus:
            bus.add(handler)
            await anyio.to_thread.run_sync(train)

    Each `fit`, `evaluate` and `predict` is a run of its own; a validation belongs to its `fit`. Of
    one that a callback makes within another, given the same object, nothing is told.
    `events.post(StopTraining())` sends a control, and so do handlers that return one. They act at
    the end of each batch and at the begins and ends of epochs: `StopTraining`, `SetLearningRate`,
    `ScaleLearningRate`; others are rejected. After a stop Keras validates, whatever `validate` is.

    Leaving the block closes what an exception left open, with `TrainEnd("failed")`: Keras itself
    tells nobody. It belongs into the thread that trains, so that waiting handlers are waited for.

    What Keras doesn't tell isn't there: `batch_logs` is empty, `TrainBegin.initial_epoch` is 0, and
    with its `steps_per_execution`, only the last batch of each execution is told of. It waits
    for the device at each batch, and so does `fit` with any callback that looks at batches.

    Args:
        bus: Where the events go.

    Attributes:
        run: The id of the live run, or of the last one; None before the first.
        publisher: Its end of the bus; None before. Its `cancel(0)` ends `fit` at the next batch.

    Raises:
        InvalidArgumentError: `bus` is no bus.
        WouldDeadlockError: In `fit`, `evaluate` or `predict`: called in the thread of the bus' own
            event loop, which it would block.
    """

    def __init__(self, bus: Bus) -> None:
        super().__init__()
        if not isinstance(bus, Bus):
            raise InvalidArgumentError("bus", bus, "give a fitbus.Bus")
        self._bus = bus
        self._inbox = Inbox()
        self._kind = ""
        self._depth = 0  # the calls of Keras' that the thread was in when the run began
        self._done = 0  # batches of the epoch
        self._before = 0  # updates when it began
        self._logs: dict[str, float] = {}
        self._stop: tuple[str, str] | None = None
        self.publisher: Publisher | None = None
        self.run: str | None = None

    def __enter__(self) -> Self:
        """Closes it when the block is left."""
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Tells how it ended, if Keras couldn't."""
        if self._kind:
            publisher = self._live()
            cancelled = isinstance(error, RunCancelledError) or (
                error is not None and not isinstance(error, Exception)
            )
            detail = _LEFT if error is None else f"{type(error).__name__}: {error}"
            try:
                self._end("cancelled" if cancelled else "failed", detail)
            except FitbusError as late:
                if error is None:
                    raise
                error.add_note(f"fitbus: its end couldn't be told: {late}")
            self._lead(error)
            if error is None:
                publisher.failures.check()

    def post(self, control: Control, source: str = "") -> Receipt:
        """Sends a control, from any thread; never blocks.

        Before the first run it waits for that; after a run has ended, and until the next one
        begins, it is rejected as too late.

        Args:
            control: The control; anything else raises `InvalidArgumentError`.
            source: Who sends it, for `ControlApplied.source`.
        """
        return (self._inbox if self.publisher is None else self.publisher).post(control, source)

    def set_params(self, params: Any) -> None:
        """Keras is about to begin; what an exception left open, with no block to tell so, ends."""
        if self._kind and calls_under_way() > self._depth:
            ignore_call(self, self._depth)
            return
        if self._kind:
            self._end("failed", _LEFT)
        super().set_params(params)

    # The hooks: in the thread that Keras trains in.

    def on_train_begin(self, logs: Any = None) -> None:
        """Begins a run."""
        self._begin("fit")
        params = self.params or {}
        self._wait(TrainBegin(epochs=params.get("epochs", 1), steps_per_epoch=params.get("steps")))

    def on_train_end(self, logs: Any = None) -> None:
        """Ends it."""
        publisher = self._live()
        stopped = self._stop or getattr(self.model, "stop_training", False)
        self._end("stopped" if stopped else "completed")
        self._lead(None)
        publisher.failures.check()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Tells of it."""
        self._before, self._done = self._before + self._done, 0
        self._live().epoch = epoch
        self._wait(EpochBegin())

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Tells of it."""
        self._logs = dict(logs or {})
        unknown = (self.params or {}).get("steps") is None
        if unknown and getattr(self.model, "steps_per_execution", 1) > 1:
            # Keras may have told of more batches than there were.
            self._before, self._done = self._updates(), 0
            self._live().step = self._before
        self._wait(EpochEnd(logs=self._logs))

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Tells of it."""
        self._tell(BatchBegin(batch=batch))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Tells of it, and lets controls act."""
        publisher = self._live()
        steps = (self.params or {}).get("steps")
        self._done = batch + 1 if steps is None else min(batch + 1, steps)
        publisher.step = self._before + self._done
        self._tell(BatchEnd(batch=self._done - 1, logs=logs or {}, batch_logs={}))
        publisher.boundary()

    def on_test_begin(self, logs: Any = None) -> None:
        """Begins a run, unless it is a validation."""
        if self._kind != "fit":
            self._begin("evaluate")
        self._wait(TestBegin())

    def on_test_end(self, logs: Any = None) -> None:
        """Ends it."""
        self._wait(TestEnd(logs=logs or {}))
        self._close_unless_fit()

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Tells of it."""
        self._tell(TestBatchBegin(batch=batch))

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Tells of it, and lets controls act."""
        self._tell(TestBatchEnd(batch=batch, logs=logs or {}, batch_logs={}))
        self._live().boundary()

    def on_predict_begin(self, logs: Any = None) -> None:
        """Begins a run."""
        self._begin("predict")
        self._wait(PredictBegin())

    def on_predict_end(self, logs: Any = None) -> None:
        """Ends it."""
        self._wait(PredictEnd())
        self._close_unless_fit()

    def on_predict_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Tells of it."""
        self._tell(PredictBatchBegin(batch=batch))

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        """Tells of it, with the outputs as host arrays, and lets controls act."""
        outputs = jax.tree.map(np.asarray, (logs or {}).get("outputs"))
        self._tell(PredictBatchEnd(batch=batch, outputs=outputs))
        self._live().boundary()

    # Inside.

    def _begin(self, kind: str) -> None:
        if self._bus.hosting.in_loop:
            raise WouldDeadlockError(
                f"model.{kind} would block the event loop, and nothing be delivered meanwhile; call"
                " it in another thread: `await anyio.to_thread.run_sync(train)`"
            )
        self.run = self._bus.runs.new_id(kind)
        inbox, self._inbox = self._inbox, Inbox()
        self.publisher = Publisher(self._bus, run=self.run, apply=self._apply, inbox=inbox)
        self._kind, self._stop, self._logs = kind, None, {}
        self._depth = calls_under_way()
        self._done, self._before = 0, self._updates()
        self.publisher.step = self._before

    def _live(self) -> Publisher:
        if self.publisher is None or not self._kind:
            raise FitbusError("PublishEvents is called by model.fit, model.evaluate and predict")
        return self.publisher

    def _updates(self) -> int:
        model: Any = self.model
        built = getattr(model.optimizer, "built", False)
        return int(model.optimizer.iterations) if built else 0

    def _wait(self, event: Event) -> None:
        publisher = self._live()
        publisher.barrier(event)
        publisher.boundary()

    def _tell(self, event: Event) -> None:
        publisher = self._live()
        tell = publisher.barrier if publisher.waits(type(event)) else publisher.publish
        tell(event)

    def _lead(self, error: BaseException | None) -> None:
        """Lets the error that leaves `fit` tell of the others, as that of a trainer does."""
        if self.publisher is not None and (error is None or isinstance(error, Exception)):
            self.publisher.failures.lead(error)

    def _end(self, reason: EndReason, detail: str = "") -> None:
        publisher = self._live()
        why, source = self._stop or ("", "")
        try:
            if self._kind == "fit":
                end = TrainEnd(logs=self._logs, reason=reason, detail=detail or why, source=source)
                if self._bus.hosting.in_loop:  # of a block that isn't in the thread that trained
                    publisher.publish(end)
                else:
                    publisher.barrier(end)
        finally:
            self._close()

    def _close_unless_fit(self) -> None:
        if self._kind != "fit":
            publisher = self._live()
            self._close()
            publisher.failures.check()

    def _close(self) -> None:
        publisher = self._live()
        self._kind = ""
        publisher.close()
        self._bus.finish_run(publisher.run, drained=False)

    def _apply(self, control: Control, source: str) -> None:
        apply_to_plain(self.model, control, self._kind)
        if isinstance(control, StopTraining):
            self._stop = self._stop or (control.reason, source)


_LEFT = "it ended without a word: use `with events:` around model.fit, in its thread"
