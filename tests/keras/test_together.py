"""Several callbacks in one list, in any order: together they do what Keras' do."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import fitbus.callbacks
from fitbus.callbacks import History
from fitbus.checkpoints import load_weights

from ._differential import Row, Script, Twins, check_same
from ._values import Values


def drawn(values: Values, folder: Path, ending: str) -> list[tuple[str, dict[str, Any]]]:
    """Names of callbacks with their arguments, in any order; one of them sets the learning rate."""
    sets_rate: tuple[str, dict[str, Any]] = values.one_of(
        ("ReduceLROnPlateau", {"factor": 0.5, "patience": values.count(0, 2)}),
        ("LearningRateScheduler", {"schedule": lambda epoch, lr: lr * 0.9}),
    )
    best: dict[str, Any] = {
        "filepath": folder / f"{{epoch}}-{{val_loss:.3f}}{ending}",
        "save_best_only": values.chance(0.5),
        "save_weights_only": True,
    }
    stops: dict[str, Any] = {
        "monitor": values.one_of("loss", "val_loss"),
        "patience": values.count(1, 4),
        "restore_best_weights": values.chance(0.7),
    }
    found = [
        sets_rate,
        ("ModelCheckpoint", best),
        ("EarlyStopping", stops),
        ("CSVLogger", {"filename": folder / "log.csv"}),
        ("History", {}),
    ]
    values.random.shuffle(found)
    return found


@pytest.mark.parametrize("seed", range(16))
def test_they_do_what_those_of_keras_do(twins: Twins, seed: int, tmp_path: Path) -> None:
    """Each sees what those before it have written into the logs, and no more."""
    values = Values(7000 + seed)
    for number in range(2):
        length = values.count(1, 8)
        columns = {name: values.sequence(length) for name in ("loss", "val_loss", "val_accuracy")}
        rows: list[Row] = [
            {name: column[epoch] for name, column in columns.items()} for epoch in range(length)
        ]
        folders = tmp_path / f"keras{number}", tmp_path / f"fitbus{number}"
        for folder in folders:
            folder.mkdir()
        state = values.random.bit_generator.state
        by_keras = drawn(values, folders[0], ".weights.h5")
        values.random.bit_generator.state = state
        by_fitbus = drawn(values, folders[1], ".safetensors")
        shown = Script(rows)
        theirs = [getattr(twins.keras.callbacks, name)(**given) for name, given in by_keras]
        ours = [getattr(fitbus.callbacks, name)(**given) for name, given in by_fitbus]
        expected = twins.by_keras(shown, *theirs)
        found = twins.by_fitbus(shown, *ours)
        # Keras' `fit` returns the `History` of the list, which sees what comes before it; ours
        # returns a record of its own, of all.
        recorded = next(callback for callback in ours if isinstance(callback, History))
        found = dataclasses.replace(found, history=recorded.history)
        check_same(found, expected, (by_fitbus, shown))
        logs = [(folder / "log.csv").read_bytes() for folder in folders]
        assert logs[0] == logs[1], (by_fitbus, shown)
        names = [
            {path.name.removesuffix(ending) for path in folder.glob(f"*{ending}")}
            for folder, ending in zip(folders, (".weights.h5", ".safetensors"), strict=True)
        ]
        assert names[0] == names[1], (by_fitbus, shown)
        params = twins.trainer.state.params
        for path in folders[1].glob("*.safetensors"):
            assert float(load_weights(path, params)["b"]) == int(path.name.split("-")[0])
