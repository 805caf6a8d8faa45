"""The warning that names who holds training up: when it comes, what it says, and how seldom."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from fitbus import BatchEnd, Bus, EpochEnd, Event, Subscription
from fitbus.bus import Hook, Options


class Looking:
    """A run whose time and waits are given, and the warnings that come."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        self.bus = Bus()
        self.publisher = self.bus.publisher()
        self.holdups = self.publisher.standstill.holdups

    def __call__(self, at_s: float, **held_s: float) -> list[str]:
        """Looks so long after the beginning, training having waited so long until then."""
        ledger = self.publisher.ledger
        for subscription in self.bus.subscriptions:
            if subscription.name in held_s:
                more = held_s[subscription.name] - ledger.held_s(subscription)
                ledger.charge(subscription, more)
        self._caplog.clear()
        self.holdups.look(ledger.began + at_s)
        records = [r for r in self._caplog.records if r.name == "fitbus"]
        assert all(record.levelno == logging.WARNING for record in records)
        return [record.getMessage() for record in records]


@pytest.fixture
def look(caplog: pytest.LogCaptureFixture) -> Looking:
    return Looking(caplog)


def nothing(event: Event) -> None: ...


async def anothing(event: Event) -> None: ...


@pytest.mark.parametrize("handler", [nothing, anothing], ids=["def", "async def"])
def test_it_names_the_subscriber_and_its_share(look: Looking, handler: Callable[..., Any]) -> None:
    """And the run, the times, and what can be done."""
    look.bus.add(handler, BatchEnd, wait=True, name="slow")
    look.bus.add(handler, BatchEnd, wait=True, name="fast")
    (line,) = look(28.5, slow=12.3, fast=0.2)
    assert line == (
        "run 'run-1' waits for handler 'slow' 43 % of its time (12.3 s of 28.5 s): make it faster,"
        " make it concurrent (wait=False), or take every n-th event (every=...)"
    )


@pytest.mark.parametrize(("held_s", "of_s", "told"), [(0.9, 2, 0), (1, 10, 1), (9.9, 100, 0)])
def test_it_takes_a_second_and_a_tenth(
    look: Looking, held_s: float, of_s: float, told: int
) -> None:
    look.bus.add(nothing, BatchEnd, name="slow")
    assert len(look(of_s, slow=held_s)) == told


def test_what_works_at_begins_and_ends_may_take_half(look: Looking) -> None:
    """It validates, it saves: that takes time on purpose."""
    look.bus.add(nothing, EpochEnd, name="saves")
    assert look(100, saves=49) == []
    (line,) = look(200, saves=102)
    assert line == (
        "run 'run-1' waits for handler 'saves' 51 % of its time (102.0 s of 200.0 s): make it"
        " faster, or make it concurrent (wait=False)"
    )


def test_it_comes_again_only_for_twice_the_share_and_a_minute_later(look: Looking) -> None:
    look.bus.add(nothing, BatchEnd, name="slow")
    assert len(look(10, slow=2)) == 1  # 20 %
    assert look(20, slow=18) == []  # 90 %, but too soon
    assert look(100, slow=30) == []  # late enough, but 30 %
    (again,) = look(200, slow=90)
    assert "'slow' 45 % of its time" in again
    assert look(10_000, slow=8_000) == []  # 80 % isn't twice that


def test_each_subscriber_has_its_own(look: Looking) -> None:
    look.bus.add(nothing, BatchEnd, name="one")
    look.bus.add(nothing, BatchEnd, name="two")
    assert ["'one'" in line for line in look(10, one=3, two=0.5)] == [True]
    assert ["'two'" in line for line in look(20, one=6, two=4)] == [True]


def test_each_run_has_its_own(look: Looking, caplog: pytest.LogCaptureFixture) -> None:
    """Of a subscriber of both, only the time for which that run waited."""
    look.bus.add(nothing, BatchEnd, name="slow")
    other = look.bus.publisher()
    assert len(look(10, slow=3)) == 1
    caplog.clear()
    other.standstill.holdups.look(other.ledger.began + 10)
    assert caplog.records == []


def test_a_full_mailbox_is_told_at_once_and_its_share_later(
    look: Looking, caplog: pytest.LogCaptureFixture
) -> None:
    subscription = look.bus.add(anothing, BatchEnd, wait=False, name="slow", buffer_size=8)
    for _ in range(2):
        look.holdups.no_room(subscription)
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("run 'run-1' is held: subscriber 'slow' has no room")
    (line,) = look(10, slow=3)
    assert line == (
        "run 'run-1' waits for room in the mailbox of 'slow' 30 % of its time (3.0 s of 10.0 s):"
        " make it faster, choose another overflow, or take every n-th event (every=...)"
    )


def test_the_hooks_of_a_callback_have_a_remedy_of_their_own(look: Looking) -> None:
    """They have neither `wait` nor `every`."""
    hook = Hook(nothing, is_async=False, wait=True)
    subscription: Subscription[Any] = look.bus.attach_subscription(
        [BatchEnd], Options(), name="Slow", hooks={BatchEnd: hook}
    )
    assert subscription.has_hooks
    (line,) = look(10, Slow=3)
    assert line == (
        "run 'run-1' waits for handler 'Slow' 30 % of its time (3.0 s of 10.0 s): make it faster,"
        " or its hooks of batches `async def`: training doesn't wait for these"
    )


def test_it_looks_seldom(look: Looking) -> None:
    """Not before there can be anything, and then five times a second."""
    began = look.publisher.ledger.began
    assert look.holdups.look_at == began + 1
    look(5)
    assert look.holdups.look_at == pytest.approx(began + 5.2)
