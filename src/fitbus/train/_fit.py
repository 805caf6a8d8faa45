"""The training loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, final, get_args

from fitbus._history import History
from fitbus.control import Evaluate
from fitbus.errors import ControlRejectedError
from fitbus.events import (
    EndReason,
    EpochBegin,
    EpochEnd,
    TrainBegin,
    TrainEnd,
)
from fitbus.train._engine import Engine
from fitbus.train._evaluate import CalledOff, all_of, evaluate, evaluate_quietly
from fitbus.train._executions import Executions
from fitbus.train._feed import Feed
from fitbus.train._guarding import Layout
from fitbus.train._history import numbers
from fitbus.train._loop import boundary, train_epoch
from fitbus.train._packing import send_waiting
from fitbus.train._position import Position, Restored
from fitbus.train._repeating import Record

__all__ = ["FitJob"]


@final
class FitJob:
    """`Trainer.fit`: epochs of batches, validated.

    Args:
        feed: The training data.
        epochs: The number of the last epoch, counted from 1.
        initial_epoch: The first epoch, from 0.
        validation: Makes a feed of the validation data; None without any.
        validation_freq: Every how many epochs it is validated, or the numbers of the epochs.
        steps_per_execution: How many steps are fused, or `"auto"`.
        record: The steering that it repeats.

    Attributes:
        epochs: The number of the last epoch, counted from 1.
        history: The logs so far.
        feeds: What is closed at its end.
    """

    kind = "fit"

    def __init__(
        self,
        feed: Feed,
        *,
        epochs: int,
        initial_epoch: int,
        validation: Feed | None,
        validation_freq: int | Collection[int],
        steps_per_execution: int | Literal["auto"] = 1,
        verbose: int = 0,
        record: Record | None = None,
    ) -> None:
        self._feed = feed
        self._record = record
        self.feeds = (feed,) if validation is None else (feed, validation)
        self.epochs = epochs
        self._initial_epoch = self._first_epoch = initial_epoch
        self._before: Mapping[str, float] = {}
        self._validation = validation
        self._validation_freq = validation_freq
        self._executions = Executions(steps_per_execution)
        self._seq: int | None = None  # with which a training goes on
        self._began = self._stop_epoch = False  # whether its epoch had begun, and was to end
        self._layout: Layout | None = None
        self._logs: dict[str, float] = {}
        self.history = History({"verbose": verbose, "epochs": epochs, "steps": feed.steps})

    @property
    def steps(self) -> int | None:
        """Batches in an epoch, where that can be told."""
        return self._feed.steps

    def main(self, engine: Engine) -> History:
        """Does it, in the training thread."""
        publisher = engine.publisher
        engine.order, engine.place = self._feed.order, self._feed.place
        engine.facts = self._feed.facts
        engine.history, engine.validation = self.history, self._validation
        if engine.preparation.store is not None:
            self._keep_marks(engine)
        restored = self._found(engine)
        if restored is not None:
            self._go_on(engine, restored)
        engine.preparation.check_owners(engine.state.opt_state)
        publisher.epoch = engine.epoch = self._initial_epoch
        if self._validation is not None:
            validation = self._validation
            engine.evaluate = lambda: self._evaluate(engine, validation)
        engine.activity = "in a handler of TrainBegin"
        engine.barrier(
            TrainBegin(
                epochs=self.epochs,
                steps_per_epoch=self._feed.steps,
                initial_epoch=self._initial_epoch,
            ),
            then=self._seq,
        )
        if restored is not None:
            engine.preparation.load_callback_states(restored.callbacks)
            send_waiting(engine, restored)
        if engine.start is not None:
            self._go_to(engine, engine.start)
        engine.boundary()
        if not engine.stopping and self._initial_epoch < self.epochs:
            self._prepare(engine)
        epoch = self._initial_epoch
        while True:
            if engine.rewind is not None:
                epoch = self._go_back(engine, engine.rewind)
            engine.called_off = lambda: engine.stopping
            engine.activity = "waiting for a batch"
            if epoch >= self.epochs or engine.stopping or not self._feed.has_more():
                return self.history
            self._epoch(engine, epoch)
            epoch += 1

    def end(self, engine: Engine, reason: str, detail: str) -> None:
        """Publishes `TrainEnd`, and waits for its waiting handlers."""
        if reason == "completed" and engine.stops:
            reason = "stopped"
        first = engine.stops[0] if engine.stops else None
        assert reason in get_args(EndReason)
        engine.activity = "in a handler of TrainEnd"
        engine.barrier(
            TrainEnd(
                logs=self._logs,
                reason=reason,  # type: ignore[arg-type]  # checked above
                detail=detail or (first.reason if first else ""),
                source=first.source if first and reason == "stopped" else "",
            )
        )
        if self._record is not None:
            self._record.end(engine, reason)

    def _found(self, engine: Engine) -> Restored | None:
        """What there is to go on with; nothing may be, if another run is repeated."""
        record = engine.record = self._record
        if record is not None:
            engine.activity = "reading the record of the run that it repeats"
            steps = self._feed.steps
            record.load(engine, initial_epoch=self._initial_epoch, steps_per_epoch=steps)
        engine.activity = "looking for a backup"
        restored = engine.preparation.restored()
        if record is not None:
            record.check_beginning(restored)
        return restored

    def _go_on(self, engine: Engine, restored: Restored) -> None:
        """Goes on from a backup, or from a checkpoint of before, whose state is there already."""
        state, back = restored.state, engine.rewind is not None
        if state is not None and not (back and engine.updates == int(state.step)):
            engine.restore(state)
        engine.activity = "waiting for the batch to go on with"
        restored.position.compare(engine.facts)
        self._go_to(engine, restored.position)
        if self._validation is not None:
            engine.activity = "waiting for the validation data to go on with"
            place = restored.position
            self._validation.pass_over(place.validated, place.data.get("validation_data"))
        epochs, values = restored.history
        self.history.go_on(epochs, values)
        self._logs = {n: v[-1] for n, v in values.items() if len(v) == len(epochs) > 0}
        if back:
            engine.rewind, engine.preparation.went_back = None, restored.position
            return
        engine.preparation.resumed = restored.position
        engine.publisher.inbox.go_on(restored.position.sent)
        if restored.position.seq is not None:
            # Told again, with the `seq` that they had: `TrainBegin`, and within an epoch its
            # `EpochBegin`; so that what comes then has the one that it would have had.
            self._seq, self._began = restored.position.seq, restored.position.began
            engine.publisher.go_on(max(0, self._seq - 1 - self._began))

    def _go_back(self, engine: Engine, restored: Restored) -> int:
        """Goes on from a checkpoint of before; returns its epoch."""
        self._go_on(engine, restored)
        engine.preparation.load_callback_states(restored.callbacks)
        return self._initial_epoch

    def _go_to(self, engine: Engine, position: Position) -> None:
        """Begins elsewhere than at the first batch."""
        engine.place = self._feed.go_to(
            max(0, position.epoch - self._first_epoch),
            position.batch,
            position.order,
            position.place,
            position.data.get("x"),
        )
        engine.order = self._feed.order
        self._initial_epoch = engine.epoch = position.epoch
        engine.batch, engine.running = position.batch, position.running
        self._before, self._stop_epoch = dict(position.logs), position.stop_epoch
        engine.publisher.epoch = position.epoch

    def _keep_marks(self, engine: Engine) -> None:
        """Prepares for backups: data that couldn't be gone on with are refused."""
        for feed in self.feeds:
            feed.keep_marks()
        engine.preparation.data = lambda: self._marks(engine)

    def _marks(self, engine: Engine) -> dict[str, Any]:
        """What data that can say where they are are put back by."""
        found = {"x": self._feed.mark(engine.place, engine.batch)}
        if self._validation is not None:
            found["validation_data"] = self._validation.mark(None, 0)
        return {name: mark for name, mark in found.items() if mark is not None}

    def _prepare(self, engine: Engine) -> None:
        """Traces the steps, so that the names of the logs are known before the first one runs."""
        engine.activity = "waiting for the first batch"
        first = self._feed.peek()
        if first is None:
            return
        engine.activity = "tracing the train step"
        guarding = engine.preparation.guarding
        self._layout = engine.steps.train_layout(engine.state, first.batch, guarding)
        names = set(self._layout.names)
        if (validation := self._validation) is not None:
            engine.activity = "waiting for the first batch of the validation data"
            shown = validation.peek()
            if shown is None:
                return
            engine.activity = "tracing the eval step"
            layout = engine.steps.eval_layout(engine.state, shown.batch)
            names.update(f"val_{name}" for name in layout.names)
        engine.preparation.check_names(names)

    def _evaluate(self, engine: Engine, validation: Feed) -> dict[str, float]:
        """Evaluates without an event, at a boundary that may lie in a validation."""
        feed = validation.beside()
        if feed is None:
            raise ControlRejectedError(
                Evaluate(),
                "the validation data can be gone through only once; give a list, or a function"
                " that returns a new iterator",
            )
        before, engine.called_off = engine.called_off, CalledOff(engine, alone=False)
        try:
            with contextlib.closing(feed):
                return evaluate_quietly(engine.steps, engine.state, all_of(feed))
        finally:
            engine.called_off = before

    def _epoch(self, engine: Engine, epoch: int) -> None:
        publisher = engine.publisher
        publisher.epoch = epoch
        engine.stop_epoch, self._stop_epoch = self._stop_epoch, False
        engine.in_epoch = True
        engine.called_off = lambda: engine.epoch_over
        engine.activity = "in a handler of EpochBegin"
        if self._seq is not None and publisher.seq == self._seq and self._began:
            publisher.renumber(self._seq - 1)  # told again, and nothing was told before it
        self._seq = None
        engine.barrier(EpochBegin())
        logs = self._batches(engine)
        engine.in_epoch = False
        if engine.rewind is not None:
            return
        wanted = all(stop.validate for stop in engine.stops)
        if self._validation is not None and self._is_due(epoch) and logs and wanted:
            found = evaluate(engine, self._validation, alone=False)
            logs = {**logs, **{f"val_{name}": value for name, value in found.items()}}
        if engine.rewind is not None:
            return
        engine.epoch, engine.batch = epoch + 1, 0
        self._logs = dict(sorted(logs.items()))
        engine.activity = "in a handler of EpochEnd"
        waiting = engine.preparation.unrecorded = list[Callable[[], object]]()
        shared = engine.barrier(EpochEnd(logs=self._logs))
        self.history.record(epoch, shared)
        self._logs, engine.preparation.unrecorded = numbers(shared), None
        for function in waiting:
            function()
        boundary(engine)

    def _batches(self, engine: Engine) -> dict[str, float]:
        """The batches of an epoch. Returns their means."""
        before, self._before = self._before, {}
        if self._layout is None:  # a backup of an epoch whose batches are done, and were the last
            return dict(before)
        return train_epoch(engine, self._feed, self._layout, self._executions, before)

    def _is_due(self, epoch: int) -> bool:
        if isinstance(self._validation_freq, int):
            return (epoch + 1) % self._validation_freq == 0
        return epoch + 1 in self._validation_freq
