"""Data that can say where they are, and be put there."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NoReturn, final

from fitbus.errors import DataError, FitbusError
from fitbus.train._packing import plain, unpacked

__all__ = ["HOW", "Stateful", "refuse_other"]

# Those of torchdata and of most who write their own, and those of Grain's iterators.
_METHODS = (("state_dict", "load_state_dict"), ("get_state", "set_state"))

HOW = (
    "an object with `__iter__`, `state_dict()` and `load_state_dict(state)`, or Grain's"
    " `get_state()` and `set_state(state)`, which is put back to its place at once"
)


@final
class Stateful:
    """An iterable, or an iterator, that has a pair of methods for its state.

    Args:
        argument: The name of the argument, for messages.
        thing: What has them.
        methods: Their names.
    """

    def __init__(self, argument: str, thing: Any, methods: tuple[str, str]) -> None:
        self._argument = argument
        self._thing = thing
        self._get, self._set = methods
        self._type = type(thing).__qualname__

    @classmethod
    def of(cls, argument: str, thing: Any) -> Stateful | None:
        """What has such methods; None if it hasn't."""
        for methods in _METHODS:
            if all(callable(getattr(thing, name, None)) for name in methods):
                return cls(argument, thing, methods)
        return None

    def ask(self) -> dict[str, Any]:
        """Where it is: a copy, of what a backup can hold.

        Raises:
            DataError: It tells what a backup can't hold.
            Exception: What asking it raised, with a note.
        """
        called = f"`{self._type}.{self._get}()`"
        try:
            state = getattr(self._thing, self._get)()
        except Exception as error:
            error.add_note(
                f"fitbus: {self._argument}: a training that is backed up asks its data where they"
                f" are, and {called} failed; mend it, or leave out it and `{self._set}`"
            )
            raise
        try:
            kept = unpacked(b"".join(plain(state)))
        except FitbusError as error:
            raise DataError(
                self._argument,
                f"{called} tells what can't be kept: {error}. Turn it into these there, and back in"
                f" `{self._set}`",
            ) from None
        return {"type": self._type, "methods": self._get, "state": kept}

    def put(self, told: Mapping[str, Any]) -> None:
        """Puts it where it was when it was asked, in another process maybe.

        Raises:
            DataError: It was another kind of data.
            Exception: What putting it there raised, with a note.
        """
        if (told["type"], told["methods"]) != (self._type, self._get):
            refuse_other(self._argument, told, self._type)
        try:
            getattr(self._thing, self._set)(copy.deepcopy(told["state"]))
        except Exception as error:
            error.add_note(
                f"fitbus: {self._argument}: `{self._type}.{self._set}` couldn't take back what a"
                " backup has of it; give the data that were trained on before, or delete the"
                " backup to begin anew"
            )
            raise


def refuse_other(argument: str, told: Mapping[str, Any], found: str) -> NoReturn:
    """Refuses data that aren't of the kind that was there before.

    Raises:
        DataError: Always.
    """
    raise DataError(
        argument,
        f"a backup has the place in a {told['type']}, by its `{told['methods']}`, and this is"
        f" {found}; give the data that were trained on before, or delete the backup to begin anew",
    )
