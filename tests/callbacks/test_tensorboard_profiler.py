"""The window of batches that JAX' profiler looks at."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import jax
import pytest

from fitbus import BatchEnd, EpochEnd
from fitbus.callbacks import TensorBoard

from ._tensorboard_reading import Records, Toy
from ._waits import waits

pytestmark = pytest.mark.anyio


def traces(place: Path) -> list[Path]:
    """What the profiler left, where TensorBoard looks for it."""
    return sorted(place.glob("train/plugins/profile/*/*.xplane.pb"))


@pytest.mark.parametrize("profile_batch", [2, (2, 3), "3,6"])
async def test_a_window_leaves_a_trace(toy: Toy, tmp_path: Path, profile_batch: Any) -> None:
    await toy.fit(TensorBoard(tmp_path, profile_batch=profile_batch))
    (trace,) = traces(tmp_path)
    assert trace.stat().st_size > 0
    assert b"train" in trace.read_bytes()  # the name of its steps


@pytest.mark.parametrize(
    ("window", "waited"), [((5, 6), [True, False, False]), ((100, 101), [False, False, False])]
)
async def test_batches_are_waited_for_in_the_window_only(
    toy: Toy, tmp_path: Path, window: tuple[int, int], waited: list[bool]
) -> None:
    seen: list[bool] = []

    async with toy.trainer.run(
        toy.problem.x,
        toy.problem.y,
        batch_size=16,
        epochs=3,
        callbacks=[TensorBoard(tmp_path, profile_batch=window)],
    ) as run:

        def look(event: EpochEnd) -> None:
            seen.append(any(waits(run)))

        run.add(look)
        await run.wait()
    assert seen == waited
    assert len(traces(tmp_path)) == any(waited)


async def test_a_window_that_is_not_reached_leaves_nothing(toy: Toy, tmp_path: Path) -> None:
    await toy.fit(TensorBoard(tmp_path, profile_batch=100))
    assert traces(tmp_path) == []


async def test_a_run_that_ends_in_the_window_stops_the_profiler(toy: Toy, tmp_path: Path) -> None:
    def fail(event: BatchEnd) -> None:
        if event.batch == 2:
            raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        await toy.fit(TensorBoard(tmp_path, profile_batch=(2, 50)), fail)
    assert len(traces(tmp_path)) == 1
    jax.profiler.start_trace(str(tmp_path / "mine"))  # nobody else's is running
    jax.profiler.stop_trace()


async def test_a_profiler_that_runs_already_is_left_alone_and_training_goes_on(
    toy: Toy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jax.profiler.start_trace(str(tmp_path / "mine"))
    try:
        await toy.fit(TensorBoard(tmp_path / "logs", profile_batch=2))
    finally:
        jax.profiler.stop_trace()  # raises if somebody stopped it
    assert "the profiler couldn't be started" in caplog.text
    assert [r.levelno for r in caplog.records if "profiler" in r.message] == [logging.ERROR]
    assert traces(tmp_path / "logs") == []
    assert Records(tmp_path / "logs" / "train").steps("epoch_loss") == [0, 1]
