"""Errors are values: they can be copied, and sent to other processes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import fitbus
from fitbus import StopTraining, errors
from fitbus.errors import FitbusError, InvalidArgumentError

MADE: dict[str, tuple[Any, ...]] = {
    "InvalidArgumentError": ("epochs", -1, "give a whole number"),
    "InvalidHandlerError": ("handler", print, "give a function of one event"),
    "ControlRejectedError": (StopTraining("enough"), "too late"),
    "RunEndedError": ("run-1", "an EpochEnd came"),
    "ThreadStuckError": ("compiling", 5.0),
    "DataError": ("x", "it has no rows"),
    "ProcessDiedError": ("was killed by SIGKILL", 99, -9, ("the last line",)),
    "ChildError": ("ValueError", "not today"),
    "JournalError": ("journal/000001.journal", 12, "the checksum of a frame doesn't fit"),
}


class OwnError(FitbusError):
    """One of a user's, with arguments of its own."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


KINDS = [getattr(errors, name) for name in errors.__all__]
MADE_ALL = [
    *(kind(*MADE.get(kind.__name__, ("what happened",))) for kind in KINDS),
    OwnError(code=3),
]


def pickled(error: Any, protocol: int = pickle.DEFAULT_PROTOCOL) -> Any:
    return pickle.loads(pickle.dumps(error, protocol))  # noqa: S301  # made here


@pytest.mark.parametrize(
    "again",
    [copy.copy, copy.deepcopy, pickled, lambda error: pickled(error, 2)],
    ids=["copy", "deepcopy", "pickle", "pickle 2"],
)
@pytest.mark.parametrize("error", MADE_ALL, ids=lambda error: type(error).__name__)
def test_each_can_be_copied_and_pickled(error: FitbusError, again: Callable[[Any], Any]) -> None:
    """With its type, its message, its attributes and its notes."""
    error.__notes__ = ["seen in a test"]
    copied = again(error)
    assert copied is not error
    assert type(copied) is type(error)
    assert str(copied) == str(error) != ""
    assert copied.args == error.args
    assert vars(copied) == vars(error)
    assert copied.__notes__ == ["seen in a test"]
    with pytest.raises(type(error)):
        raise copied


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy])
def test_a_copy_has_notes_of_its_own(again: Callable[[Any], Any]) -> None:
    error = errors.BusClosedError("closed")
    error.add_note("one")
    copied = again(error)
    copied.add_note("two")
    assert error.__notes__ == ["one"]


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (InvalidArgumentError("where", lambda event: event, "give a name"), "found"),
        (errors.ControlRejectedError(fitbus.UpdateState(lambda s: s), "too late"), "control"),
    ],
    ids=["a function", "a control that stays in its process"],
)
def test_what_cannot_leave_the_process_is_sent_as_text(error: FitbusError, name: str) -> None:
    """The error does leave it. A copy within the process has the object itself."""
    sent = pickled(error)
    assert str(sent) == str(error)
    assert getattr(sent, name) == repr(getattr(error, name))
    assert {k: v for k, v in vars(sent).items() if k != name} == {
        k: v for k, v in vars(error).items() if k != name
    }
    assert getattr(copy.copy(error), name) is getattr(error, name)
