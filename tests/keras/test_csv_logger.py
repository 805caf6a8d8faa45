"""`CSVLogger` of Keras and of fitbus write the same bytes."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fitbus.callbacks import CSVLogger, LearningRateScheduler

from ._differential import METRICS, Row, Script, Twins, check_same
from ._values import Values

TRAIN = ("loss", *METRICS)


def cell(values: Values) -> Any:
    """A value as logs may have, of any kind that Keras can write."""
    number = float(values.random.normal())
    kinds: dict[int, Any] = {
        0: float("nan"),
        1: float("inf"),
        2: np.float32(number),
        3: np.array([number, 1.0]),
        4: [number, 2, "a,b"],
        5: values.one_of("text", 'with "quotes"', "a,b;c\td|e", "two\nlines", "", " ä", "NA"),
        6: values.count(-3, 3),
        7: np.array(number),
        8: values.one_of(None, True, np.float64(number), np.int64(3), (1, 2), 1e-300, 123456789.0),
    }
    return kinds.get(values.count(0, 16), number)


def script(values: Values) -> Script:
    """Rows of the same names, some of which may be missing; with validation in the first epoch.

    Or without any in it, and then perhaps in later ones.
    """
    length = values.count(1, 7)
    initial = values.one_of(0, 0, 1)
    if values.chance(0.5):
        names = [*TRAIN, *(f"val_{name}" for name in TRAIN), "learning_rate", "points"]
        names = [name for name in names if values.chance(0.8)] + ["val_z"]
        rows = [{name: cell(values) for name in names} for _ in range(length)]
        if values.chance(0.5):
            for row in rows[initial + 1 :]:
                for name in names:
                    if values.chance(0.2):
                        del row[name]
        return Script(rows, initial_epoch=initial)
    rows = [{name: cell(values) for name in TRAIN} for _ in range(length)]
    if values.chance(0.5):
        for row in rows[initial + 1 :]:
            if values.chance(0.5):
                row.update({f"val_{name}": cell(values) for name in TRAIN})
    return Script(rows, initial_epoch=initial)


@pytest.mark.parametrize("seed", range(20))
def test_bytes_are_those_of_keras(twins: Twins, seed: int, tmp_path: Path) -> None:
    """Any separator; into no file, an empty one, or one of an earlier training; in a second fit."""
    values = Values(4000 + seed)
    for number in range(6):
        theirs_at, ours_at = tmp_path / f"keras{number}.csv", tmp_path / f"fitbus{number}.csv"
        given: dict[str, Any] = {
            "separator": values.one_of(",", ";", "\t", "|"),
            "append": values.chance(0.5),
        }
        before = values.one_of(None, "", "earlier")
        if before == "earlier" and given["append"]:
            twins.by_keras(script(values), twins.keras.callbacks.CSVLogger(theirs_at, **given))
            shown = same_names(values, theirs_at, given["separator"])
        else:
            if before is not None:
                theirs_at.write_text(before, "utf-8")
            shown = script(values)
        if theirs_at.exists():
            ours_at.write_bytes(theirs_at.read_bytes())
        theirs = twins.keras.callbacks.CSVLogger(theirs_at, **given)
        ours = CSVLogger(ours_at, **given)
        for _fit in range(values.one_of(1, 1, 2)):
            expected = twins.by_keras(shown, theirs)
            check_same(twins.by_fitbus(shown, ours), expected, (given, shown))
            assert ours_at.read_bytes() == theirs_at.read_bytes(), (given, before, shown)


def same_names(values: Values, path: Path, separator: str) -> Script:
    """Rows that go beneath a file's header."""
    with path.open(newline="") as file:
        header = next(csv.reader(file, delimiter=separator), None)
    if header is None:  # a training of no epoch
        return script(values)
    rows: list[Row] = [{name: cell(values) for name in header[1:]} for _ in range(3)]
    return Script(rows)


def test_keras_makes_up_columns_and_drops_values_and_fitbus_does_not(
    twins: Twins, tmp_path: Path
) -> None:
    """A validation has no learning rate; and what appears later gets a column, and `NA` before."""
    rows: list[Row] = [{"loss": 1.0}, {"loss": 2.0, "late": 3.0}]
    theirs_at, ours_at = tmp_path / "keras.csv", tmp_path / "fitbus.csv"
    twins.by_keras(
        Script(rows),
        twins.keras.callbacks.LearningRateScheduler(lambda _: 0.5),
        twins.keras.callbacks.CSVLogger(theirs_at),
    )
    twins.by_fitbus(Script(rows), LearningRateScheduler(lambda _: 0.5), CSVLogger(ours_at))
    assert theirs_at.read_text("utf-8").splitlines() == [
        "epoch,learning_rate,loss,val_learning_rate,val_loss",
        "0,0.5,1.0,NA,NA",
        "1,0.5,2.0,NA,NA",
    ]
    header, *lines = ours_at.read_text("utf-8").splitlines()
    assert header.startswith("epoch,learning_rate,loss,val_loss")
    assert header.endswith(",late")
    assert "val_learning_rate" not in header
    assert [line.split(",")[:3] + line.split(",")[-1:] for line in lines] == [
        ["0", "0.5", "1.0", "NA"],
        ["1", "0.5", "2.0", "3.0"],
    ]


def test_below_another_header_keras_writes_other_columns_and_fitbus_those_of_the_header(
    twins: Twins, tmp_path: Path
) -> None:
    shown = Script([{"loss": 1.0, "val_loss": 2.0}])
    paths = [tmp_path / "keras.csv", tmp_path / "fitbus.csv"]
    for path in paths:
        path.write_bytes(b"epoch,val_loss,loss\r\n0,4.0,3.0\r\n")
    twins.by_keras(shown, twins.keras.callbacks.CSVLogger(paths[0], append=True))
    twins.by_fitbus(shown, CSVLogger(paths[1], append=True))
    assert paths[0].read_text("utf-8").splitlines()[-1] == "0,1.0,2.0"
    assert paths[1].read_text("utf-8").splitlines()[-1] == "0,2.0,1.0"
