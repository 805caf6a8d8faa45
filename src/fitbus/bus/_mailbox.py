"""A bounded buffer of events, and what it does when it is full."""

from __future__ import annotations

from collections import deque
from typing import Any, TypeAlias, final

from fitbus.bus._options import Overflow
from fitbus.events import Event, Lagged, TrainEnd

__all__ = ["Item", "Mailbox", "Marker"]


class Marker:
    """What stands in a mailbox between events: takes no room, is never dropped."""


@final
class _Lag(Marker):
    """Losses in a row."""

    def __init__(self, event: Event, made: Lagged | None = None) -> None:
        self.count = 1
        self.first = self.last = event
        self.made = made

    def add(self, event: Event) -> None:
        self.count += 1
        if event.seq < self.first.seq:
            self.first = event
        else:
            self.last = event


Item: TypeAlias = Event | Marker


@final
class Mailbox:
    """Holds events for one subscriber, in order, up to `size`. Its owner's lock guards it.

    Beyond `size`, batch-level events give way first, and `TrainEnd` always fits. What is lost is
    counted, and becomes a `Lagged` in its place if the subscriber asked for those.

    `"block"` holds twice its size, since training can be held at a boundary only; what would come
    after that is lost.

    Attributes:
        published: Events that came in.
        dropped: Events that were lost.
        taken: Events that the subscriber took out.
    """

    def __init__(
        self, subscriber: str, size: int, overflow: Overflow, *, wants_lagged: bool
    ) -> None:
        self._subscriber = subscriber
        self._size = size
        self._overflow = overflow
        self._wants_lagged = wants_lagged
        self._limit = {"block": 2 * size, "latest": 1}.get(overflow, size)
        self._queue: deque[Item] = deque()
        # Older than all of `_queue`: events that stayed while batch-level ones around them went.
        self._kept: deque[Item] = deque()
        self._lag: _Lag | None = None  # what was lost before everything that is still here
        self._count = 0
        self.published = 0
        self.dropped = 0
        self.taken = 0

    def put(self, event: Event) -> bool:
        """Takes an event in, or loses one: this or another, as the policy says. Never blocks.

        Returns:
            Whether it now holds `size` events or more.
        """
        self.published += 1
        count = self._count
        if count < self._limit:
            self._queue.append(event)
            self._count = count = count + 1
            return count >= self._size
        self._put_into_full(event)
        return True

    def put_marker(self, marker: Marker) -> None:
        """Takes in what is no event."""
        self._queue.append(marker)

    def put_loss(self, loss: Lagged) -> None:
        """Counts events that were lost before they could come in."""
        self.published += loss.count
        self.dropped += loss.count
        if self._wants_lagged:
            self._queue.append(_Lag(loss, made=loss))

    def take(self) -> Item | None:
        """Takes out what came first; None if nothing is there."""
        if self._lag is not None:
            lag, self._lag = self._lag, None
            return self._lagged(lag)
        if self._kept:
            item = self._kept.popleft()
        elif self._queue:
            item = self._queue.popleft()
        else:
            return None
        if isinstance(item, Marker):
            return self._lagged(item) if isinstance(item, _Lag) else item
        self._count -= 1
        self.taken += 1
        return item

    def take_some(self, most: int) -> list[Item]:
        """Takes out what comes first, up to a number of items; at least one if any is there."""
        if self._lag is None and not self._kept and len(self._queue) <= most:
            items = [*self._queue]
            if not any(isinstance(item, Marker) for item in items):
                self._queue.clear()
                self.taken += self._count
                self._count = 0
                return items
        taken: list[Item] = []
        while len(taken) < most and (item := self.take()) is not None:
            taken.append(item)
        return taken

    def give_up(self, events: int) -> None:
        """Counts events that were taken out, and then not handled, as lost."""
        self.taken -= events
        self.dropped += events

    def take_event(self) -> Event | None:
        """Takes out what came first if it is an event, a `Lagged` included; else None."""
        if self._lag is None:
            source = self._kept or self._queue
            if not source or (isinstance(source[0], Marker) and not isinstance(source[0], _Lag)):
                return None
        item = self.take()
        assert isinstance(item, Event)
        return item

    def clear(self) -> list[Marker]:
        """Loses all events that wait; returns the markers among them."""
        markers = [i for i in (*self._kept, *self._queue) if isinstance(i, Marker)]
        self.dropped += self._count
        self._count = 0
        self._kept.clear()
        self._queue.clear()
        self._lag = None
        return [marker for marker in markers if not isinstance(marker, _Lag)]

    @property
    def full(self) -> bool:
        """Whether it holds `size` events or more."""
        return self._count >= self._size

    def __len__(self) -> int:
        """How many events wait."""
        return self._count

    def __bool__(self) -> bool:
        """Whether anything waits, markers included."""
        return bool(self._queue or self._kept or self._lag)

    def _put_into_full(self, event: Event) -> None:
        if isinstance(event, TrainEnd):
            pass
        elif self._overflow == "latest":
            self._evict_for_latest(event)
        elif self._overflow == "drop_oldest":
            if not self._evict_oldest(event):
                return
        elif not self._evict_newest(event):
            return
        self._queue.append(event)
        self._count += 1

    def _evict_oldest(self, event: Event) -> bool:
        """Makes room at the front. False if it is the incoming event that gives way."""
        queue = self._queue
        while queue and not _is_batch_level(queue[0]):
            self._kept.append(queue.popleft())
        if queue:
            self._lose_before(queue.popleft())
            return True
        if event.batch_level:
            self._lose_after(event)
            return False
        oldest = next((i for i, item in enumerate(self._kept) if _may_go(item)), None)
        if oldest is not None:
            self._lose_before(self._kept[oldest])
            del self._kept[oldest]
        return True

    def _evict_newest(self, event: Event) -> bool:
        """Loses the incoming event, or the newest batch-level one if that isn't batch-level."""
        if not event.batch_level:
            for place in range(len(self._queue) - 1, -1, -1):
                if _is_batch_level(item := self._queue[place]):
                    self._count -= 1
                    self._lose_at(place, item)
                    return True
        self._lose_after(event)
        return False

    def _evict_for_latest(self, event: Event) -> None:
        """Loses what the event replaces: a batch-level one replaces only its like."""
        keep: deque[Item] = deque()
        for item in self._queue:
            if _is_batch_level(item) or (not event.batch_level and _may_go(item)):
                self._lose_before(item)
            else:
                keep.append(item)
        self._queue = keep

    def _lose_before(self, item: Item) -> None:
        assert isinstance(item, Event)
        self.dropped += 1
        self._count -= 1
        if self._wants_lagged:
            if self._lag is None:
                self._lag = _Lag(item)
            else:
                self._lag.add(item)

    def _lose_after(self, event: Event) -> None:
        self.dropped += 1
        if self._wants_lagged:
            last = self._queue[-1] if self._queue else None
            if isinstance(last, _Lag):
                last.add(event)
            else:
                self._queue.append(_Lag(event))

    def _lose_at(self, place: int, item: Item) -> None:
        assert isinstance(item, Event)
        self.dropped += 1
        if not self._wants_lagged:
            del self._queue[place]
            return
        after = self._queue[place + 1] if place + 1 < len(self._queue) else None
        if isinstance(after, _Lag):
            after.add(item)
            del self._queue[place]
        else:
            self._queue[place] = _Lag(item)

    def _lagged(self, lag: _Lag) -> Lagged:
        if lag.made is not None:
            return lag.made
        last = lag.last
        return Lagged(
            run=last.run,
            time=last.time,
            step=last.step,
            epoch=last.epoch,
            subscriber=self._subscriber,
            count=lag.count,
            first_seq=lag.first.seq,
            last_seq=last.seq,
        )


def _is_batch_level(item: Any) -> bool:
    return isinstance(item, Event) and item.batch_level


def _may_go(item: Item) -> bool:
    return isinstance(item, Event) and not isinstance(item, TrainEnd)
