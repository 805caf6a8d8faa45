"""`Guard("rollback")` where batches in a row are bad: the same, however far steps run ahead."""

from __future__ import annotations

from typing import Any

import pytest

import fitbus
from fitbus import BatchEnd
from fitbus.callbacks import Guard

from ._guarded import PROBLEM, bits, with_nan


def ended(x: Any, *callbacks: Any, in_flight: Any, every: int, **options: Any) -> tuple[int, Any]:
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params, max_in_flight=in_flight)
    guard = Guard("rollback", snapshot_every=every)
    trainer.fit_sync(
        *(x, PROBLEM.y),
        batch_size=8,
        shuffle=False,
        epochs=3,
        callbacks=[guard, *callbacks],
        **options,
    )
    return int(trainer.state.step), bits(trainer.state)


@pytest.mark.slow
@pytest.mark.parametrize("every", [2, 3, 20])
@pytest.mark.parametrize("fused", [1, 2])
def test_batches_in_a_row_end_the_same_however_far_steps_run_ahead(every: int, fused: int) -> None:
    """And whether training waits for somebody or not; with and without fused steps."""
    x = with_nan(4, 5)

    def waits(event: BatchEnd) -> None: ...

    options: dict[str, Any] = {"every": every, "steps_per_execution": fused}
    expected = ended(x, in_flight=1, **options)
    for in_flight in (2, 8, 64, "auto", "auto"):
        assert ended(x, in_flight=in_flight, **options) == expected
    assert ended(x, waits, in_flight="auto", **options) == expected
