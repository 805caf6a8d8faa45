"""When `OrbaxCheckpoint` saves, under which number, how many are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orbax.checkpoint as ocp
import pytest

import fitbus
from fitbus.callbacks import Callback, Logs, OrbaxCheckpoint
from fitbus.checkpoints import NumberedStates
from fitbus.testing import EventRecorder, Gate

from ._saved import VALLEY, numbers

if TYPE_CHECKING:
    from .conftest import Script

pytestmark = pytest.mark.anyio

NAN = math.nan

# What is given, the losses, and then: the epochs (from 0) that are there at the end, and the best.
CASES: dict[str, tuple[dict[str, Any], Sequence[float], list[int], float | None]] = {
    "the last one, by default": ({}, VALLEY, [5], None),
    "the last two": ({"max_to_keep": 2}, VALLEY, [4, 5], None),
    "all": ({"max_to_keep": None}, VALLEY, [0, 1, 2, 3, 4, 5], None),
    "the best": ({"save_best_only": True}, VALLEY, [4], 2),
    "all that were the best": ({"save_best_only": True, "max_to_keep": None}, VALLEY, [0, 1, 4], 2),
    "more is better": (
        {"save_best_only": True, "max_to_keep": None, "mode": "max"}, VALLEY, [0, 3], 5,
    ),
    "a threshold": (
        {"save_best_only": True, "max_to_keep": None, "initial_value_threshold": 3},
        VALLEY, [4], 2,
    ),
    "a first NaN": ({"save_best_only": True, "max_to_keep": 9}, [NAN, 3, NAN, 2], [1, 3], 2),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
async def test_there_are_the_states_of(script: Script, tmp_path: Path, case: str) -> None:
    """The epochs that Keras' semantics ask for, each with its own parameters."""
    given, losses, epochs, best = CASES[case]
    checkpoint = OrbaxCheckpoint(tmp_path, "loss", **given)
    await script.fit(losses, checkpoint)
    assert checkpoint.best == best
    with NumberedStates(tmp_path) as states:
        assert states.numbers() == epochs
        for epoch in epochs:
            state = states.load(script.trainer.state, epoch)
            assert np.asarray(state.params["epoch"]) == epoch


async def test_by_batches_the_number_is_that_of_the_completed_steps(
    script: Script, tmp_path: Path
) -> None:
    """Counted over epochs and fits, as `state.step` is."""
    checkpoint = OrbaxCheckpoint(tmp_path, save_freq=3, max_to_keep=None)
    start, rows = int(script.trainer.state.step), np.zeros((4, 2), np.float32)
    for _ in range(2):
        await script.trainer.fit(rows, batch_size=2, epochs=2, callbacks=[checkpoint])
    assert numbers(tmp_path) == [start + 3, start + 6]
    assert checkpoint.state_dict()["batches"] == 2
    with NumberedStates(tmp_path) as states:
        assert int(states.load(script.trainer.state).step) == start + 6


async def test_a_trainer_goes_on_from_it(script: Script, tmp_path: Path) -> None:
    """As the docstring says."""
    await script.fit([1, 2, 3], OrbaxCheckpoint(tmp_path))
    with NumberedStates(tmp_path) as states:
        trainer = fitbus.Trainer(script.trainer.steps.task, states.load(script.trainer.state))
    assert int(trainer.state.step) == int(script.trainer.state.step)
    assert np.asarray(trainer.state.params["epoch"]) == 2


async def test_parameters_alone(script: Script, tmp_path: Path) -> None:
    await script.fit([1, 2], OrbaxCheckpoint(tmp_path, save_weights_only=True))
    with NumberedStates(tmp_path) as states:
        back = states.load(script.trainer.state.params)
    assert np.asarray(back["epoch"]) == 1
    with ocp.CheckpointManager(tmp_path) as manager:
        found: Any = manager.restore(1, args=ocp.args.StandardRestore())
    assert sorted(found) == ["epoch", "w"]


async def test_a_training_that_begins_anew_replaces_and_keeps_the_newest(
    script: Script, tmp_path: Path
) -> None:
    checkpoint = OrbaxCheckpoint(tmp_path, max_to_keep=3)
    await script.fit([1, 2, 3], checkpoint)
    await script.fit([1, 2], checkpoint)
    assert numbers(tmp_path) == [2, 0, 1]
    await script.fit([1, 2, 3, 4, 5], OrbaxCheckpoint(tmp_path), initial_epoch=4)
    assert numbers(tmp_path) == [4]


