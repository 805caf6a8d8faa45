"""Thinned streams: at most one event of each type in so many seconds of the run."""

from __future__ import annotations

from fitbus import BatchBegin, BatchEnd, EpochEnd
from fitbus.events import Codec, Event
from fitbus.service._hub import Frame, Thinned

CODEC = Codec()


def frames(*events: Event) -> list[Frame]:
    return [Frame.of(event, CODEC) for event in events]


def batch(seq: int, time: float) -> Event:
    return BatchEnd(
        run="r", seq=seq, time=time, step=seq, epoch=0, batch=seq, logs={}, batch_logs={}
    )


def test_a_told_past_is_thinned_as_the_present_was() -> None:
    """By when events happened, not by when they are sent."""
    events = frames(*(batch(seq, 100 + seq / 10) for seq in range(31)))
    at_once = [frame.seq for frame in Thinned(frozenset(), 1, 0.95)(events)]
    lets = Thinned(frozenset(), 1, 0.95)
    one_by_one = [frame.seq for each in events for frame in lets([each])]
    assert at_once == one_by_one == [0, 10, 20, 30]


def test_each_type_is_thinned_for_itself_and_ends_of_epochs_are_not() -> None:
    begin = BatchBegin(run="r", seq=1, time=1.0, step=0, epoch=0, batch=1)
    ends = [EpochEnd(run="r", seq=seq, time=1.0, step=0, epoch=seq) for seq in (2, 3)]
    passed = Thinned(frozenset(), 1, 9.0)(frames(batch(0, 1.0), begin, *ends, batch(4, 2.0)))
    assert [frame.seq for frame in passed] == [0, 1, 2, 3]


def test_a_clock_that_was_set_back_holds_nothing_up() -> None:
    passed = Thinned(frozenset(), 1, 5.0)(frames(batch(0, 1000.0), batch(1, 10.0), batch(2, 11.0)))
    assert [frame.seq for frame in passed] == [0, 1]
