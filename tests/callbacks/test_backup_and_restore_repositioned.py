"""Data that can say where they are are put back there, and not read up to the place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fitbus
from fitbus.callbacks import BackupAndRestore

from ._interrupted import Interrupted, fail_after, new_trainer
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
    params = new_state().params
    return {name: np.asarray(params[name]).tobytes() for name in sorted(params)}


def new_state() -> fitbus.TrainState:
    from ._interrupted import TRAINER

    return TRAINER.state


async def fit(data: Any, *callbacks: Any, **options: Any) -> tuple[Any, Any]:
    history = await new_trainer().fit(data, callbacks=callbacks, **{"epochs": 3, **options})
    return history.history, bits()


@pytest.mark.parametrize("fused", [1, 4])
@pytest.mark.parametrize(
    ("save_freq", "after"), [("epoch", 9), ("epoch", 12), (1, 5), (1, 6), (1, 7), (5, 12)]
)
@pytest.mark.parametrize("steps", [None, 4, 6, 8])
@pytest.mark.parametrize("make", [*PASSES, *ONCE])
async def test_a_training_goes_on_with_the_next_batch_and_none_is_made_again(
    tmp_path: Path,
    make: Callable[[], Counting],
    steps: int | None,
    save_freq: Any,
    after: int,
    fused: int,
) -> None:
    """Bit for bit as one that was never interrupted."""
    if steps is None and make in ONCE:
        steps = 6
    options: Any = {"steps_per_epoch": steps, "steps_per_execution": fused}
    whole = make()
    expected = await fit(whole, **options)
    with pytest.raises(Interrupted):
        await fit(make(), BackupAndRestore(tmp_path, save_freq), fail_after(after), **options)
    again = make()
    seen: list[int] = []

    @fitbus.handler(fitbus.BatchEnd, wait=True)
    def see(event: fitbus.BatchEnd) -> None:
        seen.append(event.step)

    found = await fit(again, BackupAndRestore(tmp_path, save_freq), see, **options)
    assert found[1] == expected[1]
    assert found[0] == expected[0]
    assert seen[0] > 1
    assert again.made == whole.made - (seen[0] - 1)
