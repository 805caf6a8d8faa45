"""Grain's datasets, iterators and loaders go on where they were; and what is picked by an index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grain  # type: ignore[import-untyped]  # it brings no types
import numpy as np
import pytest

import fitbus
from fitbus.callbacks import BackupAndRestore

from ._interrupted import TRAINER, Interrupted, fail_after, new_trainer
from ._repositioned import BATCHES, PROBLEM, Counting

pytestmark = pytest.mark.anyio

made: list[int] = []  # the rows that were asked for


def row(index: int) -> Any:
    made.append(index)
    return PROBLEM.x[index], PROBLEM.y[index]


def dataset() -> Any:
    """Slow to make: it counts what it makes. Nothing is made ahead, else the count would differ."""
    return grain.MapDataset.range(42).seed(3).shuffle().map(row).batch(8)


def without_threads(data: Any) -> Any:
    return data.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))


class Rows:
    def __repr__(self) -> str:  # by which Grain knows a source again
        return "Rows()"

    def __len__(self) -> int:
        return 42

    def __getitem__(self, index: Any) -> Any:
        return row(int(index))


def loader() -> Any:
    return grain.DataLoader(
        data_source=Rows(),
        sampler=grain.samplers.IndexSampler(42, shuffle=True, seed=1, num_epochs=1),
        operations=[grain.transforms.Batch(8)],
        read_options=grain.ReadOptions(num_threads=0, prefetch_buffer_size=0),
    )


KINDS: dict[str, tuple[Callable[[], Any], int | None]] = {
    "iterable": (lambda: without_threads(dataset()), None),
    "iterable, in pieces": (lambda: without_threads(dataset()), 4),
    "iterator": (lambda: iter(without_threads(dataset().repeat())), 5),
    "loader": (loader, None),
    "loader's iterator, in pieces": (loader, 4),
    "a factory": (lambda: lambda: without_threads(dataset()), None),
    "map dataset": (dataset, None),
}


@pytest.fixture
def anyio_backend() -> str:
    """One loop is enough: all of it is decided in the training thread."""
    return "asyncio"


async def fit(data: Any, *callbacks: Any, **options: Any) -> tuple[Any, Any]:
    made.clear()
    given: dict[str, Any] = {"epochs": 3, **options}
    history = await new_trainer().fit(data, callbacks=callbacks, **given)
    params = TRAINER.state.params
    return history.history, {name: np.asarray(params[name]).tobytes() for name in params}


@pytest.mark.parametrize("kind", list(KINDS))
async def test_grains_data_go_on_where_they_were(tmp_path: Path, kind: str) -> None:
    """Bit for bit; and of the rows before none is read again."""
    make, steps = KINDS[kind]
    expected = await fit(make(), steps_per_epoch=steps)
    whole = len(made)
    with pytest.raises(Interrupted):
        await fit(make(), BackupAndRestore(tmp_path, 1), fail_after(9), steps_per_epoch=steps)
    first: list[int] = []

    @fitbus.handler(fitbus.BatchEnd, wait=True)
    def see(event: fitbus.BatchEnd) -> None:
        first.append(event.step)

    found = await fit(make(), BackupAndRestore(tmp_path, 1), see, steps_per_epoch=steps)
    assert found == expected
    assert first[0] == 9
    if kind != "map dataset":  # that reads ahead in threads
        passes, rest = divmod(8, BATCHES)
        assert len(made) == whole - passes * 42 - rest * 8


class Picked(Counting, Sequence[Any]):
    """Picked by an index, as by users' own, and counted."""

    def __len__(self) -> int:
        return BATCHES

    def __getitem__(self, index: Any) -> Any:
        if index >= BATCHES:
            raise IndexError
        return self.at(index)


class Told(Picked):
    """As Keras' `PyDataset`: `fit` shuffles it."""

    def on_epoch_end(self) -> None:
        pass


@pytest.mark.parametrize("make", [Picked, Told])
async def test_batches_that_are_picked_by_an_index_are_not_read_up_to_the_place(
    tmp_path: Path, make: Callable[[], Picked]
) -> None:
    expected = await fit(make())
    with pytest.raises(Interrupted):
        await fit(make(), BackupAndRestore(tmp_path, 1), fail_after(12))
    again = make()
    assert await fit(again, BackupAndRestore(tmp_path, 1)) == expected
    assert again.made == 18 - 11 + 1  # the very first one says how long a batch is
