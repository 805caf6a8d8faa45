"""The mailbox against a plain list: every policy, markers, losses told in place, and counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fitbus import BatchBegin, EpochEnd, Event, Lagged, TrainEnd
from fitbus.bus import Overflow
from fitbus.bus._mailbox import Mailbox, Marker

KINDS: dict[str, Callable[[int], Event]] = {
    "batch": lambda seq: BatchBegin(run="r", seq=seq, step=seq, batch=seq),
    "epoch": lambda seq: EpochEnd(run="r", seq=seq, step=seq),
    "end": lambda seq: TrainEnd(run="r", seq=seq, step=seq),
}
POLICIES: list[Overflow] = ["block", "drop_oldest", "drop_newest", "latest"]


@dataclasses.dataclass
class Loss:
    """Lost events, at the place where they were."""

    count: int
    first: int
    last: int


Entry = Event | Marker | Loss


class Model:
    """What a mailbox is to do, as simply as it can be said; losses stay where they happened."""

    def __init__(self, size: int, overflow: Overflow) -> None:
        self.overflow = overflow
        self.limit = {"block": 2 * size, "latest": 1}.get(overflow, size)
        self.entries: list[Entry] = []
        self.published = self.dropped = self.taken = 0

    @property
    def waiting(self) -> list[Event]:
        return [entry for entry in self.entries if isinstance(entry, Event)]

    def put(self, event: Event) -> None:
        self.published += 1
        losers = [] if len(self.waiting) < self.limit else self.losers(event)
        self.entries.append(event)
        for loser in losers:
            self.dropped += 1
            place = next(i for i, entry in enumerate(self.entries) if entry is loser)
            self.entries[place] = Loss(1, loser.seq, loser.seq)

    def losers(self, event: Event) -> list[Event]:
        """Who gives way in a full mailbox."""
        if isinstance(event, TrainEnd):
            return []
        batches = [e for e in self.waiting if e.batch_level]
        others = [e for e in self.waiting if not isinstance(e, TrainEnd)]
        if self.overflow == "latest":
            return batches if event.batch_level else others
        if self.overflow == "drop_oldest":
            return (batches or ([event] if event.batch_level else others))[:1]
        return [event] if event.batch_level or not batches else batches[-1:]

    def put_loss(self, loss: Loss) -> None:
        self.published += loss.count
        self.dropped += loss.count
        self.entries.append(loss)

    def take(self, *, tells: bool) -> Entry | None:
        losses: list[Loss] = []
        while self.entries and isinstance(entry := self.entries[0], Loss):
            losses.append(entry)
            del self.entries[0]
        if losses and tells:
            return Loss(
                sum(loss.count for loss in losses),
                min(loss.first for loss in losses),
                max(loss.last for loss in losses),
            )
        if not self.entries:
            return None
        entry = self.entries.pop(0)
        self.taken += isinstance(entry, Event)
        return entry

    def next_is_marker(self) -> bool:
        rest = [entry for entry in self.entries if not isinstance(entry, Loss)]
        return bool(rest) and isinstance(rest[0], Marker)


def as_entry(item: Any) -> Entry | None:
    if isinstance(item, Lagged):
        assert (item.run, item.seq, item.subscriber) == ("r", -1, "me")
        return Loss(item.count, item.first_seq, item.last_seq)
    assert item is None or isinstance(item, Event | Marker)
    return item


class MailboxMachine(RuleBasedStateMachine):
    """Puts and takes at random, and compares."""

    @initialize(
        size=st.integers(1, 4), overflow=st.sampled_from(POLICIES), wants_lagged=st.booleans()
    )
    def start(self, size: int, overflow: Overflow, *, wants_lagged: bool) -> None:
        self.size = size
        self.tells = wants_lagged
        self.mailbox = Mailbox("me", size, overflow, wants_lagged=wants_lagged)
        self.model = Model(size, overflow)
        self.seq = 0
        self.given_up = 0
        self.last_taken: list[Event] = []

    def stamped(self, kind: str) -> Event:
        event = KINDS[kind](self.seq)
        self.seq += 1
        return event

    @rule(kinds=st.lists(st.sampled_from(["batch", "batch", "epoch", "end"]), max_size=6))
    def put(self, kinds: list[str]) -> None:
        for kind in kinds:
            event = self.stamped(kind)
            self.model.put(event)
            assert self.mailbox.put(event) is (len(self.model.waiting) >= self.size)

    @rule()
    def put_marker(self) -> None:
        marker = Marker()
        self.model.entries.append(marker)
        self.mailbox.put_marker(marker)

    @rule(count=st.integers(1, 3))
    def put_loss(self, count: int) -> None:
        loss = Loss(count, self.seq, self.seq + count - 1)
        self.seq += count
        self.model.put_loss(loss)
        self.mailbox.put_loss(
            Lagged(
                run="r",
                subscriber="me",
                count=loss.count,
                first_seq=loss.first,
                last_seq=loss.last,
            )
        )

    @rule()
    def take(self) -> None:
        self.compare(self.mailbox.take(), self.model.take(tells=self.tells))

    @rule(most=st.integers(1, 5))
    def take_some(self, most: int) -> None:
        """One item of any kind, or several events; none only where none is."""
        items = self.mailbox.take_some(most)
        assert len(items) <= most
        if len(items) != 1:
            assert all(isinstance(as_entry(item), Event) for item in items)
        for item in items:
            self.compare(item, self.model.take(tells=self.tells))
        if not items:
            assert self.model.take(tells=self.tells) is None

    @rule()
    def take_event(self) -> None:
        """The next event, or what tells of a loss; a marker stays where it is."""
        losses = [entry for entry in self.model.entries[:1] if isinstance(entry, Loss)]
        if self.model.next_is_marker() and not (losses and self.tells):
            assert self.mailbox.take_event() is None
        else:
            self.compare(self.mailbox.take_event(), self.model.take(tells=self.tells))

    @rule()
    def give_up(self) -> None:
        """What was taken and can't be handled counts as lost."""
        self.mailbox.give_up(len(self.last_taken))
        self.model.taken -= len(self.last_taken)
        self.model.dropped += len(self.last_taken)
        self.last_taken.clear()

    @precondition(lambda self: self.model.entries)
    @rule()
    def clear(self) -> None:
        markers = [entry for entry in self.model.entries if isinstance(entry, Marker)]
        self.model.dropped += len(self.model.waiting)
        self.model.entries.clear()
        assert self.mailbox.clear() == markers
        assert self.mailbox.take() is None

    def compare(self, item: Any, expected: Entry | None) -> None:
        found = as_entry(item)
        assert found == expected
        if isinstance(found, Event):
            assert found is expected
            self.last_taken.append(found)

    @invariant()
    def counts_add_up(self) -> None:
        mailbox, model = self.mailbox, self.model
        assert len(mailbox) == len(model.waiting)
        assert mailbox.full is (len(mailbox) >= self.size)
        assert (mailbox.published, mailbox.dropped, mailbox.taken) == (
            model.published,
            model.dropped,
            model.taken,
        )
        assert mailbox.published == mailbox.dropped + mailbox.taken + len(mailbox)
        told = [e for e in model.entries if self.tells or not isinstance(e, Loss)]
        assert bool(mailbox) is bool(told)

    def teardown(self) -> None:
        if not hasattr(self, "mailbox"):
            return
        while (expected := self.model.take(tells=self.tells)) is not None:
            self.compare(self.mailbox.take(), expected)
        assert self.mailbox.take() is None
        assert len(self.mailbox) == 0


TestMailboxMachine = pytest.mark.slow(MailboxMachine.TestCase)
TestMailboxMachine.settings = settings(
    deadline=None,
    max_examples=200,
    stateful_step_count=30,
    suppress_health_check=[HealthCheck.too_slow],
)
