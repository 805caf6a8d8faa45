"""Validation data that come once, and can say where they are, are gone on with there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fitbus
from fitbus.callbacks import BackupAndRestore
from fitbus.errors import DataError

from ._interrupted import Interrupted, X, Y, fail_after, new_trainer

pytestmark = pytest.mark.anyio

ALL = [(X[start : start + 4], Y[start : start + 4]) for start in range(0, 40, 4)]


class Once(Iterator[Any]):
    """Comes once."""

    def __init__(self) -> None:
        self.index = 0

    def __next__(self) -> Any:
        if self.index == len(ALL):
            raise StopIteration
        self.index += 1
        return ALL[self.index - 1]

    def state_dict(self) -> dict[str, Any]:
        return {"index": self.index}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.index = state["index"]


class Asynchronous(AsyncIterator[Any]):
    """The same for `async for`, and with Grain's methods."""

    def __init__(self) -> None:
        self._items = Once()

    async def __anext__(self) -> Any:
        for item in self._items:
            return item
        raise StopAsyncIteration

    def get_state(self) -> bytes:
        return str(self._items.index).encode()

    def set_state(self, state: bytes) -> None:
        self._items.index = int(state)


async def fit(validation: Any, *callbacks: Any, **options: Any) -> fitbus.History:
    arguments: Any = {"epochs": 4, "validation_steps": 2, **options}
    return await new_trainer().fit(
        X, Y, batch_size=8, callbacks=callbacks, validation_data=validation, **arguments
    )


@pytest.mark.parametrize(("save_freq", "after"), [("epoch", 11), (1, 8), (4, 9), (5, 11)])
@pytest.mark.parametrize("make", [Once, Asynchronous])
async def test_each_validation_has_the_batches_of_an_undisturbed_training(
    tmp_path: Path, make: Callable[[], Any], save_freq: Any, after: int
) -> None:
    expected = await fit(make())
    with pytest.raises(Interrupted):
        await fit(make(), BackupAndRestore(tmp_path, save_freq), fail_after(after))
    found = await fit(make(), BackupAndRestore(tmp_path, save_freq))
    assert found.history == expected.history
    assert len(set(found.history["val_loss"])) == 4


async def test_what_is_not_validated_at_each_epoch_is_counted_too(tmp_path: Path) -> None:
    expected = await fit(Once(), validation_freq=2)
    with pytest.raises(Interrupted):
        await fit(Once(), BackupAndRestore(tmp_path), fail_after(16), validation_freq=2)
    found = await fit(Once(), BackupAndRestore(tmp_path), validation_freq=2)
    assert found.history == expected.history


async def test_data_that_come_once_and_cannot_say_where_they_are_are_refused(
    tmp_path: Path,
) -> None:
    """Before a step is made."""
    with pytest.raises(DataError, match=r"validation_data: .* comes once"):
        await fit(iter(ALL), BackupAndRestore(tmp_path), fail_after(1))


async def test_data_that_begin_anew_each_time_are_left_alone(tmp_path: Path) -> None:
    """A list, a function: with `validation_steps` as well, each validation begins at the first."""
    expected = await fit(ALL)
    with pytest.raises(Interrupted):
        await fit(ALL, BackupAndRestore(tmp_path), fail_after(11))
    found = await fit(lambda: iter(ALL), BackupAndRestore(tmp_path))
    assert found.history == expected.history
