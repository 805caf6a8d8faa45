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
    """Events of these types that are not here: nobody was subscribed, or they are too large.

    They have the places from `seq` to `last_seq` that no event has.
    """

    __slots__ = ("count", "kinds", "last_seq", "seq")

    def __init__(self, seq: int, last_seq: int, kinds: tuple[type[Event], ...], count: int) -> None:
        self.seq = seq
        self.last_seq = last_seq
        self.kinds = kinds
        self.count = count


@final
class Tail:
    """Keeps the latest events of a run, up to a number, and knows which ones it lacks.

    Args:
        size: How many events it keeps.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._events: deque[Event] = deque(maxlen=size)
        self._gaps: deque[_Gap] = deque()
        self._start = 0  # each place from here on is an event's, or in a gap

    def begin(self, seq: int) -> None:
        """Says that the events from the last one here to this place were another process'."""
        if not self._events:
            self._start = seq

    def append(self, event: Event) -> None:
        """Keeps an event."""
        if type(event) is PredictBatchEnd:  # its outputs would hold the memory of whole batches
            self.skip(event.seq, event.seq, _PREDICTED, 1)
            return
        kept = self._events
        if len(kept) == self._size:
            self._start = kept[0].seq + 1
        kept.append(event)

    def extend(self, events: Sequence[Event]) -> None:
        """Keeps several, none of a prediction."""
        kept = self._events
        gone = len(kept) + len(events) - self._size
        if gone > 0:
            last = kept[gone - 1] if gone <= len(kept) else events[gone - len(kept) - 1]
            self._start = last.seq + 1
        kept.extend(events)

    def skip(self, first: int, last: int, kinds: tuple[type[Event], ...], count: int) -> None:
        """Notes places, from one `seq` to another, of events that are not kept.

        Args:
            first: The first place.
            last: The last one.
            kinds: Their types.
            count: How many; the places between that are not theirs are those of events.
        """
        gaps = self._gaps
        gap = gaps[-1] if gaps else None
        if gap is not None:
            if gap.kinds is not kinds and set(kinds) != set(gap.kinds):
                without_events = gap.count == first - gap.seq and count == last - first + 1
                if without_events:
                    gap.kinds = tuple({*gap.kinds, *kinds})
                else:
                    gap = None
            if gap is not None:
                gap.last_seq = last
                gap.count += count
                return
        gaps.append(_Gap(first, last, kinds, count))
        while gaps and gaps[0].last_seq < self._start:
            gaps.popleft()
        if len(gaps) > self._size:
            self._start = gaps.popleft().last_seq + 1

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

        def lost(first: int, last: int) -> Lagged:
            count = last - first + 1
            return Lagged(
                run=run, subscriber=subscriber, count=count, first_seq=first, last_seq=last
            )

        if seq + 1 < self._start:
            yield lost(seq + 1, self._start - 1)
        gaps = [g for g in self._gaps if any(issubclass(k, tuple(kinds)) for k in g.kinds)]
        place = max(seq + 1, self._start)
        for event in (*self._events, None):
            end = event.seq if event is not None else max((g.last_seq + 1 for g in gaps), default=0)
            for gap in gaps:
                first, last = max(gap.seq, place), min(gap.last_seq, end - 1)
                if first <= last:
                    yield lost(first, last)
            if event is not None and event.seq >= place:
                place = event.seq + 1
                if isinstance(event, tuple(kinds)):
                    yield event
