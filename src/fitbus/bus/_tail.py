"""The latest events of a run, for those who come later."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, final

from fitbus.events import Event, Lagged, PredictBatchEnd

if TYPE_CHECKING:
    from fitbus.bus._subscription import Subscription

__all__ = ["Tail"]

_PREDICTED = (PredictBatchEnd,)


@final
class _Gap:
    """Events of these types that are not here: nobody was subscribed, or they are too large."""

    __slots__ = ("kinds", "last_seq", "seq")

    def __init__(self, first_seq: int, last_seq: int, kinds: tuple[type[Event], ...]) -> None:
        self.seq = first_seq
        self.last_seq = last_seq
        self.kinds = kinds


@final
class Tail:
    """Keeps the latest events of a run, up to a number, and knows which ones it lacks.

    Each `seq` from the oldest entry on is in an entry: an event, or a gap.

    Args:
        size: How many entries it keeps.
    """

    def __init__(self, size: int) -> None:
        self._entries: deque[Event | _Gap] = deque(maxlen=size)
        self._gap: _Gap | None = None  # the last entry, if that is one

    def append(self, event: Event) -> None:
        """Keeps an event."""
        if type(event) is PredictBatchEnd:  # its outputs would hold the memory of whole batches
            self.skip(event.seq, _PREDICTED, 1)
            return
        self._entries.append(event)
        self._gap = None

    def skip(self, seq: int, kinds: tuple[type[Event], ...], count: int) -> None:
        """Notes events, from `seq` on, that were not made since nobody was subscribed."""
        gap = self._gap
        if gap is None:
            gap = self._gap = _Gap(seq, seq, kinds)
            self._entries.append(gap)
        elif gap.kinds is not kinds and not set(kinds).issubset(gap.kinds):
            gap.kinds = (*gap.kinds, *kinds)
        gap.last_seq = seq + count - 1

    def replay(self, stream: Subscription[Any], after: int, run: str) -> None:
        """Puts the events of a run after `after` into a stream. The bus' lock is held."""
        for event in self.after(after, stream.kinds, stream.name, run):
            if isinstance(event, Lagged):
                stream.mailbox.put_loss(event)
            else:
                stream.offer(event)

    def after(
        self, seq: int, kinds: Sequence[type[Event]], subscriber: str, run: str
    ) -> Iterator[Event]:
        """The matching events after `seq`, a `Lagged` in the place of each loss."""
        entries = tuple(self._entries)
        if entries and seq + 1 < (start := entries[0].seq):
            yield Lagged(
                run=run,
                subscriber=subscriber,
                count=start - seq - 1,
                first_seq=seq + 1,
                last_seq=start - 1,
            )
        for entry in entries:
            if isinstance(entry, _Gap):
                if entry.last_seq > seq and any(issubclass(k, tuple(kinds)) for k in entry.kinds):
                    first = max(entry.seq, seq + 1)
                    yield Lagged(
                        run=run,
                        subscriber=subscriber,
                        count=entry.last_seq - first + 1,
                        first_seq=first,
                        last_seq=entry.last_seq,
                    )
            elif entry.seq > seq and isinstance(entry, tuple(kinds)):
                yield entry
