"""The CSV file: its bytes, its columns, and the arguments that are refused."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
import pytest
from keras.callbacks import CSVLogger as KerasLogger

import fitbus
from fitbus.callbacks import CSVLogger
from fitbus.errors import InvalidArgumentError

from ._logs import ONE, Adds, Only, lines, rows

if TYPE_CHECKING:
    from .conftest import Script

pytestmark = pytest.mark.anyio

NAN = math.nan


KERAS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "floats": ({}, [{"loss": 0.1, "val_loss": 1e-7}, {"loss": 12345678.9, "val_loss": 1.0}]),
    "not sorted": ({}, [{"b": 1.5, "a": 2.5, "val_b": 0.5, "val_a": 0.25}]),
    "not finite": ({}, [{"loss": NAN, "val_loss": math.inf}, {"loss": -math.inf, "val_loss": NAN}]),
    "missing": ({}, [{"loss": 1.0, "val_loss": 2.0}, {"loss": 1.0}, {"val_loss": 2.0}]),
    "lists": ({}, [{"a": [1, 2.5], "b": np.arange(3), "c": (), "val_a": jnp.arange(2)}]),
    "numpy": ({}, [{"a": np.float32(0.1), "b": np.float64(0.1), "val_c": np.array(0.5)}]),
    "others": ({}, [{"a": True, "b": None, "c": 7, "d": "text", "val_a": 1}]),
    "text to quote": ({}, [{"a": 'say "a, b"', "b": "two\nlines", "val_a": " "}]),
    "a name to quote": ({}, [{"a,b": 1.0, "val_a": 2.0}]),
    "tabs": ({"separator": "\t"}, [{"loss": 1.0, "val_loss": 2.0, "c": "a,b"}]),
    "a separator that numbers have": ({"separator": "."}, [{"loss": 0.5, "val_loss": 1.5}]),
}


@pytest.mark.parametrize("case", KERAS)
async def test_its_bytes_are_those_of_keras(script: Script, tmp_path: Path, case: str) -> None:

    given, logs = KERAS[case]
    theirs = KerasLogger(tmp_path / "theirs.csv", **given)
    theirs.on_train_begin()
    for epoch, found in enumerate(logs):
        theirs.on_epoch_end(epoch, found)
    theirs.on_train_end()
    ours = CSVLogger(tmp_path / "ours.csv", **given)
    await script.fit([0.0] * len(logs), Only(*logs), ours)
    assert (tmp_path / "ours.csv").read_bytes() == (tmp_path / "theirs.csv").read_bytes()


async def test_a_training_without_validation_has_keras_empty_columns_of_one(tmp_path: Path) -> None:
    """One `val_*` for each metric, and none for what a callback adds."""
    trainer, x, y = toy()
    path = tmp_path / "log.csv"
    await trainer.fit(x, y, epochs=2, callbacks=[Adds("learning_rate", [0.5] * 2), CSVLogger(path)])
    header, *found = rows(path)
    assert header == [
        *("epoch", "learning_rate", "loss", "mean_absolute_error"),
        *("val_loss", "val_mean_absolute_error"),
    ]
    assert [row[0] for row in found] == ["0", "1"]
    assert [row[-2:] for row in found] == [["NA", "NA"]] * 2


def toy() -> tuple[fitbus.Trainer, Any, Any]:
    problem = fitbus.testing.toy_problem(64)
    return fitbus.Trainer(problem.task, problem.params), problem.x, problem.y


async def test_a_first_epoch_without_validation_leaves_columns_for_that_and_no_others(
    tmp_path: Path,
) -> None:
    """Keras makes up `val_learning_rate`."""
    trainer, x, y = toy()
    path = tmp_path / "log.csv"
    await trainer.fit(
        *(x, y),
        epochs=3,
        validation_split=0.5,
        validation_freq=2,
        callbacks=[Adds("learning_rate", [0.5] * 3), CSVLogger(path)],
    )
    header, *found = rows(path)
    assert header == [
        *("epoch", "learning_rate", "loss", "mean_absolute_error"),
        *("val_loss", "val_mean_absolute_error"),
    ]
    assert [row.count("NA") for row in found] == [2, 0, 2]


async def test_a_name_that_appears_later_gets_a_column_at_the_end(
    script: Script, tmp_path: Path
) -> None:
    """Keras drops it without a word."""
    path = tmp_path / "log.csv"
    logs: list[dict[str, Any]] = [ONE, {"loss": 1.0, "z": 3.0, "b": [1, 2]}, {"z": 4.0}]
    await script.fit([0.0] * 3, Only(*logs), CSVLogger(path))
    assert lines(path) == [
        "epoch,loss,val_loss,b,z",
        "0,1.0,2.0,NA,NA",
        '1,1.0,NA,"""[1, 2]""",3.0',
        "2,NA,NA,NA,4.0",
    ]
    assert os.listdir(tmp_path) == ["log.csv"]  # noqa: PTH208  # nothing is left beside it


BAD: dict[str, list[Any]] = {
    "filename": [None, "", 3, b""],
    "separator": [None, "", ",,", "\n", '"', 3],
    "append": [None, 1, "yes"],
    "timeout_s": [0, -1, math.inf, NAN, None, "1", True],
}


@pytest.mark.parametrize(("argument", "value"), [(k, v) for k, vs in BAD.items() for v in vs])
def test_it_refuses(argument: str, value: Any) -> None:
    given: dict[str, Any] = {"filename": "log.csv", argument: value}
    with pytest.raises(InvalidArgumentError, match=rf"^CSVLogger\.{argument}: found "):
        CSVLogger(**given)