async def test_it_tells_of_each_when_it_is_complete(script: Script, tmp_path: Path) -> None:
    found: list[tuple[str, bool]] = []

    def look(event: fitbus.CheckpointSaved) -> None:
        found.append((event.path, Path(event.path).exists()))

    recorder = EventRecorder()
    checkpoint = OrbaxCheckpoint(tmp_path, max_to_keep=None)
    await script.fit([1, 2, 3], checkpoint, look, recorder)
    assert found == [(str(tmp_path / str(epoch)), True) for epoch in range(3)]
    assert recorder.names[-2:] == ["CheckpointSaved", "TrainEnd"]


class Looks(Callback):
    """Notes which states there are when an epoch has ended."""

    def __init__(self, folder: Path, before: Any = None) -> None:
        self.folder, self.before = folder, before
        self.found: list[list[int]] = []

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self.before is not None:
            self.before()
        self.found.append(numbers(self.folder))


async def test_in_the_foreground_each_is_there_at_once(script: Script, tmp_path: Path) -> None:
    looks = Looks(tmp_path)
    checkpoint = OrbaxCheckpoint(tmp_path, save_on_background=False, max_to_keep=None)
    await script.fit([1, 2, 3], checkpoint, looks)
    assert looks.found == [[0], [0, 1], [0, 1, 2]]


async def test_in_the_background_training_goes_on_meanwhile(script: Script, tmp_path: Path) -> None:
    """And one can wait for what has been saved so far."""
    gate, checkpoint = Gate(), OrbaxCheckpoint(tmp_path, max_to_keep=None)

    class Holds(Callback):
        def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
            if epoch == 0:
                checkpoint._background.submit(gate.pass_sync)
            else:
                assert numbers(tmp_path) == [], "a state was written before the gate was open"
                gate.open()
                checkpoint.wait_until_finished()
                assert numbers(tmp_path) == [0]

    await script.fit([1, 2], checkpoint, Holds())
    assert numbers(tmp_path) == [0, 1]
    checkpoint.wait_until_finished()  # at any time


async def test_a_value_that_is_missing_warns_and_is_not_saved(
    script: Script, tmp_path: Path
) -> None:
    """As in Keras, where `ModelCheckpoint` saves."""
    checkpoint = OrbaxCheckpoint(tmp_path, save_best_only=True, max_to_keep=None)
    with pytest.warns(RuntimeWarning, match="no number 'val_loss' in the logs of epoch [02],"):
        await script.fit([0] * 4, checkpoint, validation=[0, 2, 0, 1], validation_freq=2)
    assert numbers(tmp_path) == [1, 3]
    assert checkpoint.best == 1


async def test_what_it_remembers_goes_through_a_state_dict(script: Script, tmp_path: Path) -> None:
    first = OrbaxCheckpoint(tmp_path, "loss", save_best_only=True)
    await script.fit([4, 3, 5], first)
    remembered = first.state_dict()
    assert remembered == {"best": 3.0, "batches": 0}
    second = OrbaxCheckpoint(tmp_path, "loss", save_best_only=True)
    second.load_state_dict(remembered)
    await script.fit([9, 9, 9, 3.5], second, initial_epoch=3)
    assert numbers(tmp_path) == [1]
    second.best = None
    await script.fit([9], second)
    assert numbers(tmp_path) == [0]


async def test_it_says_what_it_does(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await script.fit([4, 5], OrbaxCheckpoint(tmp_path, "loss", 1, save_best_only=True))
    assert sorted(capsys.readouterr().out.splitlines()) == [
        f"Epoch 1: saved to {tmp_path}/0",
        "Epoch 2: loss did not improve from 4.0",
    ]
    await script.fit([4], OrbaxCheckpoint(tmp_path))
    assert capsys.readouterr().out == ""


def test_one_process_is_the_primary_one() -> None:
    assert OrbaxCheckpoint("w").is_primary_host()
    assert "on_train_batch_end" not in vars(OrbaxCheckpoint("w"))
