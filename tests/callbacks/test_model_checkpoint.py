"""When `ModelCheckpoint` saves, under which name, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fitbus.callbacks import ModelCheckpoint
from fitbus.checkpoints import load_state, load_weights
from fitbus.errors import InvalidArgumentError

from ._logs import Adds
from ._saved import VALLEY, names, weights

if TYPE_CHECKING:
    from .conftest import Script, WeightsByEpoch

pytestmark = pytest.mark.anyio

NAN, INF = math.nan, math.inf

# What is given, the losses, and then: the epochs (from 1) that were saved, and the best value.
CASES: dict[str, tuple[dict[str, Any], Sequence[float], list[int], float | None]] = {
    "every epoch": ({}, VALLEY, [1, 2, 3, 4, 5, 6], None),
    "every epoch, where a threshold is of no use": (
        {"initial_value_threshold": 0}, VALLEY, [1, 2, 3, 4, 5, 6], 0,
    ),
    "strictly better ones": ({"save_best_only": True}, VALLEY, [1, 2, 5], 2),
    "more is better": ({"save_best_only": True, "mode": "max"}, VALLEY, [1, 4], 5),
    "a threshold": (
        {"save_best_only": True, "initial_value_threshold": 3}, VALLEY, [5], 2,
    ),
    "a threshold out of reach": (
        {"save_best_only": True, "initial_value_threshold": 0}, VALLEY, [], 0,
    ),
    "a threshold below all": (
        {"save_best_only": True, "mode": "max", "initial_value_threshold": -0.01},
        VALLEY, [1, 4], 5,
    ),
    "a first NaN": ({"save_best_only": True}, [NAN, 3, NAN, 2, 2.5], [2, 4], 2),
    "nothing but NaN": ({"save_best_only": True}, [NAN, NAN], [], None),
    "a first infinity": ({"save_best_only": True}, [INF, 3, INF, 2], [1, 2, 4], 2),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
async def test_it_saves_the_weights_of(
    script: Script, by_epoch: WeightsByEpoch, tmp_path: Path, case: str
) -> None:
    """The epochs that Keras' semantics ask for; each file has that epoch's weights."""
    given, losses, epochs, best = CASES[case]
    checkpoint = weights(tmp_path, **given)
    await script.fit(losses, by_epoch, checkpoint)
    assert names(tmp_path) == [str(epoch) for epoch in epochs]
    for epoch in epochs:
        back = load_weights(tmp_path / f"{epoch}.safetensors", script.trainer.state.params)
        kept = [np.asarray(back[name]).tobytes() for name in sorted(back)]
        assert kept == by_epoch.weights[epoch - 1]
    assert checkpoint.best == best


async def test_a_whole_state_is_what_the_trainer_had(script: Script, tmp_path: Path) -> None:
    await script.fit(VALLEY, ModelCheckpoint(tmp_path / "last"))
    state = script.trainer.state
    back = load_state(tmp_path / "last", state)
    assert int(back.step) == int(state.step)
    assert [leaf.tobytes() for leaf in map(np.asarray, back.params.values())] == [
        leaf.tobytes() for leaf in map(np.asarray, state.params.values())
    ]
    assert np.asarray(back.params["epoch"]) == len(VALLEY) - 1


async def test_a_path_is_filled_with_epoch_and_logs(script: Script, tmp_path: Path) -> None:
    """Epochs count from 1, also where a fit begins later; folders are made as needed."""
    checkpoint = weights(tmp_path, "run {epoch:02d}/{val_loss:.2f}-{loss:.1e}")
    await script.fit([1, 2, 4], checkpoint, validation=[0.125, 0.5, 0.25], initial_epoch=1)
    assert names(tmp_path) == ["run 02", "run 03"]
    assert names(tmp_path / "run 02") == ["0.50-2.0e+00"]
    assert names(tmp_path / "run 03") == ["0.25-4.0e+00"]


async def test_one_path_is_written_over_and_over(script: Script, tmp_path: Path) -> None:
    await script.fit(VALLEY, weights(tmp_path, "best", save_best_only=True))
    assert names(tmp_path) == ["best"]
    back = load_weights(tmp_path / "best.safetensors", script.trainer.state.params)
    assert np.asarray(back["epoch"]) == 4


async def test_the_best_value_stays_for_the_next_fit(script: Script, tmp_path: Path) -> None:
    checkpoint = weights(tmp_path, "{loss}", save_best_only=True)
    await script.fit([4, 3], checkpoint)
    await script.fit([3.5, 3, 2], checkpoint)
    assert names(tmp_path) == ["2.0", "3.0", "4.0"]
    assert checkpoint.best == 2
    checkpoint.best = None
    await script.fit([9], checkpoint)
    assert checkpoint.best == 9


async def test_batches_are_counted_over_epochs_and_fits(script: Script, tmp_path: Path) -> None:
    """With two batches in an epoch: every third one, whatever the epoch or the fit."""
    checkpoint = weights(tmp_path, "{epoch}-{batch}", save_freq=3)
    rows = np.zeros((4, 2), np.float32)
    for _ in range(2):
        await script.trainer.fit(rows, batch_size=2, epochs=4, callbacks=[checkpoint])
    assert names(tmp_path) == ["1-1", "2-1", "2-2", "3-2", "4-1"]
    assert checkpoint.state_dict()["batches"] == 1


async def test_by_batches_only_the_best_are_saved_from_the_first_epoch_on(
    script: Script, tmp_path: Path
) -> None:
    """Where Keras fails with a TypeError."""
    rows = np.array([[0, 4], [0, 2], [0, 6], [0, 1]], np.float32)
    checkpoint = weights(tmp_path, "{batch}-{loss}", save_best_only=True, save_freq=1)
    await script.trainer.fit(rows, batch_size=1, shuffle=False, callbacks=[checkpoint])
    assert names(tmp_path) == ["1-4.0", "2-3.0"]
    assert checkpoint.best == 3


async def test_a_value_that_is_missing_or_no_number_warns_and_is_saved(
    script: Script, tmp_path: Path
) -> None:
    """It changes nothing about the best one."""
    adds = Adds("points", [5, None, np.array([1.0, 2.0]), "many", 6, np.float32(7), np.array(8)])
    path = tmp_path / "{epoch}.safetensors"
    checkpoint = ModelCheckpoint(
        path, "points", save_best_only=True, save_weights_only=True, mode="max"
    )
    with pytest.warns(RuntimeWarning, match="no number 'points' in the logs of epoch") as caught:
        await script.fit([0] * 7, adds, checkpoint)
    assert len(caught) == 3
    assert names(tmp_path) == ["1", "2", "3", "4", "5", "6", "7"]
    assert checkpoint.best == 8
    assert isinstance(checkpoint.best, float)


async def test_validation_in_every_second_epoch_warns_in_the_others(
    script: Script, tmp_path: Path
) -> None:
    path = tmp_path / "{epoch}.safetensors"
    checkpoint = ModelCheckpoint(path, save_best_only=True, save_weights_only=True)
    with pytest.warns(RuntimeWarning, match="no number 'val_loss' in the logs of epoch [02],"):
        await script.fit([0] * 4, checkpoint, validation=[0, 1, 0, 2], validation_freq=2)
    assert names(tmp_path) == ["1", "2", "3"]


async def test_by_default_it_needs_no_validation(script: Script, tmp_path: Path) -> None:
    """Its monitor isn't looked at."""
    await script.fit([1, 2], ModelCheckpoint(tmp_path / "{epoch}"))
    assert names(tmp_path) == ["1", "2"]


