"""What the bus and the control channel report about themselves."""

from __future__ import annotations

from typing import Any, Literal, final, get_args

from fitbus._checks import check_envelope, check_text, plain_result, set_field, set_whole
from fitbus.control import Control
from fitbus.errors import InvalidArgumentError, one_of
from fitbus.events._base import Event

__all__ = [
    "CheckpointSaved",
    "ControlApplied",
    "ControlRejected",
    "HandlerFailed",
    "Lagged",
    "RunPaused",
    "RunResumed",
    "SkipAction",
    "SkipReason",
    "StepSkipped",
]

SkipReason = Literal["nonfinite", "max_norm"]
SkipAction = Literal["skip", "stop", "rollback"]


@final
class ControlApplied(Event):
    """A control acted at this step: every later event reflects the change.

    Attributes:
        id: The control's number in the run, in the order in which controls were sent.
        control: The control.
        source: Who sent it.
        result: What applying it gave: the logs of an `Evaluate`, the path of a `SaveCheckpoint`.
    """

    id: int
    control: Control
    source: str
    result: Any = None

    def __post_init__(self) -> None:
        check_envelope(self)
        _check_acknowledgement(self)
        set_field(self, "result", plain_result(self.result))


@final
class ControlRejected(Event):
    """A control did not act; training is as it was.

    Attributes:
        id: The control's number in the run.
        control: The control.
        source: Who sent it.
        why: Why, and what to do; also that a later control superseded it, or that it came too late.
    """

    id: int
    control: Control
    source: str
    why: str

    def __post_init__(self) -> None:
        check_envelope(self)
        _check_acknowledgement(self)
        check_text(self, "why")


@final
class RunPaused(Event):
    """Training stands still until `Resume`.

    Attributes:
        source: Who asked for it.
    """

    source: str = ""

    def __post_init__(self) -> None:
        check_envelope(self)
        check_text(self, "source")


@final
class RunResumed(Event):
    """Training goes on.

    Attributes:
        source: Who asked for it.
    """

    source: str = ""

    def __post_init__(self) -> None:
        check_envelope(self)
        check_text(self, "source")


@final
class CheckpointSaved(Event):
    """A checkpoint is complete.

    Attributes:
        path: Where it lies.
        tag: The name it was asked for with.
    """

    path: str
    tag: str = ""

    def __post_init__(self) -> None:
        check_envelope(self)
        check_text(self, "path", "tag")


@final
class StepSkipped(Event):
    """A step changed nothing but the count of steps, since a guard refused its update.

    It comes before the `BatchEnd` of the same step, whose `batch_logs` are as they were computed;
    `logs` leave the batch out.

    Attributes:
        batch: The batch's place in the epoch, from 0.
        metric: The metric that isn't finite, the first one if there are several; else empty.
        leaf: The leaf of the state that would have become not finite, the first one if there are
            several, by its path, such as `"params/w"`; for `"max_norm"` the leaf of the parameters
            with the longest update. Empty if all updates are finite.
        reason: `"nonfinite"`, or `"max_norm"`: all is finite, but the update is too long.
        action: What is done at the next boundary: `"skip"` nothing, `"stop"` training is asked to
            stop, `"rollback"` it goes back to an earlier state.
        back_to: The completed updates of the state that it goes back to; -1 if it doesn't.
    """

    batch: int
    metric: str = ""
    leaf: str = ""
    reason: SkipReason = "nonfinite"
    action: SkipAction = "skip"
    back_to: int = -1

    def __post_init__(self) -> None:
        check_envelope(self)
        set_whole(self, "batch")
        check_text(self, "metric", "leaf")
        for name, allowed in (("reason", get_args(SkipReason)), ("action", get_args(SkipAction))):
            found: object = getattr(self, name)
            if found not in allowed:
                raise InvalidArgumentError(f"StepSkipped.{name}", found, one_of(allowed))
        set_whole(self, "back_to", least=-1)


@final
class HandlerFailed(Event):
    """A handler raised.

    Attributes:
        subscriber: The subscription's name.
        error: The error's type and message.
        event_seq: The `seq` of the event that it handled.
    """

    subscriber: str
    error: str
    event_seq: int

    def __post_init__(self) -> None:
        check_envelope(self)
        check_text(self, "subscriber", "error")
        set_whole(self, "event_seq", least=-1)


@final
class Lagged(Event):
    """A subscriber lost events. It belongs to that subscriber alone, and takes no `seq` (-1).

    Attributes:
        subscriber: The subscription's name.
        count: How many events it lost here. With `after=`, all of the run that aren't kept any more
            are counted: nobody knows which of them it would have been given.
        first_seq: The first one lost.
        last_seq: The last one lost.
    """

    subscriber: str
    count: int
    first_seq: int
    last_seq: int

    def __post_init__(self) -> None:
        check_envelope(self)
        check_text(self, "subscriber")
        set_whole(self, "count", least=1)
        set_whole(self, "first_seq")
        set_whole(self, "last_seq")


def _check_acknowledgement(event: ControlApplied | ControlRejected) -> None:
    set_whole(event, "id", least=-1)  # as with `seq`: -1 is no number yet
    if not isinstance(event.control, Control):
        raise InvalidArgumentError(
            f"{type(event).__name__}.control", event.control, "give a Control"
        )
    check_text(event, "source")
