"""What runs in the training thread: the state, the boundary, and how controls act on both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, final

from fitbus._history import History
from fitbus.bus import Bus, Publisher
from fitbus.control import (
    Control,
    Evaluate,
    Inbox,
    Pause,
    Rejected,
    RestoreCheckpoint,
    Resume,
    SaveCheckpoint,
    StopEpoch,
    StopTraining,
)
from fitbus.errors import ControlRejectedError
from fitbus.events import EndReason, Event, RunPaused, RunResumed, TestEnd
from fitbus.train._applying import apply_to_state
from fitbus.train._checkpointing import checkpoint
from fitbus.train._feed import Feed
from fitbus.train._flight import Flight
from fitbus.train._form import Form
from fitbus.train._life import Stop
from fitbus.train._position import Position, Restored
from fitbus.train._preparation import Preparation
from fitbus.train._repeating import Record
from fitbus.train._request import Requests
from fitbus.train._state import TrainState, alike, from_host, on_host, placed
from fitbus.train._steps import Steps
from fitbus.train._task import Batch

__all__ = ["Engine"]


class Settles(Protocol):
    """Has steps in flight."""

    def settle(self) -> None:
        """Waits for them, and publishes them."""
        ...


@final
class Engine:
    """The state of a live run, and its boundaries. For the training thread, except where said.

    Attributes:
        steps: The compiled steps.
        publisher: The run's end of the bus.
        updates: Completed optimizer updates that were dispatched.
        examples: Examples that these took in, and
        input_s: seconds that the thread waited for their batches.
        fused: How many steps the last execution fused.
        stops: The stops that were asked for, the first one first.
        stop_epoch: Whether the current epoch was asked to end.
        in_epoch: Whether the batches of an epoch are gone through.
        ending: Whether the work is done, and only its end is left to tell.
        end_reason: Why it ends; None before.
        epoch: The epoch of the next batch, and
        batch: how many of its batches are done,
        running: with the running values of its metrics, on the device, and
        read: how to read the logs that they stand for.
        order: What the order of shuffled data is made from,
        facts: what is plain to see of the data, and
        place: how far in them the batches that are done reach (`Feed.place`).
        validation: The feed of the validation data; None without any.
        start: Where training was asked to begin; read after `TrainBegin`.
        history: The logs of the epochs that have ended.
        activity: What the thread is in, for messages.
        evaluate: Evaluates on the validation data, quietly; None without any.
        requests: What others want done with the state at the next boundary.
        called_off: Whether data that the thread waits for aren't wanted any more.
        beside: Whether another run is live.
        record: The steering of another run, if this one repeats it.
    """

    def __init__(
        self,
        bus: Bus,
        run: str,
        steps: Steps,
        state: TrainState,
        *,
        flight: Flight,
        flush_s: float = 0.0,
        inbox: Inbox | None = None,
        preparation: Preparation | None = None,
    ) -> None:
        self.steps = steps
        self._state: TrainState | None = state
        self._leaves: list[Any] | None = None  # of the state, where steps have gone on from it
        self._form = Form.of(state)
        self.flight = flight
        self.updates = int(state.step)
        self.fused = 1
        self.input_s = 0.0
        self.stops: list[Stop] = []
        self.stop_epoch = self.in_epoch = self.ending = False
        self.end_reason: EndReason | None = None
        self.epoch = self.batch = self.examples = 0
        self.running: Any = None
        self.read: Callable[[], Mapping[str, float]] = dict
        self.order: tuple[int, ...] = ()
        self.place: tuple[int, int] | None = None
        self.facts: Mapping[str, Any] = {}
        self.validation: Feed | None = None
        self.start: Position | None = None
        self.history = History()
        self.preparation = preparation or Preparation()
        self.stop_evaluation = self.beside = False
        self.rewind: Restored | None = None
        self.record: Record | None = None
        self.activity = "starting"
        self.evaluate: Callable[[], dict[str, float]] | None = None
        self.called_off: Callable[[], bool] = lambda: self.stopping
        self.pipeline: Settles | None = None
        self._paused_by: str | None = None
        self._resumed_by = ""
        self.publisher = Publisher(bus, run=run, apply=self._apply, flush_s=flush_s, inbox=inbox)
        self.publisher.step = self.updates
        self.publisher.on_standstill = self.serve_requests
        self.requests = Requests(self.publisher.ring)

    @property
    def state(self) -> TrainState:
        """The state; during a step nobody else may look at it."""
        if self._state is None:
            assert self._leaves is not None
            self._state = self._form.state(self._leaves)
        return self._state

    @state.setter
    def state(self, state: TrainState) -> None:
        self._state, self._leaves, self._form = state, None, Form.of(state)

    def train_step(self, batch: Batch, steps: int = 1) -> Any:
        """The compiled train step, or so many of them fused, for `advance`."""
        return self.steps.train(self.state, batch, self._form, steps, self.preparation.guarding)

    def advance(self, step: Any, *arguments: Any, steps: int = 1) -> Any:
        """Dispatches an execution, of one step or several; returns its vector, or vectors."""
        leaves = self._leaves
        if leaves is None:
            leaves = self._leaves = self._form.leaves(self.state)
        try:
            self._leaves, self.running, vector = step(leaves, self.running, *arguments)
        except Exception as error:
            self.steps.note_on(error, arguments[0])
            raise
        self._state = None
        self.updates += steps
        return vector

    @property
    def stopping(self) -> bool:
        """Whether a stop was asked for."""
        return bool(self.stops)

    @property
    def epoch_over(self) -> bool:
        """Whether the batches of the epoch that are left aren't trained on."""
        return self.stopping or self.stop_epoch or self.rewind is not None

    @property
    def interrupted(self) -> bool:
        """Whether a stop was asked for that training is to go on after, and no other one."""
        return self.stopping and all(stop.control.resumable for stop in self.stops)

    @property
    def paused(self) -> bool:
        """Whether training stands still until `Resume`."""
        return self._paused_by is not None

    def take(self, state: TrainState) -> None:
        """Goes on with another state, of whatever structure."""
        self.state = placed(from_host(state))
        self.updates = self.publisher.step = int(self.state.step)

    def restore(self, state: TrainState) -> None:
        """Goes on with a state of before, placed as the present one is; refuses one of no use."""
        self.state = alike("the backup", self.state, state)
        self.updates = self.publisher.step = int(self.state.step)

    def position(self) -> Position:
        """Where the boundary lies at which the training thread stands."""
        gone = None if self.validation is None else self.validation.gone
        running, logs = (on_host(self.running), dict(self.read())) if self.batch else (None, {})
        place = (self.epoch, self.batch, self.order, running, logs, self.place, gone)
        marks = self.preparation.marks()  # and `seq`, of what `logs` settled
        publisher, facts = self.publisher, self.facts
        stop = self.in_epoch and self.stop_epoch
        told = (publisher.seq, self.in_epoch, publisher.inbox.sent, stop)
        return Position(*place, facts, *told, marks)

    def boundary(self) -> None:
        """The place between two steps where controls act and training can be held."""
        if self.preparation.planned:
            self._act_as_planned()
        self.publisher.boundary()
        if self.record is not None:
            self.record.act(self)
        if self.requests:
            self.serve_requests()
        while self._paused_by is not None:
            self._hold_paused()

    def barrier(self, event: Event, *, then: int | None = None) -> dict[str, float]:
        """Publishes what isn't of a batch, and waits for its waiting handlers; returns its logs."""
        if self.record is None:
            return self.publisher.barrier(event, then=then)
        self.record.told += 1
        logs = self.publisher.barrier(event, then=then)
        if isinstance(event, TestEnd):
            self.record.act(self)  # no boundary follows it
        return logs

    def _act_as_planned(self) -> None:
        for control, source in self.preparation.due(self.updates):
            receipt = self.publisher.post(control, source)
            self.publisher.desk.serve()
            ends = isinstance(control, StopTraining)  # of one that repeats a record, that says when
            if isinstance(receipt.outcome, Rejected) and not (ends and self.record):
                raise ControlRejectedError(control, receipt.outcome.why)

    def serve_requests(self) -> None:
        """Does what others asked for. The training thread stands at a boundary."""
        if self.requests:
            self.settle()  # if it raises, they stay: the end of the run answers them
            for request in self.requests.take():
                request.serve(self.state)

    def settle(self) -> None:
        """Publishes what is in flight: what comes now comes after it."""
        if self.pipeline is not None:
            self.pipeline.settle()

    def _hold_paused(self) -> None:
        self.settle()
        activity, self.activity = self.activity, "paused"
        source = self._paused_by or ""
        self.publisher.publish(RunPaused(source=source), held=True)
        self.publisher.stand_still(self._goes_on)
        if self._paused_by is None and not self.stopping:
            self.publisher.publish(RunResumed(source=self._resumed_by), held=True)
        self.activity = activity
        self.publisher.boundary()

    def _goes_on(self) -> bool:
        self.publisher.run_deferred()
        return self._paused_by is None

    def _apply(self, control: Control, source: str) -> object:
        """Applies a control at a boundary; raises `ControlRejectedError` if it can't."""
        self.settle()
        if self.record is not None:
            self.record.admit(self, control, source)
        return self._acted(control, source)

    def _acted(self, control: Control, source: str) -> object:  # noqa: C901  # a case for each control
        match control:
            case StopTraining() | StopEpoch() | Pause() if self.ending:
                raise ControlRejectedError(control, "too late: the run is at its end")
            case StopTraining():
                self.stops.append(Stop(control, source))
                self._paused_by = None
            case StopEpoch():
                if not self.in_epoch:
                    raise ControlRejectedError(
                        control,
                        "no epoch is under way; send it between EpochBegin and the last BatchEnd",
                    )
                self.stop_epoch = True
            case Pause():
                if self.stopping:
                    raise ControlRejectedError(control, "the run was asked to stop")
                self._paused_by = source
            case Resume():
                if self._paused_by is None:
                    raise ControlRejectedError(control, "the run isn't paused")
                self._paused_by, self._resumed_by = None, source
            case Evaluate():
                if self.evaluate is None:
                    raise ControlRejectedError(
                        control, "there is no validation data; give fit `validation_data`"
                    )
                return self.evaluate()
            case SaveCheckpoint() | RestoreCheckpoint():
                return checkpoint(self, control)
            case _:
                self.state = apply_to_state(self.steps.task, self.state, control)
        return None
