"""A run that repeats another one's steering: the same controls at the same places."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

from fitbus import journal
from fitbus.control import (
    Applied,
    Control,
    Pause,
    RestoreCheckpoint,
    Resume,
    StopTraining,
    UnknownControl,
)
from fitbus.errors import ControlRejectedError, InvalidArgumentError
from fitbus.train._record import Acted, Place, passed_by, read_record

if TYPE_CHECKING:
    from fitbus.train._engine import Engine
    from fitbus.train._position import Restored

__all__ = ["Record"]

_REPEATS = "this run repeats a record, and its controls come from there (`controls=` of fit)"

_logger = logging.getLogger("fitbus")


@final
class Record:
    """Takes over the steering of a run; for its training thread.

    What the run's own handlers send is refused, unless it is what the record has there from the
    same sender: then it acts as it did. A stop from outside ends the run, and may pause it.

    Args:
        given: The path of a journal, or the events of a run.

    Attributes:
        told: How many events were told that places are counted by; see `Place`.
        begun: Whether the begin of the next batch was.
    """

    def __init__(self, given: Any) -> None:
        self._given = given
        is_path = isinstance(given, str | os.PathLike)
        self._name = os.fspath(given) if is_path else "events"
        self._left: list[Acted] = []
        self._acting: Control | None = None
        self._failed: ControlRejectedError | None = None
        self.told = 0
        self.begun = False

    def load(self, engine: Engine, *, initial_epoch: int, steps_per_epoch: int | None) -> None:
        """Reads it, before anything is told.

        Args:
            engine: The live run.
            initial_epoch: Of its `TrainBegin`, and
            steps_per_epoch: likewise.

        Raises:
            InvalidArgumentError: It isn't all of one training, or of one that began otherwise.
            JournalError: The journal is damaged, or there is none.
            OSError: It can't be read.
        """
        own: Mapping[type[Control], Any] = getattr(engine.steps.task, "controls", {})
        began, self._left, guarded = read_record(
            self._name, journal.events_of("controls", self._given, *own)
        )
        if guarded and engine.preparation.guard is None:
            raise InvalidArgumentError(
                "controls",
                self._name,
                "its run had a Guard, which left steps out; give `fit` the same one",
            )
        self._given = None
        for name, there, here in (
            ("step", began.step, engine.updates),
            ("initial_epoch", began.initial_epoch, initial_epoch),
            ("steps_per_epoch", began.steps_per_epoch, steps_per_epoch),
        ):
            if there != here:
                raise InvalidArgumentError(
                    "controls",
                    self._name,
                    f"its run began with {name}={there}, and this one does with {name}={here};"
                    " give the same data and arguments to a trainer made in the same way",
                )

    def check_beginning(self, restored: Restored | None) -> None:
        """Refuses to go on from a backup: what acted before it is in there already."""
        if restored is not None:
            raise InvalidArgumentError(
                "controls",
                self._name,
                "a run that repeats a record begins at its beginning, and a callback found a backup"
                f" of epoch {restored.position.epoch} to go on from; give it another directory",
            )

    def most(self, steps: int) -> int:
        """How many of so many steps may be done before something acts."""
        return max(1, min(steps, self._left[0].place.told - self.told)) if self._left else steps

    def begin(self, *, exact: bool, batches: int = 1) -> bool:
        """Whether the next batches are told of one by one: also where something acts at a begin.

        Args:
            exact: Whether they are anyway.
            batches: How many.
        """
        exact = exact or (bool(self._left) and self._left[0].place == Place(self.told, begun=True))
        self.begun = exact and batches == 1
        return exact

    def compute(self, engine: Engine, batches: int) -> None:
        """Applies what acts before the next batches are computed, and counts them."""
        self.act(engine)
        self.told, self.begun = self.told + batches, False

    def act(self, engine: Engine) -> None:
        """Applies what acted here.

        Raises:
            ControlRejectedError: Something can't be applied now.
            FitbusError: Something acted at a place that this run has come past.
        """
        if self._failed is not None:
            raise self._failed
        if self._left and self._left[0].place <= self._here:
            engine.settle()  # a guarded step before may have halted: then it isn't here yet
        while self._left and self._left[0].place <= self._here:
            if self._left[0].place < self._here:
                raise passed_by(self._left[0], engine.updates)
            if not self._can_act(self._left[0], engine):
                return  # before the next event somebody does what is missing, or it is an error
            self._perform(engine)
            if self._failed is not None:
                raise self._failed

    def admit(self, engine: Engine, control: Control, source: str) -> None:
        """Lets a control be applied, if it is one of the record's that is due.

        Raises:
            ControlRejectedError: It isn't.
        """
        if control is self._acting or isinstance(control, Pause | Resume):
            return
        for acted in self._left:
            if acted.place > self._here:
                break
            if acted.source == source and _same(acted.control, control):
                while self._left[0] is not acted and self._can_act(self._left[0], engine):
                    self._perform(engine)
                if self._failed is None:
                    self._left.remove(acted)
                    return
                break
        later = any(each.source == source and _same(each.control, control) for each in self._left)
        if (
            isinstance(control, StopTraining)
            and not later
            and self._from_outside(engine, control, source)
        ):
            self._warn_of_rest(engine, "was stopped")
            self._left = []
            return
        raise ControlRejectedError(control, _REPEATS)

    def end(self, engine: Engine, reason: str) -> None:
        """Applies what acted after the end was told; says what never did."""
        if reason in ("completed", "stopped"):
            self.act(engine)
            if self._left and self._left[0].place <= self._here:
                raise passed_by(self._left[0], engine.updates)
            self._warn_of_rest(engine, "has ended")

    @property
    def _here(self) -> Place:
        return Place(self.told, self.begun)

    def _perform(self, engine: Engine) -> None:
        acted = self._left.pop(0)
        before, self._acting = self._acting, acted.control
        try:
            outcome = engine.publisher.desk.perform(acted.control, acted.source)
        finally:
            self._acting = before
        if not isinstance(outcome, Applied):
            why = getattr(outcome, "why", "")
        elif outcome.step != acted.step:
            why = f"it went to step {outcome.step}"
        else:
            return
        self._failed = ControlRejectedError(
            acted.control, f"{why} (in the record it acted at step {acted.step})"
        )

    def _can_act(self, acted: Acted, engine: Engine) -> bool:
        """Whether it can be applied now: not what is done by somebody who is to come."""
        guarded = acted.source == "Guard" and engine.preparation.guard is not None
        if guarded or isinstance(acted.control, UnknownControl):
            return False
        return isinstance(acted.control, RestoreCheckpoint) or acted.step == engine.updates

    def _from_outside(self, engine: Engine, stop: StopTraining, source: str) -> bool:
        """Whether a stop is none of a handler's decisions, but that by its `on_error`."""
        publisher = engine.publisher
        handlers = {each.name for each in publisher.bus.subscriptions}
        handlers.update(name for name, _ in engine.preparation.callbacks)
        return source not in handlers or stop.reason in publisher.failures.notes

    def _warn_of_rest(self, engine: Engine, how: str) -> None:
        if self._left:
            _logger.warning(
                "run %r %s before all controls of its record acted: %d are left, the first of them"
                " %r of step %d, epoch %d",
                *(engine.publisher.run, how, len(self._left), self._left[0].control),
                *(self._left[0].step, self._left[0].epoch),
            )


def _same(recorded: Control, control: Control) -> bool:
    if isinstance(recorded, UnknownControl):
        return bool(recorded == UnknownControl.standing_for(control))
    try:
        return type(recorded) is type(control) and bool(recorded == control)
    except Exception:  # noqa: BLE001  # arrays in a control of the user's, for one
        return False
