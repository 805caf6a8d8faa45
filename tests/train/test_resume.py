"""Going on elsewhere than at the first batch: data by data, and what a run tells of its place."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np
import pytest

from fitbus.errors import DataError
from fitbus.train._data import source
from fitbus.train._feed import Feed

X = np.arange(18, dtype=np.float32)
ROWS = [X[start : start + 4] for start in range(0, 18, 4)]


def no_async(items: Any, *, owned: bool) -> NoReturn:
    raise AssertionError


def feed(data: Any, steps: int | None, *, shuffle: bool = False, seed: int = 0) -> Feed:
    found = source(
        data() if data is iterator else data,
        None,
        None,
        None,
        argument="x",
        batch_size=4,
        shuffle=shuffle,
        seed=(seed, 0),
        pad=True,
        pull=no_async,
    )
    return Feed("x", found, steps)


def factory() -> Iterator[Any]:
    return iter(ROWS)


def iterator() -> Iterator[Any]:
    """Given itself: data that can be gone through once, though for several epochs of some steps."""
    return iter(ROWS * 5)


class Again:
    """Can be gone through again and again, but has no length."""

    def __iter__(self) -> Iterator[Any]:
        return iter(ROWS)


def epochs(feed: Feed, count: int) -> Iterator[tuple[int, int, list[float], tuple[int, int]]]:
    """All batches: epoch, index, real rows, and the feed's place after each."""
    for epoch in range(count):
        if not feed.has_more():
            return
        for index, item in enumerate(feed.epoch()):
            rows = np.asarray(item.batch.x)[: item.rows].tolist()
            yield epoch, index, rows, feed.place


def rest(feed: Feed, epoch: int, batch: int, count: int) -> list[tuple[int, int, list[float]]]:
    """The same for a feed that goes on."""
    found: list[tuple[int, int, list[float]]] = []
    for number in range(epoch, count):
        if not feed.has_more():
            break
        first = batch if number == epoch else 0
        for index, item in enumerate(feed.epoch(), first):
            rows = np.asarray(item.batch.x)[: item.rows].tolist()
            found.append((number, index, rows))
    return found


KINDS: list[Any] = [
    pytest.param(X, False, id="arrays"),
    pytest.param(X, True, id="shuffled arrays"),
    pytest.param({"a": X, "b": X}["a"], True, id="from a dict"),
    pytest.param(ROWS, False, id="a list"),
    pytest.param(factory, False, id="a factory"),
    pytest.param(Again(), False, id="an iterable"),
    pytest.param(iterator, False, id="an iterator"),
]
STEPS: list[Any] = [
    pytest.param(None, id="whole passes"),
    pytest.param(1, id="one"),
    pytest.param(3, id="less than a pass"),
    pytest.param(5, id="a pass"),
    pytest.param(7, id="more than a pass"),
    pytest.param(12, id="more than two"),
]


@pytest.mark.parametrize("peeked", [False, True])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("data", "shuffle"), KINDS)
def test_what_comes_after_any_batch_is_what_would_have_come(
    data: Any, shuffle: bool, steps: int | None, peeked: bool
) -> None:
    """The place is exact, whether or not somebody looked at the first batch before."""
    count = 1 if data is iterator and steps is None else 3 if steps != 12 else 1
    whole = list(epochs(feed(data, steps, shuffle=shuffle), count))
    order = feed(data, steps, shuffle=shuffle).order
    for done in range(len(whole) + 1):
        at = whole[done - 1] if done else None
        epoch, batch = (0, 0) if at is None else (at[0], at[1] + 1)
        again = feed(data, steps, shuffle=shuffle, seed=9)
        if peeked:
            again.peek()
        place = again.go_to(epoch, batch, order, None if at is None else at[3])
        assert place == (at[3] if at is not None else (0, 0))
        if done < len(whole):
            again.peek()
        assert rest(again, epoch, batch, count) == [entry[:3] for entry in whole[done:]]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("data", "shuffle"), KINDS)
