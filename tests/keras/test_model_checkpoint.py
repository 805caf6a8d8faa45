"""`ModelCheckpoint` of Keras and of fitbus save the same weights under the same names."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fitbus.callbacks import ModelCheckpoint
from fitbus.checkpoints import load_state, load_weights

from ._differential import Row, Script, Twins, check_same
from ._values import Values

NAN = math.nan


def arguments(values: Values) -> dict[str, Any]:
    """Drawn arguments."""
    monitor = values.one_of("val_loss", "loss", "val_accuracy", "hinge", "points")
    directions = ("min", "max") if monitor == "points" else ("auto", "auto", "min", "max")
    given: dict[str, Any] = {
        "monitor": monitor,
        "save_best_only": values.chance(0.6),
        "mode": values.one_of(*directions),
        "initial_value_threshold": values.one_of(None, None, 0.5, 0.0, -0.01, math.inf),
    }
    if not given["save_best_only"] and values.chance(0.7):  # both are another matter: below
        given["save_freq"] = values.count(1, 7)
    return given


def name(values: Values, given: dict[str, Any]) -> str:
    """A drawn path, without its ending."""
    names = ["w", "{epoch}", "{epoch:02d}-{other:.2f}", "a/b/{epoch}", "{other}/w{epoch:03d}"]
    if "save_freq" in given:
        names += ["{epoch}-{batch}", "{batch:02d}", "{epoch}/{batch}-{other:.1f}"]
    found: str = values.one_of(*names)
    return found


def script(values: Values, given: dict[str, Any]) -> Script:
    """Drawn values of what is monitored; some epochs may be without, or have several."""
    monitored: list[Any] = list(values.sequence(values.count(1, 6)))
    initial = values.one_of(0, 0, 0, 1)
    if initial < len(monitored) and math.isnan(monitored[initial]):
        monitored[initial] = 0.5  # a first NaN is another matter: below
    odd = 0.2 if values.chance(0.2) else 0.0
    rows: list[Row] = []
    for epoch, value in enumerate(monitored):
        row: Row = {"other": float(values.random.normal())}
        if epoch <= initial or not values.chance(odd):
            row[given["monitor"]] = value
        elif values.chance(0.5):
            row[given["monitor"]] = np.array([value, 1.0])
        rows.append(row)
    batches: list[list[Row]] = []
    if "save_freq" in given:
        steps = values.count(1, 4)
        batches = [[{"other": float(values.random.normal())} for _ in range(steps)] for _ in rows]
    return Script(rows, batches=batches, initial_epoch=initial)


def saved_by_keras(folder: Path) -> dict[str, float]:
    """Names without endings, and which weights the files hold."""
    import h5py  # type: ignore[import-untyped]  # has no types

    found: dict[str, float] = {}
    for path in sorted(folder.rglob("*.weights.h5")):
        with h5py.File(path) as file:
            bias: Any = file["layers/dense/vars/1"]
            found[str(path.relative_to(folder)).removesuffix(".weights.h5")] = float(bias[0])
    return found


def saved_by_fitbus(folder: Path, twins: Twins) -> dict[str, float]:
    """Likewise."""
    params = twins.trainer.state.params
    return {
        str(path.relative_to(folder)).removesuffix(".safetensors"): float(
            load_weights(path, params)["b"]
        )
        for path in sorted(folder.rglob("*.safetensors"))
    }


@pytest.mark.parametrize("seed", range(36))
def test_files_are_those_of_keras(twins: Twins, seed: int, tmp_path: Path) -> None:
    """Their names, and whose weights they hold; best values and warnings; in a second fit too."""
    values = Values(6000 + seed)
    for number in range(2):
        given = arguments(values)
        path = name(values, given)
        theirs_at, ours_at = tmp_path / f"keras{number}", tmp_path / f"fitbus{number}"
        theirs = twins.keras.callbacks.ModelCheckpoint(
            theirs_at / f"{path}.weights.h5", save_weights_only=True, **given
        )
        ours = ModelCheckpoint(ours_at / f"{path}.safetensors", save_weights_only=True, **given)
        for _fit in range(values.one_of(1, 1, 2)):
            shown = script(values, given)
            expected = twins.by_keras(shown, theirs)
            check_same(twins.by_fitbus(shown, ours), expected, (given, shown))
            assert saved_by_fitbus(ours_at, twins) == saved_by_keras(theirs_at), (given, shown)
            assert repr(ours.best) == repr(theirs.best), (given, shown)


def test_whole_states_have_the_names_of_keras(twins: Twins, tmp_path: Path) -> None:
    """A directory of Orbax' for each `.keras` file, with the state of the same epoch."""
    shown = Script([{"val_loss": value} for value in (3.0, 4.0, 2.0)])
    path = "{epoch:02d}-{val_loss:.1f}"
    given: dict[str, Any] = {"save_best_only": True}
    theirs = twins.keras.callbacks.ModelCheckpoint(tmp_path / "keras" / f"{path}.keras", **given)
    expected = twins.by_keras(shown, theirs)
    check_same(
        twins.by_fitbus(shown, ModelCheckpoint(tmp_path / "fitbus" / path, **given)),
        expected,
        shown,
    )
    names = {file.name.removesuffix(".keras") for file in (tmp_path / "keras").iterdir()}
    assert names == {file.name for file in (tmp_path / "fitbus").iterdir()} == {"01-3.0", "03-2.0"}
    state = load_state(tmp_path / "fitbus" / "03-2.0", twins.trainer.state)
    assert float(state.params["b"]) == 3.0


