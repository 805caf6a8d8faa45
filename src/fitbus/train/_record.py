"""What steered a run, read from its events: each control, and its place among them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, final

from fitbus.control import (
    Control,
    Pause,
    RestoreCheckpoint,
    Resume,
    StopTraining,
    UnknownControl,
)
from fitbus.errors import FitbusError, InvalidArgumentError
from fitbus.events import (
    BatchBegin,
    BatchEnd,
    ControlApplied,
    EpochBegin,
    EpochEnd,
    Event,
    StepSkipped,
    TestBatchBegin,
    TestBatchEnd,
    TestBegin,
    TestEnd,
    TrainBegin,
    TrainEnd,
)

__all__ = ["Acted", "Place", "passed_by", "read_record"]

_MARKS = (
    TrainBegin,
    EpochBegin,
    BatchEnd,
    TestBegin,
    TestBatchEnd,
    TestEnd,
    EpochEnd,
    TrainEnd,
)


class Place(NamedTuple):
    """Where in a run something acts; places compare as they come.

    Attributes:
        told: How many events of these types came before: begin and end of training, of epochs and
            validations, and the ends of batches. Steps alone would not tell it: a validation has
            many places of one step, and a step may come again.
        begun: Whether the begin of the next batch did, too.
    """

    told: int
    begun: bool = False


class Acted(NamedTuple):
    """A control, and where it acted.

    Attributes:
        place: Among the events.
        step: Completed optimizer updates then; of a `RestoreCheckpoint` those gone back to.
        epoch: The epoch, from 0.
        control: The control; an `UnknownControl` stands for one that can't leave its process.
        source: Who had sent it.
    """

    place: Place
    step: int
    epoch: int
    control: Control
    source: str


def read_record(given: str, events: Iterable[Event]) -> tuple[TrainBegin, list[Acted], bool]:
    """The beginning of a run, what steered it, and whether a guard left steps out.

    Args:
        given: What `fit` was given, in a few words, for messages.
        events: All events of the run, in order. Those of other runs are passed over.

    Raises:
        InvalidArgumentError: Some are missing, there are several trainings among them, or none; or
            a control isn't known.
    """
    reader = _Reader(given)
    for event in events:
        reader.take(event)
    if reader.began is None:
        raise InvalidArgumentError("controls", given, "there is no training in it")
    return reader.began, reader.taken, reader.guarded


@final
class _Reader:
    """Finds the controls among the events of a run, and their places."""

    def __init__(self, given: str) -> None:
        self._given = given
        self._run = ""
        self._others: set[str] = set()  # the ids of runs that are no training
        self._next = 0  # the `seq` that comes next
        self._step = 0  # of the last event of training
        self._here = Place(0)
        self._open = 0  # of those taken, how many act when steps done together have been told
        self.guarded = False
        self.began: TrainBegin | None = None
        self.taken: list[Acted] = []

    def take(self, event: Event) -> None:
        """The next one."""
        if not isinstance(event, Event):
            raise InvalidArgumentError("controls", event, "give events, as they were published")
        if event.seq < 0:
            return  # a subscriber's own, such as Lagged
        if isinstance(event, TrainBegin):
            self._begin(event)
        if self.began is None or not self._belongs(event):
            return
        self._check_gap(event)
        if isinstance(event, ControlApplied):
            if not isinstance(event.control, Pause | Resume):
                self._control(event)
        elif isinstance(event, BatchBegin | TestBatchBegin):
            self._here, self._step = self._here._replace(begun=True), event.step
        elif isinstance(event, StepSkipped):
            self.guarded = True
        elif isinstance(event, _MARKS):
            self._mark(event)

    def _begin(self, event: TrainBegin) -> None:
        if self.began is not None:
            raise InvalidArgumentError(
                "controls",
                self._given,
                f"there are several trainings in it, {self.began.run!r} and {event.run!r}; give"
                " the events of one of them, such as `fitbus.journal.read(path, run=...)`",
            )
        self.began = event
        self._run, self._next = event.run, event.seq

    def _belongs(self, event: Event) -> bool:
        """Whether it is the training's, which may have gone on under another id."""
        if event.run != self._run:
            if event.seq == 0:
                self._others.add(event.run)  # an evaluation, or a prediction
            if event.run in self._others or event.seq != self._next:
                return False
            self._run = event.run
        return True

    def _check_gap(self, event: Event) -> None:
        expected, self._next = self._next, event.seq + 1
        if event.seq != expected:
            raise InvalidArgumentError(
                "controls",
                self._given,
                f"events of run {event.run!r} are missing: {event.seq} comes where {expected}"
                " should; give all of them, such as a journal without `keep_segments`",
            )

    def _control(self, event: ControlApplied) -> None:
        control = event.control
        if isinstance(control, UnknownControl) and not control.stands_in:
            raise InvalidArgumentError(
                "controls",
                self._given,
                f"nobody said what control {control.tag!r} is, which acted at step {event.step};"
                " tell of its type: `controls=fitbus.journal.read(path, ThatControl)`",
            )
        ahead = event.step > self._step and not isinstance(control, RestoreCheckpoint)
        if ahead or self._open:
            self._open += 1  # sent while the events of steps that were done together were told
        acted = Acted(self._here, event.step, event.epoch, control, event.source)
        self.taken.append(acted)

    def _mark(self, event: Event) -> None:
        self._here, self._step = Place(self._here.told + 1), event.step
        if self._open and self.taken[-self._open].step <= event.step:
            for index in range(-self._open, 0):
                self.taken[index] = self.taken[index]._replace(place=self._here)
            self._open = 0
        if isinstance(event, BatchEnd | EpochBegin) and not self._open:
            # Training went on after it, by another process: no stop is needed.
            last = event.step - isinstance(event, BatchEnd)
            self.taken = [e for e in self.taken if not (_interrupts(e.control) and e.step <= last)]


def _interrupts(control: Control) -> bool:
    return isinstance(control, StopTraining) and control.resumable


def passed_by(acted: Acted, step: int) -> FitbusError:
    """What to say of a control whose place a run has come past."""
    where = f"step {acted.step}, epoch {acted.epoch}"
    if isinstance(acted.control, UnknownControl):
        return FitbusError(
            f"controls: the record's run was changed by {acted.source!r} at {where}, and a journal"
            f" can't hold how ({acted.control.tag}); give `fit` the same callback, which does it"
            " again, or steer with a control of your own"
        )
    return FitbusError(
        f"controls: {acted.control!r} acted at {where}, and this run, now at step {step}, never was"
        " there: its data, its arguments or its callbacks aren't those of the record's run"
    )
