"""Every exception that fitbus raises, in one tree.

    FitbusError
     ├── InvalidArgumentError          a wrong argument (also a ValueError)
     │    └── InvalidHandlerError      a handler that can't be subscribed (also a TypeError)
     ├── ControlRejectedError          a control was not applied
     ├── WouldDeadlockError            a wait that could never end
     ├── WrongThreadError              state asked for where it isn't valid
     ├── RunCancelledError             a run was cancelled: what stops a loop at its boundary
     ├── RunEndedError                 a run ended before what was waited for
     ├── TrainerBusyError              a second use of a trainer while a run is live
     ├── StateLostError                a step failed after its state was donated
     ├── ThreadStuckError              the training thread did not end in time
     ├── HandlerTimeoutError           a handler ran past its `timeout` (also a TimeoutError)
     ├── DataError                     data that can't be trained on (also a ValueError)
     ├── ProcessDiedError              a child process ended before its training did
     ├── ChildError                    what a training in a child process raised
     ├── ElsewhereError                what only a child process has (also an AttributeError)
     ├── JournalError                  a journal is damaged
     ├── ServiceError                  a service can't be reached, or refuses
     ├── ReplayError                   what only training has, in a replay (also an AttributeError)
     └── BusClosedError                the bus no longer takes handlers or streams

Errors that users' own code raises (a step, a data source, a handler) are never wrapped: they leave
`fit` as themselves.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Sequence
from typing import Any, Self, final

from fitbus._error_parts import remade, sendable, short

__all__ = [
    "BusClosedError",
    "ChildError",
    "ControlRejectedError",
    "DataError",
    "ElsewhereError",
    "FitbusError",
    "HandlerTimeoutError",
    "InvalidArgumentError",
    "InvalidHandlerError",
    "JournalError",
    "ProcessDiedError",
    "ReplayError",
    "RunCancelledError",
    "RunEndedError",
    "ServiceError",
    "StateLostError",
    "ThreadStuckError",
    "TrainerBusyError",
    "WouldDeadlockError",
    "WrongThreadError",
]


class FitbusError(Exception):
    """The root of all errors of fitbus: `except FitbusError` catches each of them.

    Errors can be copied and pickled, with their attributes and notes. What can't be pickled of
    those (a function, say) is sent as its `repr`.
    """

    # Exception's own ways call the type with the message, for which few of these are made.

    def __copy__(self) -> Self:
        """One of the same attributes."""
        return remade(type(self), self.args, self.__dict__)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """One with attributes of its own."""
        return remade(type(self), self.args, copy.deepcopy(self.__dict__, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        """What pickle keeps."""
        args = tuple(sendable(value) for value in self.args)
        state = {name: sendable(value) for name, value in self.__dict__.items()}
        return remade, (type(self), args, state)


class InvalidArgumentError(FitbusError, ValueError):
    """An argument was refused: the message names it, what was found and what is allowed.

    Attributes:
        argument: The name of the argument at fault.
        found: The value that was found.
        allowed: What would have been accepted, in words.
    """

    def __init__(self, argument: str, found: object, allowed: str) -> None:
        super().__init__(f"{argument}: found {short(found)}; {allowed}")
        self.argument = argument
        self.found = found
        self.allowed = allowed


@final
class InvalidHandlerError(InvalidArgumentError, TypeError):
    """A handler can't be subscribed: a wrong signature, or event types that can't be told."""


@final
class ControlRejectedError(FitbusError):
    """A control was not applied; training is as it was.

    Attributes:
        control: The control that was rejected.
        why: Why, and what to do.
    """

    def __init__(self, control: object, why: str) -> None:
        super().__init__(f"{type(control).__name__} was rejected: {why}")
        self.control = control
        self.why = why


@final
class WouldDeadlockError(FitbusError):
    """A handler, or an event loop's thread, waited for what can only come when it goes on."""


@final
class WrongThreadError(FitbusError):
    """The state of a live run was asked for where it may be donated at any moment."""


