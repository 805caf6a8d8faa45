"""What a run counts of its input: examples, and the time that it waited for them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

import fitbus
from fitbus.testing import toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(100)
TRAINER = fitbus.Trainer(PROBLEM.task, PROBLEM.params)


async def test_examples_are_counted_without_the_rows_that_fill_up_a_batch() -> None:
    """At each batch as far as its step; those of an earlier training aren't."""
    for _ in range(2):
        seen: list[int] = []
        run = TRAINER.run(PROBLEM.x, PROBLEM.y, batch_size=32, epochs=2, validation_split=0.1)
        assert run.statistics().examples == 0

        @run.on(fitbus.BatchEnd)
        def look(
            event: fitbus.BatchEnd,
            run: fitbus.Run[Any] = run,
            seen: list[int] = seen,
        ) -> None:
            seen.append(run.statistics().examples)

        async with run:
            await run.wait()
        assert seen == [32, 64, 90, 122, 154, 180]
        assert run.statistics().examples == 180


async def test_the_wait_for_batches_is_measured() -> None:
    """From a source that is slow, and hardly any from one that isn't."""

    def batches(wait_s: float) -> Iterator[Any]:
        for start in range(0, 96, 32):
            time.sleep(wait_s)
            yield PROBLEM.x[start : start + 32], PROBLEM.y[start : start + 32]

    waited: dict[float, float] = {}
    for wait_s in (0.05, 0.0):
        async with TRAINER.run(lambda wait_s=wait_s: batches(wait_s), epochs=2) as run:
            assert run.statistics().input_s == 0
            await run.wait()
        waited[wait_s] = run.statistics().input_s
    # The first batch of all is looked at before the loop, for its shapes.
    assert waited[0.05] >= 5 * 0.05
    assert 0 < waited[0.0] < waited[0.05] - 0.2
