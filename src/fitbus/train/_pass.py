"""One pass over batches that may have to be waited for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, final

if TYPE_CHECKING:
    from fitbus.train._stateful import Stateful

__all__ = ["Interrupted", "Pass", "Pull", "Pulled"]


class Interrupted(Exception):
    """Raised by a source in the training thread: what it waited for was called off meanwhile."""


class Pulled(Protocol):
    """The items of an async iterator, in the training thread."""

    def __next__(self) -> Any:
        """The next one; after `Interrupted` it is still to come."""
        ...

    def close(self) -> None:
        """Asks for no more; raises what closing the iterator raised."""
        ...


class Pull(Protocol):
    """Turns an async iterator into one of the training thread."""

    def __call__(self, items: AsyncIterator[Any], *, owned: bool) -> Pulled:
        """The items; closes the iterator in the end if that is `owned`."""
        ...


@final
class Pass(Iterator[Any]):
    """Items, each turned into something. Unlike a generator it goes on after an interruption.

    Args:
        items: The items.
        turn: What is made of each.
        close: Lets go of what they are read from.
        stateful: That, if it can say where it is, and the data themselves can't.
    """

    def __init__(
        self,
        items: Iterator[Any] | Pulled,
        turn: Callable[[Any], Any],
        close: Callable[[], object] | None = None,
        stateful: Stateful | None = None,
    ) -> None:
        self._items = items
        self._turn = turn
        self._close = close
        self.stateful = stateful

    def __next__(self) -> Any:
        """The next item, turned."""
        return self._turn(next(self._items))

    def close(self) -> None:
        """Lets go of what it reads from."""
        if self._close is not None:
            self._close()
