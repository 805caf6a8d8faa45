"""A bounded buffer of events, and what it does when it is full."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any, TypeAlias, final

from fitbus.bus._options import Overflow
from fitbus.events import Event, Lagged, TrainEnd

__all__ = ["Item", "Mailbox", "Marker"]


class Marker:
    """What stands in a mailbox between events: takes no room, is never dropped."""


@final
class _Lag(Marker):
    """Losses in a row. Of several runs: the count of all, and the range of the last one's."""

    def __init__(self, like: Event, count: int, first_seq: int, last_seq: int) -> None:
        self.like = like
        self.count = count
        self.first_seq = first_seq
        self.last_seq = last_seq

    @classmethod
    def of(cls, event: Event) -> _Lag:
        return cls(event, 1, event.seq, event.seq)

    def add(self, other: _Lag) -> None:
        self.count += other.count
        if self.like.run != other.like.run:
            self.first_seq, self.last_seq = other.first_seq, other.last_seq
        else:
            self.first_seq = min(self.first_seq, other.first_seq)
            self.last_seq = max(self.last_seq, other.last_seq)
        self.like = other.like


Item: TypeAlias = Event | Marker


@final
class Mailbox:
    """Holds events for one subscriber, in order, up to `size`. Its owner's lock guards it.

    Beyond `size`, batch-level events give way first, and `TrainEnd` always fits. What is lost is
    counted, and becomes a `Lagged` in its place if the subscriber asked for those.

    `"block"` holds twice its size, since training can be held at a boundary only; of events that
    come one by one, what would come after that is lost. Those that a loop publishes together it
    holds all: they are what was in flight when the loop was held.

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
        if self._count < self._limit:
            self._queue.append(event)
            self._count += 1
            return self._count >= self._size
        self._put_into_full(event)
        return self._count >= self._size

    def put_all(self, events: Sequence[Event]) -> bool:
        """Takes several events in: as `put` each, but that `"block"` holds them all."""
        if self._overflow == "latest" and all(event.batch_level for event in events):
            *others, last = events  # one look at what the last one replaces does for all
            self.published += len(others)
            if self._wants_lagged:
                self._queue.extend(others)
                self._count += len(others)
            else:
                self.dropped += len(others)
            self.put(last)
        elif self._count + len(events) > self._limit and self._overflow != "block":
            for event in events:
                self.put(event)
        else:
            self.published += len(events)
            self._queue.extend(events)
            self._count += len(events)
        return self._count >= self._size

    def put_marker(self, marker: Marker) -> None:
        """Takes in what is no event."""
        self._queue.append(marker)

    def put_loss(self, loss: Lagged) -> None:
        """Counts events that were lost before they could come in."""
        self.published += loss.count
        self.dropped += loss.count
        if self._wants_lagged:
            self._queue.append(_Lag(loss, loss.count, loss.first_seq, loss.last_seq))

    def take(self) -> Item | None:
        """Takes out what came first; None if nothing is there."""
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
        """Takes out what comes first: events up to a number, or by itself what isn't just that.

        Returns:
            Events in a row that have come in; or one item, as `take` does; or nothing.
        """
        queue = self._queue
        if self._kept or (queue and isinstance(queue[0], Marker)):
            item = self.take()
            return [] if item is None else [item]
        count = min(most, len(queue))
        if len(queue) != self._count:  # there are markers: up to the first one
            head = enumerate(islice(queue, count))
            count = next((place for place, item in head if isinstance(item, Marker)), count)
        taken = [queue.popleft() for _ in range(count)]
        self._count -= count
        self.taken += count
        return taken

    def give_up(self, events: int) -> None:
        """Counts events that were taken out, and then not handled, as lost."""
        self.taken -= events
        self.dropped += events

    def take_event(self) -> Event | None:
        """Takes out what came first if it is an event, a `Lagged` included; else None."""
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
        return bool(self._queue or self._kept)

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
        queue, kept = self._queue, self._kept
        while queue and not _is_batch_level(queue[0]):
            kept.append(queue.popleft())
        if queue:
            self._count -= 1
            self._lose_into(kept, queue.popleft())
            return True
        if event.batch_level:
            self._lose_into(kept, event)
            return False
        for place, item in enumerate(kept):
            if _may_go(item):
                self._count -= 1
                self._lose_at(kept, place, item)
                break
        return True

    def _evict_newest(self, event: Event) -> bool:
        """Loses the incoming event, or the newest batch-level one if that isn't batch-level."""
        queue = self._queue
        if not event.batch_level:
            for place in range(len(queue) - 1, -1, -1):
                if _is_batch_level(item := queue[place]):
                    self._count -= 1
                    self._lose_at(queue, place, item)
                    return True
        self._lose_into(queue, event)
        return False

    def _evict_for_latest(self, event: Event) -> None:
        """Loses what the event replaces: a batch-level one replaces only its like."""
        keep: deque[Item] = deque()
        for item in self._queue:
            if _is_batch_level(item) or (not event.batch_level and _may_go(item)):
                self._count -= 1
                self._lose_into(keep, item)
            elif isinstance(item, _Lag) and keep and isinstance(last := keep[-1], _Lag):
                last.add(item)
            else:
                keep.append(item)
        self._queue = keep

    def _lose_into(self, items: deque[Item], lost: Item) -> None:
        """Counts a loss whose place is the end of some items."""
        assert isinstance(lost, Event)
        self.dropped += 1
        if self._wants_lagged:
            last = items[-1] if items else None
            if isinstance(last, _Lag):
                last.add(_Lag.of(lost))
            else:
                items.append(_Lag.of(lost))

    def _lose_at(self, items: deque[Item], place: int, lost: Item) -> None:
        """Counts the loss of an item among others."""
        assert isinstance(lost, Event)
        self.dropped += 1
        if not self._wants_lagged:
            del items[place]
            return
        items[place] = _Lag.of(lost)
        for first, second in ((place, place + 1), (place - 1, place)):
            if first >= 0 and second < len(items):
                one, other = items[first], items[second]
                if isinstance(one, _Lag) and isinstance(other, _Lag):
                    one.add(other)
                    del items[second]

    def _lagged(self, lag: _Lag) -> Lagged:
        """Tells of a loss that came first, and of those that come right after it."""
        while isinstance(more := (self._kept or self._queue or (None,))[0], _Lag):
            lag.add(more)
            (self._kept or self._queue).popleft()
        like = lag.like
        return Lagged(
            run=like.run,
            time=like.time,
            step=like.step,
            epoch=like.epoch,
            subscriber=self._subscriber,
            count=lag.count,
            first_seq=lag.first_seq,
            last_seq=lag.last_seq,
        )


def _is_batch_level(item: Any) -> bool:
    return isinstance(item, Event) and item.batch_level


def _may_go(item: Item) -> bool:
    return isinstance(item, Event) and not isinstance(item, TrainEnd)
