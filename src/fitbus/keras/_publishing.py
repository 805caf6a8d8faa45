"""The events of a plain `model.fit` on a bus."""

from __future__ import annotations

from typing import Any, Self, final

import keras

from fitbus.bus import Bus, Publisher
from fitbus.control import Control, ScaleLearningRate, SetLearningRate, StopTraining
from fitbus.errors import ControlRejectedError, FitbusError, InvalidArgumentError, RunCancelledError
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

__all__ = ["PublishEvents"]


@final
class PublishEvents(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """A Keras callback that publishes what a plain `model.fit` does, and takes controls for it.

    For those who can't change their call of `fit`. It runs in a thread; handlers, streams and
    controls are there as with a `Trainer`:

        async with fitbus.Bus() as bus:
            bus.add(handler)
            with fitbus.keras.PublishEvents(bus) as events:
                await anyio.to_thread.run_sync(
                    lambda: model.fit(x, y, callbacks=[events], verbose=0)
                )

    Each `fit`, `evaluate` and `predict` is a run of its own; a validation belongs to its `fit`.
    Controls act at the end of each batch and at the begins and ends of epochs: `StopTraining`,
    `SetLearningRate`, `ScaleLearningRate`; others are rejected. Leaving the block closes what an
    exception left open, with `TrainEnd("failed")`: Keras itself tells nobody.

    Keras doesn't know what a single batch's values are, so `batch_logs` is empty; with its
    `steps_per_execution`, it tells of the last batch of each execution only. It waits for the
    device at each batch, and so does `fit` with any callback that looks at batches.

    Args:
        bus: Where the events go.

    Attributes:
        run: The id of the live run, or of the last one; None before the first.
        publisher: Its end of the bus: `events.publisher.post(StopTraining())`; None before.

    Raises:
        InvalidArgumentError: `bus` is no bus.
    """

    def __init__(self, bus: Bus) -> None:
        super().__init__()
        if not isinstance(bus, Bus):
            raise InvalidArgumentError("bus", bus, "give a fitbus.Bus")
        self._bus = bus
        self._kind = ""
        self._done = 0  # batches of the epoch
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
            cancelled = isinstance(error, RunCancelledError) or not isinstance(error, Exception)
            detail = "" if error is None else f"{type(error).__name__}: {error}"
            self._end("cancelled" if cancelled else "failed", detail)

    # The hooks: in the thread that Keras trains in.

    def on_train_begin(self, logs: Any = None) -> None:
        """Begins a run."""
        self._begin("fit")
        params = self.params or {}
        self._wait(TrainBegin(epochs=params.get("epochs", 1), steps_per_epoch=params.get("steps")))

    def on_train_end(self, logs: Any = None) -> None:
        """Ends it."""
        self._end("stopped" if self._stop else "completed")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Tells of it."""
        self._done, self._live().epoch = 0, epoch
        self._wait(EpochBegin())

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Tells of it; what waiting handlers add to the logs is for later callbacks."""
        self._logs = dict(logs or {})
        self._wait(EpochEnd(logs=self._logs))

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Tells of it."""
        self._tell(BatchBegin(batch=batch))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Tells of it, and lets controls act."""
        publisher = self._live()
        publisher.step += batch + 1 - self._done
        self._done = batch + 1
        self._tell(BatchEnd(batch=batch, logs=logs or {}, batch_logs={}))
        publisher.boundary()

    def on_test_begin(self, logs: Any = None) -> None:
        """Begins a run, unless it is a validation."""
        if self._kind != "fit":
            self._begin("evaluate")
        self._wait(TestBegin())

    def on_test_end(self, logs: Any = None) -> None:
        """Ends it."""
        self._wait(TestEnd(logs=logs or {}))
        if self._kind != "fit":
            self._close()

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Tells of it."""
        self._tell(TestBatchBegin(batch=batch))

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Tells of it."""
        self._tell(TestBatchEnd(batch=batch, logs=logs or {}, batch_logs={}))

    def on_predict_begin(self, logs: Any = None) -> None:
        """Begins a run."""
        self._begin("predict")
        self._wait(PredictBegin())

    def on_predict_end(self, logs: Any = None) -> None:
        """Ends it."""
        self._wait(PredictEnd())
        self._close()

    def on_predict_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Tells of it."""
        self._tell(PredictBatchBegin(batch=batch))

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        """Tells of it, with the outputs."""
        self._tell(PredictBatchEnd(batch=batch, outputs=(logs or {}).get("outputs")))

    # Inside.

    def _begin(self, kind: str) -> None:
        if self._kind:  # an exception ended it, and there was no block to tell so
            self._end("failed", "it ended without a word; use `with PublishEvents(bus) as ...`")
        self.run = self._bus.runs.new_id(kind)
        self.publisher = Publisher(self._bus, run=self.run, apply=self._apply)
        self._kind, self._stop, self._logs = kind, None, {}

    def _live(self) -> Publisher:
        if self.publisher is None or not self._kind:
            raise FitbusError("PublishEvents is called by model.fit, model.evaluate and predict")
        return self.publisher

    def _wait(self, event: Event) -> None:
        publisher = self._live()
        publisher.barrier(event)
        publisher.boundary()

    def _tell(self, event: Event) -> None:
        publisher = self._live()
        if publisher.waits(type(event)):
            publisher.barrier(event)
        else:
            publisher.publish(event)

    def _end(self, reason: EndReason, detail: str = "") -> None:
        publisher = self._live()
        why, source = self._stop or ("", "")
        try:
            if self._kind == "fit":
                publisher.barrier(
                    TrainEnd(logs=self._logs, reason=reason, detail=detail or why, source=source)
                )
        finally:
            self._close()

    def _close(self) -> None:
        publisher = self._live()
        self._kind = ""
        publisher.close()
        self._bus.finish_run(publisher.run, drained=False)
        publisher.failures.check()

    def _apply(self, control: Control, source: str) -> object:
        model: Any = self.model
        match control:
            case StopTraining(reason):
                self._stop = self._stop or (reason, source)
                model.stop_training = True
            case SetLearningRate(value):
                self._set_learning_rate(control, value)
            case ScaleLearningRate(factor):
                self._set_learning_rate(control, float(model.optimizer.learning_rate) * factor)
            case _:
                raise ControlRejectedError(
                    control,
                    "a plain model.fit takes StopTraining, SetLearningRate and ScaleLearningRate;"
                    " fitbus.Trainer(fitbus.keras.KerasTask(model)) takes them all",
                )
        return None

    def _set_learning_rate(self, control: Control, value: float) -> None:
        model: Any = self.model
        try:
            model.optimizer.learning_rate = value
        except TypeError as error:  # of an optimizer with a schedule
            raise ControlRejectedError(control, str(error)) from error