def test_an_epoch_that_is_done_may_be_said_as_the_beginning_of_the_next(
    data: Any, shuffle: bool, steps: int | None
) -> None:
    """As it is after the end of an epoch; the place may still be that of the last batch."""
    if data is iterator and steps in (None, 12):
        return  # there is no next one
    whole = list(epochs(feed(data, steps, shuffle=shuffle), 3))
    for (epoch, *_, place), following in itertools.pairwise(whole):
        if following[0] == epoch:
            continue
        for given in (place, None):
            again = feed(data, steps, shuffle=shuffle)
            again.go_to(epoch + 1, 0, place=given)
            expected = [entry[:3] for entry in whole if entry[0] > epoch]
            assert rest(again, epoch + 1, 0, 3) == expected


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("data", "shuffle"), KINDS)
def test_without_a_place_it_is_counted_as_if_all_epochs_were_whole(
    data: Any, shuffle: bool, steps: int | None
) -> None:
    count = 1 if data is iterator and steps in (None, 12) else 3
    whole = list(epochs(feed(data, steps, shuffle=shuffle), count))
    for done, (epoch, batch, *_) in enumerate(whole):
        again = feed(data, steps, shuffle=shuffle)
        again.go_to(epoch, batch)
        assert rest(again, epoch, batch, count) == [entry[:3] for entry in whole[done:]]


@pytest.mark.parametrize("shuffle", [False, True])
def test_an_epoch_that_ended_early_is_followed_by_a_new_pass(shuffle: bool) -> None:
    """Where an epoch is a pass, what was left of it isn't gone on with."""
    first = feed(X, None, shuffle=shuffle)
    batches = first.epoch()
    for _ in range(2):
        next(batches)
    place = first.place
    assert place == (0, 2)
    expected = [np.asarray(item.batch.x).tolist() for item in first.epoch()]
    again = feed(X, None, shuffle=shuffle)
    again.go_to(1, 0, place=place)
    again.peek()
    assert [np.asarray(item.batch.x).tolist() for item in again.epoch()] == expected


@pytest.mark.parametrize("data", [X, ROWS, factory, iterator])
@pytest.mark.parametrize("steps", [None, 3])
def test_data_that_end_before_the_place_are_refused(data: Any, steps: int | None) -> None:
    given = feed(data, steps)
    with pytest.raises(DataError, match=r"x: it ended before.*batch 2 of the epoch .* after 1"):
        given.go_to(1, 2, place=(0, 26))


def test_data_that_come_once_and_end_before_the_place_are_refused() -> None:
    """As validation data may, whose place counts from pass to pass."""
    with pytest.raises(DataError, match=r"x: it ended within the 26 batches"):
        feed(iterator, 3).pass_over(26)


def test_a_source_that_gives_nothing_is_asked_once() -> None:
    """An empty factory isn't taken for one whose pass has ended."""
    asked: list[int] = []

    def empty() -> Iterator[Any]:
        asked.append(1)
        return iter(())

    with pytest.raises(DataError, match="gave no batch"):
        feed(empty, None).peek()
    assert asked == [1]


def test_arrays_are_not_read_before_the_place() -> None:
    """To go on far into arrays costs nothing: no batch of before is made."""
    given = feed(X, None)
    picked: list[Any] = []
    made: Callable[..., Any] = given._source._batch  # type: ignore[attr-defined]  # that of arrays

    def counting(*args: Any) -> Any:
        picked.append(args)
        return made(*args)

    given._source._batch = counting  # type: ignore[attr-defined]  # likewise
    given.go_to(2, 4)
    given.peek()
    assert len(picked) <= 1
    assert [item.rows for item in given.epoch()] == [2]


def test_an_iterator_that_was_gone_on_with_goes_on_from_where_it_is() -> None:
    """What it has given can't come again, and isn't left out twice."""
    given = feed(iterator, 3)
    given.go_to(0, 2)
    given.go_to(1, 1)
    first = next(given.epoch())
    assert np.asarray(first.batch.x)[: first.rows].tolist() == ROWS[4].tolist()
