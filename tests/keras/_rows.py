"""What the tests of the README's tables 'From Keras to fitbus' share: rows, and what is trained."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

import fitbus
from fitbus.testing import toy_problem

from ._data import one_layer, sums

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "README.md").read_text("utf-8")

PROBLEM = toy_problem(64)
X, Y = sums(64)


class Table:
    """One of the two tables, or a part of it, and the functions that test its rows.

    Args:
        number: Which one, from 0.
        first: The first cell of its first row; the table's unless given.
        end: That of the row behind its last one; all others unless given.
    """

    def __init__(self, number: int, *, first: str | None = None, end: str | None = None) -> None:
        heading, next_one = "## From Keras to fitbus", "## Delivery, overflow, errors"
        section = PAGE[PAGE.index(heading) : PAGE.index(next_one)]
        table = section.split("| Keras | fitbus |\n|---|---|\n")[1:][number]
        rows: list[str] = re.findall(r"^\| (.+?) \| .* \|$", table, re.MULTILINE)
        begin = 0 if first is None else rows.index(first)
        self.rows = rows[begin : None if end is None else rows.index(end)]
        self.tests: dict[str, Callable[[Path], None]] = {}

    def row(self, cell: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
        """Says which row a function tests."""

        def note(function: Callable[[Path], None]) -> Callable[[Path], None]:
            assert cell not in self.tests
            self.tests[cell] = function
            return function

        return note


def name_of(cell: str) -> str:
    """A row's first cell as a test's name."""
    return re.sub(r"\W+", "_", cell)[:50].strip("_")


def model() -> Any:
    """A compiled model, the same one each time."""
    made = one_layer(keras.optimizers.SGD(0.1), metrics=["mae"])
    made.set_weights([np.full((4, 1), 0.5, np.float32), np.zeros(1, np.float32)])
    return made


def trainer() -> fitbus.Trainer:
    """A trainer of the toy problem, at its start."""
    return fitbus.Trainer(PROBLEM.task, PROBLEM.params)


def fit(*attached: Any, epochs: int = 2, **options: Any) -> fitbus.History:
    """Fits the toy problem with callbacks."""
    return trainer().fit_sync(
        PROBLEM.x, PROBLEM.y, epochs=epochs, callbacks=list(attached), **options
    )


def near(found: Any, expected: Any) -> bool:
    return bool(np.allclose(found, expected, rtol=1e-5, atol=1e-7))
