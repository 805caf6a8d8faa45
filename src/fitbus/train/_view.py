"""An object that has what it lists, and says so when it is asked for something else."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

__all__ = ["View"]


class View:
    """Refuses to set, and to read, what it doesn't have, naming what there is.

    Subclasses declare `__slots__`, and properties and methods for everybody.

    Attributes:
        called: What users call it, for messages.
    """

    __slots__ = ()
    called: ClassVar[str]

    if not TYPE_CHECKING:  # for type checkers, any name would exist

        def __getattr__(self, name: str) -> Any:
            if hasattr(type(self), name):  # a property that raised this error has its own words
                return object.__getattribute__(self, name)
            raise self._unknown(name, "it has", lambda _: True)

        def __setattr__(self, name: str, value: object) -> None:
            part = getattr(type(self), name, None)
            if not (name in self.__slots__ or getattr(part, "fset", None)):
                raise self._unknown(
                    name, "what can be set is", lambda part: bool(getattr(part, "fset", None))
                )
            object.__setattr__(self, name, value)

    def _unknown(self, name: str, there_is: str, shown: Callable[[object], bool]) -> AttributeError:
        kind = type(self)
        names = [
            known
            for known in dir(kind)
            if not known.startswith("_") and known != "called" and shown(getattr(kind, known))
        ]
        return AttributeError(
            f"{self.called}.{name}: {_meant(name, names)}{there_is} {', '.join(names)}",
            name=name,
            obj=self,
        )


def _meant(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, names, 1, 0.7)
    return f"did you mean {close[0]!r}? " if close and close[0] != name else ""