@final
class RunCancelledError(FitbusError):
    """Raised by `Publisher.boundary` in the training thread after the run was cancelled."""


@final
class RunEndedError(FitbusError):
    """The run, or the bus, ended before the event that was waited for.

    Attributes:
        run: The id of the run, or None for a whole bus.
    """

    def __init__(self, run: str | None, waited_for: str) -> None:
        subject = "the bus was closed" if run is None else f"run {run!r} ended"
        super().__init__(f"{subject} before {waited_for}")
        self.run = run


@final
class TrainerBusyError(FitbusError):
    """A trainer was used while one of its runs is live: one call at a time."""


@final
class StateLostError(FitbusError):
    """A step failed after its state was donated, and there is no snapshot to go back to."""


@final
class ThreadStuckError(FitbusError):
    """The training thread did not end within the grace period.

    Attributes:
        activity: What the thread was in.
        grace_s: How long was waited, in seconds.
    """

    def __init__(self, activity: str, grace_s: float) -> None:
        super().__init__(
            f"the training thread is still {activity}, {grace_s:g} s (grace_s) after it was asked"
            " to end; the trainer can be used again once that returns"
        )
        self.activity = activity
        self.grace_s = grace_s


@final
class HandlerTimeoutError(FitbusError, TimeoutError):
    """A handler did not return within its `timeout`."""


@final
class DataError(FitbusError, ValueError):
    """Data can't be trained on: the message names the argument and what was found.

    Attributes:
        argument: The name of the argument at fault.
    """

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(f"{argument}: {problem}")
        self.argument = argument


@final
class ProcessDiedError(FitbusError):
    """A child process ended before its training did: killed, out of memory, crashed.

    Attributes:
        pid: What its id was.
        status: Its exit status; of one that a signal ended, that signal's number, negative.
        lines: The last lines that it wrote to its stderr.
    """

    def __init__(self, problem: str, pid: int, status: int, lines: Sequence[str]) -> None:
        super().__init__(f"child process {pid} {problem}")
        self.pid, self.status, self.lines = pid, status, tuple(lines)


@final
class ChildError(FitbusError):
    """A factory, or a training, raised in a child process; the traceback there is in the notes.

    Attributes:
        kind: The type of what it raised, by its module and name.
        message: What that says.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind, self.message = kind, message


@final
class ElsewhereError(FitbusError, AttributeError):
    """A callback asked for what only the training's own process has.

    Attributes:
        what: What it asked for.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} is in the child process; give what needs it to the Training that the factory"
            " returns, so that it runs there"
        )
        self.what = what


@final
class JournalError(FitbusError):
    """A journal is damaged, or is none: the message names the file and the offset.

    Attributes:
        path: The file, or the directory.
        offset: Where in the file the frame at fault begins, in bytes.
    """

    def __init__(self, path: os.PathLike[str], offset: int, problem: str) -> None:
        super().__init__(f"{os.fspath(path)}, offset {offset}: {problem}")
        self.path = os.fspath(path)
        self.offset = offset


@final
class ReplayError(FitbusError, AttributeError):
    """A callback asked a replay for what only training has, such as parameters.

    Attributes:
        what: What it asked for.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"{what} isn't there in a replay, where nothing is trained; try this in a short `fit`"
        )


@final
class ServiceError(FitbusError):
    """A service can't be reached, or refuses what a client asked for.

    Attributes:
        status: The HTTP status of its answer; None without one.
        why: What it said; empty without an answer.
    """

    def __init__(self, problem: str, status: int | None = None, why: str = "") -> None:
        super().__init__(problem if status is None else f"{problem}: {status}, {why}")
        self.status = status
        self.why = why


@final
class BusClosedError(FitbusError):
    """The bus was closed: it takes no further handlers and opens no further streams."""


def one_of(values: Iterable[object]) -> str:
    """Says which values are allowed, for the end of an error's message."""
    return "allowed are " + ", ".join(repr(value) for value in values)
