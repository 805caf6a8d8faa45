"""Data that can say where they are are put back there, and not read up to the place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fitbus
from fitbus import RestoreCheckpoint, SaveCheckpoint, StopEpoch
from fitbus.callbacks import BackupAndRestore
from fitbus.errors import DataError

from ._interrupted import TRAINER, Interrupted, fail_after, new_trainer
from ._repositioned import (
    Asynchronous,
    AsynchronousPasses,
    Counting,
    Endless,
    Fresh,
    Loader,
    Remaining,
    Shuffling,
    Steps,
)

pytestmark = pytest.mark.anyio

PASSES: list[type[Any]] = [Remaining, Fresh, Shuffling, Loader, Steps, AsynchronousPasses]
ONCE: list[type[Any]] = [Endless, Asynchronous]


@pytest.fixture
def anyio_backend() -> str:
    """One loop is enough: all of it is decided in the training thread."""
    return "asyncio"


def bits() -> dict[str, bytes]:
    params = TRAINER.state.params
    return {name: np.asarray(params[name]).tobytes() for name in sorted(params)}


async def fit(data: Any, *callbacks: Any, **options: Any) -> tuple[Any, Any]:
    given: dict[str, Any] = {"epochs": 3, **options}
    history = await new_trainer().fit(data, callbacks=callbacks, **given)
    return history.history, bits()


def at(kind: type[fitbus.Event], step: int, *controls: fitbus.Control) -> Any:
    """Sends controls, once, at an event of a step."""
    left = [*controls]

    @fitbus.handler(kind, wait=True)
    def send(event: fitbus.Event) -> list[fitbus.Control]:
        found = [*left] if event.step == step else []
        if found:
            left.clear()
        return found

    return send


CASES = [(None, "epoch", 9), (None, 1, 6), (None, 1, 7), (4, "epoch", 9), (4, 5, 11), (8, 1, 7)]


@pytest.mark.parametrize("fused", [1, 4])
@pytest.mark.parametrize(("steps", "save_freq", "after"), CASES)
@pytest.mark.parametrize("make", [*PASSES, *ONCE])
async def test_a_training_goes_on_with_the_next_batch_and_none_is_made_again(
    tmp_path: Path,
    make: Callable[[], Counting],
    steps: int | None,
    save_freq: Any,
    after: int,
    fused: int,
) -> None:
    """Bit for bit as one that was never interrupted, with as many batches as were left."""
    if steps is None and make in ONCE:
        steps = 6
    options: Any = {"steps_per_epoch": steps, "steps_per_execution": fused}
    whole, again = make(), make()
    expected = await fit(whole, **options)
    with pytest.raises(Interrupted):
        await fit(make(), BackupAndRestore(tmp_path, save_freq), fail_after(after), **options)
    seen: list[int] = []

    @fitbus.handler(fitbus.BatchEnd, wait=True)
    def see(event: fitbus.BatchEnd) -> None:
        seen.append(event.step)

    found = await fit(again, BackupAndRestore(tmp_path, save_freq), see, **options)
    assert found == expected
    assert seen[0] > 1
    assert again.made == whole.made - (seen[0] - 1)


@pytest.mark.parametrize("make", [Remaining, Fresh, Shuffling, Loader, Steps])
async def test_after_an_epoch_that_was_left_early_the_next_one_is_the_same(
    tmp_path: Path, make: Callable[[], Counting]
) -> None:
    """Though what is left of its pass isn't gone through, and others begin anew, or don't."""
    expected = await fit(make(), at(fitbus.BatchEnd, 3, StopEpoch()))
    with pytest.raises(Interrupted):
        await fit(
            make(),
            BackupAndRestore(tmp_path),
            at(fitbus.BatchEnd, 3, StopEpoch()),
            fail_after(4),
        )
    found = await fit(make(), BackupAndRestore(tmp_path))
    assert found == expected


@pytest.mark.parametrize("make", [*PASSES, *ONCE])
async def test_going_back_puts_the_data_back_too(
    tmp_path: Path, make: Callable[[], Counting]
) -> None:
    """Also those that come once."""
    options: Any = {"steps_per_epoch": 4}
    expected = await fit(make(), **options)
    backup = BackupAndRestore(tmp_path)
    there = at(fitbus.BatchEnd, 3, SaveCheckpoint("a"))
    back = at(fitbus.BatchEnd, 9, RestoreCheckpoint("a"))
    assert await fit(make(), backup, there, back, **options) == expected


async def test_a_factory_of_data_that_can_say_where_they_are(tmp_path: Path) -> None:
    """Each pass has one of its own."""
    expected = await fit(Remaining)
    with pytest.raises(Interrupted):
        await fit(Remaining, BackupAndRestore(tmp_path, 1), fail_after(9))
    made: list[Remaining] = []

    def factory() -> Remaining:
        made.append(Remaining())
        return made[-1]

    assert await fit(factory, BackupAndRestore(tmp_path, 1)) == expected
    assert sum(data.made for data in made) == 18 - 8


async def test_a_training_that_is_not_backed_up_never_asks() -> None:
    class Untold(Remaining):
        def state_dict(self) -> dict[str, Any]:
            raise AssertionError

    await fit(Untold(), epochs=1)


async def test_data_that_come_once_and_cannot_say_where_they_are_are_refused(
    tmp_path: Path,
) -> None:
    """Before the first step, and it says what to give instead, which is then taken."""

    def batches() -> Iterator[Any]:
        yield from Remaining()

    with pytest.raises(DataError, match=r"x: .*comes once.*`fit\(batches\)`.*`load_state_dict"):
        await fit(batches(), BackupAndRestore(tmp_path), fail_after(1))
    await fit(batches, BackupAndRestore(tmp_path), epochs=1)
    await fit(batches(), epochs=1)


async def test_a_state_that_cannot_be_kept_is_refused_before_the_first_step(
    tmp_path: Path,
) -> None:
    class Odd(Remaining):
        def state_dict(self) -> dict[str, Any]:
            return {"a": [1, {2}]}

    with pytest.raises(DataError, match=r"x: `.*Odd.state_dict\(\)` .* set, at \['a'\]\[1\]"):
        await fit(Odd(), BackupAndRestore(tmp_path), fail_after(1))


async def test_data_that_cannot_tell_say_so_with_their_own_error(tmp_path: Path) -> None:
    class Fails(Remaining):
        def state_dict(self) -> dict[str, Any]:
            raise NotImplementedError("not yet")

    with pytest.raises(NotImplementedError, match="not yet") as caught:
        await fit(Fails(), BackupAndRestore(tmp_path), fail_after(1))
    assert "Fails.state_dict()` failed" in "".join(caught.value.__notes__)


@pytest.mark.parametrize("other", [Fresh, Steps, lambda: lambda: iter(Fresh()), lambda: Fresh])
async def test_data_of_another_kind_are_refused(tmp_path: Path, other: Callable[[], Any]) -> None:
    """Those that were backed up are named."""
    with pytest.raises(Interrupted):
        await fit(Remaining(), BackupAndRestore(tmp_path, 1), fail_after(3))
    with pytest.raises(DataError, match="x: a backup has the place in a Remaining"):
        await fit(other(), BackupAndRestore(tmp_path, 1))


async def test_what_putting_back_raises_has_a_note(tmp_path: Path) -> None:
    class Picky(Remaining):
        def load_state_dict(self, state: dict[str, Any]) -> None:
            raise ValueError("no")

    with pytest.raises(Interrupted):
        await fit(Picky(), BackupAndRestore(tmp_path, 1), fail_after(3))
    with pytest.raises(ValueError, match="no") as caught:
        await fit(Picky(), BackupAndRestore(tmp_path, 1))
    assert "couldn't take back" in "".join(caught.value.__notes__)
