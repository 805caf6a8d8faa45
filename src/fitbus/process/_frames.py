"""What the two processes tell each other."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from fitbus.events import (
    BatchBegin,
    BatchEnd,
    PredictBatchBegin,
    TestBatchBegin,
    TestBatchEnd,
)

__all__ = [
    "Answer",
    "Ask",
    "Begin",
    "Cancel",
    "Controls",
    "Ended",
    "Events",
    "EventsOfChild",
    "Failed",
    "FromChild",
    "FromParent",
    "Raised",
    "Reply",
    "Sent",
    "Served",
    "Settled",
    "Standing",
    "Steps",
    "Told",
    "Wants",
]

Plain: TypeAlias = BatchBegin | BatchEnd | TestBatchBegin | TestBatchEnd | PredictBatchBegin


class _Frame(msgspec.Struct, array_like=True, tag=True):
    """A part of the conversation; only plain values are in it."""


# From the parent.


class Wants(_Frame):
    """Which events the parent's subscribers want, by tags.

    Attributes:
        batch_level: Of the events of batches, those that anybody wants. All others are told.
        waiting: Those for which training has to wait until handlers in the parent are through.
    """

    batch_level: list[str]
    waiting: list[str]


class Sent(_Frame):
    """A control that was sent, or returned by a handler.

    Attributes:
        key: The parent's number for it.
        control: As the codec encodes it.
        source: Who sent it.
        returned: Whether a handler returned it.
    """

    key: int
    control: msgspec.Raw
    source: str
    returned: bool


class Controls(_Frame):
    """Controls, in order.

    Attributes:
        items: The controls.
        group: A number, if they act together, now, where training stands still; else -1.
    """

    items: list[Sent]
    group: int


class Begin(_Frame):
    """All that the child needs to begin.

    Attributes:
        run: The run's id.
        factory: Of the trainings, as `module:name`.
        given: Its arguments and the user's types, pickled: the parent is trusted.
        wants: See there.
        controls: Those that were sent before.
        grace_s: Seconds that it gets to end after a cancellation.
        drain_s: Seconds that its own subscribers get.
        directory: Where states are written to.
        keeps_state: Whether the last state is.
        parent: The parent's process id.
    """

    run: str
    factory: str
    given: bytes
    wants: Wants
    controls: Controls
    grace_s: float
    drain_s: float
    directory: str
    keeps_state: bool
    parent: int


class Reply(_Frame):
    """The waiting handlers of an event are through.

    Attributes:
        seq: The event's.
        logs: What they changed of its logs.
    """

    seq: int
    logs: dict[str, Any]


class Failed(_Frame):
    """A handler's error in the parent ends the run.

    Attributes:
        kind: The error's type, and
        message: what it says.
        interrupts: Whether it is no `Exception`, and cancels the run.
    """

    kind: str
    message: str
    interrupts: bool


class Cancel(_Frame):
    """The run is to end at its next boundary."""


class Ask(_Frame):
    """A question.

    Attributes:
        number: Of the question.
        what: `"hyperparameters"` or `"snapshot"`.
    """

    number: int
    what: str


FromParent: TypeAlias = Begin | Wants | Controls | Reply | Failed | Cancel | Ask


# From the child.


class Events(_Frame):
    """Events, in order, as the codec encodes them."""

    events: list[msgspec.Raw]


class Steps(_Frame):
    """Events of batches, in order."""

    events: list[Plain]


class Standing(_Frame):
    """An event for which training stands still until the reply."""

    event: msgspec.Raw


class Settled(_Frame):
    """How a control ended.

    Attributes:
        key: The parent's number for it.
        id: Its number in the run; -1 if it has none.
        seq: The child's next one then: events before it told of this; -1 if none does.
        by: What superseded it; -1 for nothing.
        why: Why it was rejected; else empty.
        step: Where it was applied.
        epoch: Likewise.
        result: What it gave.
    """

    key: int
    id: int
    seq: int
    by: int = -1
    why: str = ""
    step: int = 0
    epoch: int = 0
    result: Any = None


class Served(_Frame):
    """A group of controls has acted, and is settled."""

    group: int


class Told(_Frame):
    """The run's counters, as those of `RunStatistics`.

    Attributes:
        status: Where it stands.
        seconds: And so on.
    """

    status: str
    seconds: float
    step: int
    examples: int
    input_s: float
    steps_in_flight: int
    steps_per_execution: int
    step_s: float


class Answer(_Frame):
    """The answer to a question.

    Attributes:
        number: Of the question.
        value: A map of hyperparameters, or the path of a file.
        error: Why there is none.
    """

    number: int
    value: Any
    error: str = ""


class Raised(_Frame):
    """An error of the child.

    Attributes:
        kind: Its type, by module and name.
        message: What it says.
        traceback: Where it was raised.
        own: Whether it is the parent's own, which was told it.
    """

    kind: str
    message: str
    traceback: str
    own: bool = False


class Ended(_Frame):
    """The run is over.

    Attributes:
        status: How it ended.
        error: What ended it; None if nothing was raised.
        epochs: The epochs that ended.
        history: Their logs.
        params: See `History.params`.
        state: The file with the last state; empty if there is none.
        rates: The last hyperparameters.
    """

    status: str
    error: Raised | None
    epochs: list[int]
    history: dict[str, list[Any]]
    params: dict[str, Any]
    state: str
    rates: dict[str, float]


FromChild: TypeAlias = Settled | Served | Told | Answer | Ended
EventsOfChild: TypeAlias = Events | Steps | Standing  # in a channel of their own, which may be held
