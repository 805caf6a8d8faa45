"""What `OrbaxCheckpoint` refuses, and what it leaves when something fails."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np
import pytest

import fitbus
from fitbus.callbacks import Callback, Logs, OrbaxCheckpoint
from fitbus.checkpoints import NumberedStates
from fitbus.errors import FitbusError, InvalidArgumentError
from fitbus.testing import EventRecorder

from ._cancelling import CancelsAtEnd
from ._saved import numbers

if TYPE_CHECKING:
    from .conftest import Script

pytestmark = pytest.mark.anyio

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"monitor": "acuracy"}, "monitor: found 'acuracy'; the logs will have ["),
        ({}, "monitor: found 'val_loss'; the logs will have ["),
        ({"monitor": "score"}, "mode: found 'auto'; the name 'score' doesn't say"),
        ({"save_freq": 1, "validation": True}, "monitor: found 'val_loss'; the logs will have ["),
    ],
)
async def test_what_can_never_be_is_refused_before_the_first_step(
    script: Script, tmp_path: Path, given: dict[str, Any], problem: str
) -> None:
    """Batches have no validation."""
    given = dict(given)
    more = {"validation": [0.0]} if given.pop("validation", False) else {}
    step = int(script.trainer.state.step)
    with pytest.raises(InvalidArgumentError) as raised:
        await script.fit([1], OrbaxCheckpoint(tmp_path, save_best_only=True, **given), **more)
    assert str(raised.value).startswith(f"OrbaxCheckpoint.{problem}")
    assert int(script.trainer.state.step) == step
    assert numbers(tmp_path) == []


async def test_a_place_that_can_not_be_is_refused_before_the_first_step(
    script: Script, tmp_path: Path
) -> None:
    """With its name; and the object works when there is room."""
    (tmp_path / "file").touch()
    step = int(script.trainer.state.step)
    for place in (tmp_path / "file", tmp_path / "file" / "in"):
        checkpoint = OrbaxCheckpoint(place)
        with pytest.raises(FitbusError) as raised:
            await script.fit([1], checkpoint)
        assert str(place) in str(raised.value)
    assert int(script.trainer.state.step) == step
    (tmp_path / "file").unlink()
    await script.fit([1], checkpoint)
    assert numbers(tmp_path / "file" / "in") == [0]


async def test_an_error_of_the_last_one_is_raised(script: Script, tmp_path: Path) -> None:
    """Keras swallows it."""
    (tmp_path / "2").write_text("in the way")
    recorder = EventRecorder()
    with pytest.raises(InvalidArgumentError, match=f"directory: found '{tmp_path}/2'; it is a f"):
        await script.fit([1, 2, 3], OrbaxCheckpoint(tmp_path), recorder)
    assert recorder.of(fitbus.TrainEnd)[0].reason == "failed"
    assert numbers(tmp_path) == [1]


async def test_an_error_at_the_very_end_is_raised_too(script: Script, tmp_path: Path) -> None:
    """Of what was left when training had ended."""
    checkpoint = OrbaxCheckpoint(tmp_path)

    class Fails(Callback):
        def on_train_end(self, logs: Logs | None = None) -> None:
            checkpoint._background.submit((tmp_path / "none" / "x").touch)

    with pytest.raises(FileNotFoundError):
        await script.fit([1], Fails(), checkpoint)


async def test_a_cancelled_fit_leaves_whole_states(script: Script, tmp_path: Path) -> None:
    checkpoint = OrbaxCheckpoint(tmp_path, max_to_keep=None)
    recorder = EventRecorder()
    with anyio.CancelScope() as scope:
        await script.fit([1, 2, 3, 4], checkpoint, CancelsAtEnd(scope), recorder)
    assert recorder.of(fitbus.TrainEnd)[0].reason == "cancelled"
    with NumberedStates(tmp_path) as states:
        assert states.numbers() in ([0], [0, 1])
        assert np.asarray(states.load(script.trainer.state, 0).params["epoch"]) == 0
    await script.fit([1, 2, 3], checkpoint)
    assert numbers(tmp_path) == [0, 1, 2]


async def test_no_thread_is_left(script: Script, tmp_path: Path) -> None:
    await script.fit([1], OrbaxCheckpoint(tmp_path))
    left = [thread.name for thread in threading.enumerate()]
    assert not [name for name in left if "OrbaxCheckpoint" in name or "checkpoint" in name]


BAD: list[tuple[str, Any]] = [
    ("directory", ""), ("directory", None), ("directory", 3), ("directory", b"w"),
    ("monitor", ""), ("monitor", None), ("mode", "maximum"), ("mode", None),
    ("verbose", -1), ("verbose", "yes"), ("save_best_only", 1), ("save_weights_only", None),
    ("save_on_background", "yes"), ("save_freq", 0), ("save_freq", 1.5), ("save_freq", True),
    ("save_freq", "batch"), ("initial_value_threshold", NAN), ("initial_value_threshold", "1"),
    ("max_to_keep", 0), ("max_to_keep", -1), ("max_to_keep", 1.5), ("max_to_keep", True),
    ("timeout_s", 0), ("timeout_s", INF), ("timeout_s", "1"),
]  # fmt: skip


@pytest.mark.parametrize(("argument", "value"), BAD)
def test_an_argument_out_of_range_is_refused_with_its_name(argument: str, value: Any) -> None:
    given: dict[str, Any] = {"directory": "w", argument: value}
    with pytest.raises(InvalidArgumentError) as raised:
        OrbaxCheckpoint(**given)
    assert str(raised.value).startswith(f"OrbaxCheckpoint.{argument}: found {value!r}; ")