@pytest.mark.parametrize(
    ("name", "given", "problem"),
    [
        ("w", {"monitor": "acuracy"}, "monitor: found 'acuracy'; the logs will have ["),
        ("w", {"monitor": "val_loss"}, "monitor: found 'val_loss'; the logs will have ["),
        ("w", {"monitor": "score"}, "mode: found 'auto'; the name 'score' doesn't say"),
        ("{los}", {}, "filepath: found '"),
        ("{val_loss:.2f}", {}, "filepath: found '"),
        ("{batch}", {}, "filepath: found '"),
        ("{val_loss}", {"save_freq": 1, "validation": True}, "filepath: found '"),
    ],
)
async def test_what_can_never_be_is_refused_before_the_first_step(
    script: Script, tmp_path: Path, name: str, given: dict[str, Any], problem: str
) -> None:
    given = dict(given)
    more = {"validation": [0.0]} if given.pop("validation", False) else {}
    given = {"monitor": "loss", **given}
    checkpoint = ModelCheckpoint(tmp_path / name, save_best_only=True, **given)
    step = int(script.trainer.state.step)
    with pytest.raises(InvalidArgumentError) as raised:
        await script.fit([1], checkpoint, **more)
    assert str(raised.value).startswith(f"ModelCheckpoint.{problem}")
    if "filepath" in problem:
        field = name.strip("{}").split(":")[0]
        assert f"nothing is called {field!r}; it can be filled with [" in str(raised.value)
    assert int(script.trainer.state.step) == step
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["{points:.2f}", "{points.real:d}", "{points[0]}", "{other}"])
async def test_a_path_that_can_not_be_filled_later_fails_with_its_name(
    script: Script, tmp_path: Path, name: str
) -> None:
    """Where a callback may add names to the logs, nobody knows before."""
    adds = Adds("points", ["many"] if name != "{points[0]}" else [3])
    with pytest.raises(InvalidArgumentError, match=r"ModelCheckpoint\.filepath: found '") as raised:
        await script.fit([1], adds, weights(tmp_path, name))
    assert name in str(raised.value)


