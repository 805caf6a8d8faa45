"""What goes on within an epoch with other data or arguments says so."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from fitbus.callbacks import BackupAndRestore

from ._interrupted import Interrupted, X, Y, fail_after, new_trainer

pytestmark = pytest.mark.anyio

BEFORE: Any = {"x": X, "y": Y, "batch_size": 8, "epochs": 3}
LIST = [(X[start : start + 8], Y[start : start + 8]) for start in range(0, 40, 8)]


async def fit(directory: Path, after: int | None = None, freq: Any = 1, **given: Any) -> list[str]:
    """The warnings of a training."""
    arguments = {**BEFORE, **given}
    callbacks: list[Any] = [BackupAndRestore(directory, freq)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if after is None:
            await new_trainer().fit(callbacks=callbacks, **arguments)
        else:
            with pytest.raises(Interrupted):
                await new_trainer().fit(callbacks=[*callbacks, fail_after(after)], **arguments)
    return [str(w.message) for w in caught if w.category is RuntimeWarning]


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({}, {"batch_size": 4}, ["batch_size was 8, and is 4"]),
        ({}, {"x": X[:33], "y": Y[:33]}, ["examples was 40, and is 33"]),
        ({}, {"shuffle": False}, ["shuffle was True, and is False"]),
        ({}, {"steps_per_epoch": 4}, ["steps_per_epoch was None, and is 4"]),
        (
            {},
            {"x": LIST, "y": None},
            ["examples was 40, and is None", "batches in a pass was None, and is 5"],
        ),
        (
            {"x": LIST, "y": None},
            {"x": LIST[:4], "y": None},
            ["batches in a pass was 5, and is 4"],
        ),
    ],
)
async def test_what_differs_within_an_epoch_is_named(
    tmp_path: Path, before: Any, now: Any, told: list[str]
) -> None:
    assert await fit(tmp_path, 8, **before) == []
    (found,) = await fit(tmp_path, **{**before, **now})
    assert "at batch 2 of epoch 1 with other data" in found
    for difference in told:
        assert difference in found


async def test_the_same_again_is_not_warned_of(tmp_path: Path) -> None:
    """`epochs` may be larger, and validation is no part of it."""
    await fit(tmp_path, 8)
    assert await fit(tmp_path, epochs=4, validation_data=(X[:8], Y[:8])) == []


async def test_at_the_beginning_of_an_epoch_others_may_be_meant(tmp_path: Path) -> None:
    await fit(tmp_path, 7, "epoch")
    assert await fit(tmp_path, freq="epoch", batch_size=4, shuffle=False) == []


async def test_but_not_where_a_pass_goes_on_over_epochs(tmp_path: Path) -> None:
    await fit(tmp_path, 4, steps_per_epoch=3)
    (found,) = await fit(tmp_path, steps_per_epoch=3, batch_size=4)
    assert "batch_size was 8, and is 4" in found
