"""Fused steps and data whose arrays are filled anew for each batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fitbus
from fitbus.testing import toy_problem

PROBLEM = toy_problem(64, 4)


def batches(*, reuse: bool) -> Iterator[Any]:
    """Eight batches, each in an array of its own or all in one."""
    x, y = np.empty_like(PROBLEM.x[:8]), np.empty_like(PROBLEM.y[:8])
    for start in range(0, 64, 8):
        if not reuse:
            x, y = x.copy(), y.copy()
        x[:], y[:] = PROBLEM.x[start : start + 8], PROBLEM.y[start : start + 8]
        yield x, y


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_a_buffer_that_is_filled_again_and_again_is_read_in_time(steps: int) -> None:
    found: list[Any] = []
    for reuse in (True, False):
        trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
        logs = trainer.fit_sync(
            lambda reuse=reuse: batches(reuse=reuse), epochs=2, steps_per_execution=steps
        )
        found.append(logs.history["loss"])
    assert found[0] == found[1]