async def test_it_says_what_it_does(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = weights(tmp_path, "w", save_best_only=True, verbose=1)
    await script.fit([4, 5, 3], checkpoint)
    path = tmp_path / "w.safetensors"
    assert sorted(capsys.readouterr().out.splitlines()) == [
        f"Epoch 1: loss improved from None to 4.00000, saving to {path}",
        f"Epoch 1: saved to {path}",
        "Epoch 2: loss did not improve from 4.00000",
        f"Epoch 3: loss improved from 4.00000 to 3.00000, saving to {path}",
        f"Epoch 3: saved to {path}",
    ]
    await script.fit([4], weights(tmp_path, "w"))
    assert capsys.readouterr().out == ""


BAD: list[tuple[str, Any]] = [
    ("filepath", ""), ("filepath", None), ("filepath", 3), ("filepath", b"w"),
    ("filepath", "w-{}"), ("filepath", "w-{0}"), ("filepath", "w-{epoch"), ("filepath", "w-}"),
    ("monitor", ""), ("monitor", None), ("mode", "maximum"), ("mode", None),
    ("verbose", -1), ("verbose", "yes"), ("save_best_only", 1), ("save_best_only", None),
    ("save_weights_only", "yes"), ("save_freq", 0), ("save_freq", -3), ("save_freq", 1.5),
    ("save_freq", True), ("save_freq", "batch"), ("save_freq", None),
    ("initial_value_threshold", NAN), ("initial_value_threshold", "1"),
    ("initial_value_threshold", True), ("keep", 0), ("keep", -1), ("keep", 1.0), ("keep", True),
    ("timeout_s", 0), ("timeout_s", -1), ("timeout_s", INF), ("timeout_s", "1"),
]  # fmt: skip


@pytest.mark.parametrize(("argument", "value"), BAD)
def test_an_argument_out_of_range_is_refused_with_its_name(argument: str, value: Any) -> None:
    given: dict[str, Any] = {"filepath": "w-{epoch}", argument: value}
    with pytest.raises(InvalidArgumentError) as raised:
        ModelCheckpoint(**given)
    assert str(raised.value).startswith(f"ModelCheckpoint.{argument}: found {value!r}; ")


@pytest.mark.parametrize(
    ("filepath", "weights_only", "instead"),
    [
        ("a/{epoch}.weights.h5", True, "write 'a/{epoch}.safetensors'"),
        ("w.h5", True, "write 'w.safetensors'"),
        ("w.keras", True, "write 'w.safetensors'"),
        ("w", True, "write 'w.safetensors'"),
        ("w.keras", False, "write 'w', or save_weights_only=True and 'w.safetensors'"),
        ("w.h5", False, "write 'w', or save_weights_only=True and 'w.safetensors'"),
        ("w.weights.h5", False, "write 'w', or save_weights_only=True and 'w.safetensors'"),
        ("w.safetensors", False, "write 'w', or save_weights_only=True and 'w.safetensors'"),
    ],
)
def test_an_ending_of_another_kind_is_refused_with_the_right_one(
    filepath: str, weights_only: bool, instead: str
) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        ModelCheckpoint(filepath, save_weights_only=weights_only)
    assert str(raised.value).startswith(f"ModelCheckpoint.filepath: found {filepath!r}; ")
    assert str(raised.value).endswith(instead)


def test_its_attributes_are_those_of_keras() -> None:
    checkpoint = ModelCheckpoint(Path("a") / "b", "loss", 1, True, False, "min", 7, 0.5)
    found = vars(checkpoint) | {"best": checkpoint.best}
    expected = {
        "filepath": "a/b", "monitor": "loss", "verbose": 1, "save_best_only": True,
        "save_weights_only": False, "save_freq": 7, "best": 0.5,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected


def test_only_one_that_counts_batches_listens_to_them() -> None:
    """Else training would wait for it after every batch."""
    assert "on_train_batch_end" not in vars(ModelCheckpoint("w"))
    assert "on_train_batch_end" in vars(ModelCheckpoint("w", save_freq=1))
