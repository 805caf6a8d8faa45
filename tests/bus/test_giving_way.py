"""What gives way in a full mailbox: batches before epochs, and `TrainEnd` never."""

from __future__ import annotations

from typing import ClassVar

import anyio
import pytest

from fitbus import (
    BatchBegin,
    BatchEnd,
    Bus,
    EpochBegin,
    EpochEnd,
    Event,
    Lagged,
    TrainBegin,
    TrainEnd,
)
from fitbus.bus import Overflow, Publisher
from fitbus.testing import Gate

pytestmark = pytest.mark.anyio

POLICIES: list[Overflow] = ["block", "drop_oldest", "drop_newest", "latest"]
RARE = (TrainBegin, EpochBegin, EpochEnd, TrainEnd)


class Sample(Event):
    """An event of a user's own, as frequent as batches."""

    batch_level: ClassVar[bool] = True


MADE: dict[str, Event] = {
    "T": TrainBegin(epochs=1),
    "e": EpochBegin(),
    "b": BatchBegin(batch=0),
    "B": BatchEnd(batch=0, logs={}, batch_logs={}),
    "E": EpochEnd(logs={}),
    "s": Sample(),
    "F": TrainEnd(logs={}),
}
LETTERS = {type(event): letter for letter, event in MADE.items()}


def publish(publisher: Publisher, letters: str) -> None:
    """Publishes an event for each letter, without a boundary."""
    for letter in letters:
        publisher.publish(MADE[letter])


async def left_of(letters: str, overflow: Overflow, size: int, *kinds: type[Event]) -> list[Event]:
    """What a stream that read nothing meanwhile hands out in the end."""
    bus = Bus()
    publisher = bus.publisher()
    async with bus.subscribe(*(kinds or (Event,)), overflow=overflow, buffer_size=size) as stream:
        publish(publisher, letters)
        await bus.aclose()
        with anyio.fail_after(30):
            return [event async for event in stream]


def spelled(events: list[Event]) -> str:
    """As letters; a loss as the number of events lost."""
    return "".join(
        str(event.count) if isinstance(event, Lagged) else LETTERS[type(event)] for event in events
    )


@pytest.mark.parametrize(
    ("overflow", "letters", "left"),
    [
        # The oldest batch goes, wherever it stands; the loss is told there.
        ("drop_oldest", "TebBbB", "Te3B"),
        ("drop_oldest", "TebB", "Te1B"),
        ("drop_oldest", "bTeB", "1TeB"),
        ("drop_oldest", "TebE", "Te1E"),
        # With no batch left, a batch that comes gives way itself, and an epoch the oldest other.
        ("drop_oldest", "TeEbb", "TeE2"),
        ("drop_oldest", "TeEe", "1eEe"),
        # The newest goes: the one that comes, unless it can take a batch's place.
        ("drop_newest", "TebBbB", "Teb3"),
        ("drop_newest", "bBTE", "b1TE"),
        ("drop_newest", "bBTEeE", "2TEe1"),
        ("drop_newest", "TeEe", "TeE1"),
        # A batch replaces batches, and an epoch everything.
        ("latest", "ebBbB", "e3B"),
        ("latest", "ebBE", "3E"),
        ("latest", "ebEbEb", "4Eb"),
        # Room for twice the size, then as with "drop_newest".
        ("block", "TebBbBbB", "TebBbB2"),
        ("block", "TebBbBE", "TebBb1E"),
    ],
)
async def test_batch_level_events_give_way_first(
    overflow: Overflow, letters: str, left: str
) -> None:
    """In a mailbox of three that is full; each place of a loss is told."""
    assert spelled(await left_of(letters, overflow, 3)) == left


@pytest.mark.parametrize("overflow", POLICIES)
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("before", ["", "T", "TeEeE", "bBbBbB", "TebBEebBE", "bBbBTeEe"])
async def test_the_end_of_training_always_fits(overflow: Overflow, size: int, before: str) -> None:
    """And what comes after it, batches and epochs of another fit, doesn't drive it out."""
    for after in ("", "bBbB", "TeEeETeE"):
        events = await left_of(f"{before}F{after}", overflow, size)
        assert spelled(events).count("F") == 1
        seqs = [event.seq for event in events if not isinstance(event, Lagged)]
        assert seqs == sorted(seqs)


@pytest.mark.parametrize("overflow", POLICIES)
async def test_the_ends_of_several_runs_all_fit(overflow: Overflow) -> None:
    bus = Bus()
    async with bus.subscribe(Event, overflow=overflow, buffer_size=1) as stream:
        for _ in range(5):
            publish(bus.publisher(), "TebBEF")
        await bus.aclose()
        ends = [event.run async for event in stream if isinstance(event, TrainEnd)]
    assert ends == [f"run-{number}" for number in range(1, 6)]


@pytest.mark.parametrize("overflow", ["block", "drop_oldest", "drop_newest"])
async def test_epochs_are_all_there_while_they_fit(overflow: Overflow) -> None:
    """However many batches come between them: the mailbox holds as many as there are epochs."""
    letters = "T" + 3 * ("e" + 50 * "bB" + "E") + "F"
    rare = [letter for letter in letters if letter not in "bB"]
    events = await left_of(letters, overflow, len(rare))
    assert [LETTERS[type(event)] for event in events if isinstance(event, RARE)] == rare
    lost = sum(event.count for event in events if isinstance(event, Lagged))
    assert lost == len(letters) - sum(not isinstance(event, Lagged) for event in events) > 0


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
async def test_events_of_ones_own_give_way_if_they_say_so(overflow: Overflow) -> None:
    """Beside epochs that stay."""
    assert spelled(await left_of("essE", overflow, 2)) == "e2E"


@pytest.mark.parametrize("colour", ["def", "async def"])
@pytest.mark.parametrize(
    ("overflow", "left"),
    [
        ("block", "Teb1E2eF"),
        ("drop_oldest", "T3E2eF"),
        ("drop_newest", "Te2E3F"),
        ("latest", "T6eF"),
    ],
)
async def test_handlers_keep_their_epochs_as_streams_do(
    colour: str, overflow: Overflow, left: str
) -> None:
    """The event in the handler's hands is out of reach; its mailbox has room for two."""
    seen: list[Event] = []
    gate = Gate()

    def note(event: Event) -> None:
        seen.append(event)
        gate.pass_sync()

    async def anote(event: Event) -> None:
        seen.append(event)
        await gate.pass_async()

    async with Bus() as bus:
        handler = note if colour == "def" else anote
        bus.add(handler, Event, wait=False, overflow=overflow, buffer_size=2)
        publisher = bus.publisher()
        publish(publisher, "T")
        await gate.wait_arrived()
        publish(publisher, "ebBEbBeF")
        gate.open()
    assert spelled(seen) == left