def test_a_first_nan_poisons_keras_and_not_fitbus(twins: Twins, tmp_path: Path) -> None:
    """There the first weights are saved, and no better ones ever."""
    shown = Script([{"val_loss": value} for value in (NAN, 3.0, 2.0)])
    given: dict[str, Any] = {"save_best_only": True, "save_weights_only": True}
    theirs = twins.keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", **given)
    ours = ModelCheckpoint(tmp_path / "{epoch}.safetensors", **given)
    twins.by_keras(shown, theirs)
    twins.by_fitbus(shown, ours)
    assert saved_by_keras(tmp_path) == {"1": 1.0}
    assert saved_by_fitbus(tmp_path, twins) == {"2": 2.0, "3": 3.0}
    assert (repr(theirs.best), ours.best) == ("nan", 2.0)


def test_the_best_of_batches_is_an_error_of_keras_and_works_in_fitbus(
    twins: Twins, tmp_path: Path
) -> None:
    """It fails at the second comparison of the first epoch."""
    losses = [3.0, 2.0, 4.0, 1.0]
    batches: list[list[Row]] = [[{"loss": loss} for loss in losses]]
    shown = Script([{"loss": 1.0}], batches=batches)
    given: dict[str, Any] = {
        "monitor": "loss",
        "save_best_only": True,
        "save_weights_only": True,
        "save_freq": 1,
    }
    theirs = twins.keras.callbacks.ModelCheckpoint(tmp_path / "{batch}.weights.h5", **given)
    ours = ModelCheckpoint(tmp_path / "{batch}.safetensors", **given)
    assert twins.by_keras(shown, theirs).error == "TypeError"
    assert twins.by_fitbus(shown, ours).error == ""
    assert list(saved_by_keras(tmp_path)) == ["1"]
    assert list(saved_by_fitbus(tmp_path, twins)) == ["1", "2", "4"]
    assert ours.best == 1.0


def test_a_directory_in_the_way_is_an_error_of_both(twins: Twins, tmp_path: Path) -> None:
    (tmp_path / "w.weights.h5").mkdir()
    (tmp_path / "w.safetensors").mkdir()
    shown = Script([{"loss": 1.0}])
    given: dict[str, Any] = {"save_weights_only": True}
    theirs = twins.keras.callbacks.ModelCheckpoint(tmp_path / "w.weights.h5", **given)
    ours = ModelCheckpoint(tmp_path / "w.safetensors", **given)
    assert twins.by_keras(shown, theirs).error != ""
    assert twins.by_fitbus(shown, ours).error != ""
