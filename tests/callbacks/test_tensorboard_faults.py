"""Bad arguments, failing disks, cancelled and failing runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from fitbus import BatchEnd, EpochBegin, EpochEnd
from fitbus.callbacks import TensorBoard
from fitbus.errors import InvalidArgumentError
from fitbus.testing import EventRecorder, Gate

from ._tensorboard_reading import Array, Records, Toy, folders

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("log_dir", value) for value in ("", None, 3, b"logs", "gs://bucket/logs")),
        *(("histogram_freq", value) for value in (-1, 1.0, True, None, "1")),
        *(("embeddings_freq", value) for value in (-1, 0.5, False, None)),
        *(("write_graph", value) for value in (1, None, "yes")),
        ("write_images", 0),
        ("write_steps_per_second", "batch"),
        *(("update_freq", value) for value in ("step", 0, -1, 1.5, True, None)),
        *(("profile_batch", value) for value in (-1, 1.5, True, None, "a", "", "1,2,3", "3,2")),
        *(("profile_batch", value) for value in ((0, 2), (3, 2), (1, 2, 3), [1.0, 2.0], ())),
        *(("embeddings_metadata", value) for value in ("", 3, {"a": 1}, {1: "a"}, {"a": ""})),
        *(("timeout_s", value) for value in (0, -1, True, float("inf"), "1")),
    ],
)
def test_an_argument_out_of_its_range_is_refused_by_name(argument: str, value: Any) -> None:
    given: dict[str, Any] = {argument: value}
    with pytest.raises(InvalidArgumentError, match=f"TensorBoard.{argument}"):
        TensorBoard(**given)


@pytest.mark.parametrize(
    ("given", "window"),
    [(0, (0, 0)), (5, (5, 5)), ("5", (5, 5)), ((2, 4), (2, 4)), ([2, 4], (2, 4)), ("2,4", (2, 4))],
    ids=repr,
)
def test_a_window_of_the_profiler_is_given_as_in_keras(
    given: Any, window: tuple[int, int], tmp_path: Path
) -> None:
    assert TensorBoard(tmp_path, profile_batch=given)._window == window


async def test_a_directory_below_a_file_is_refused_before_the_first_step(
    toy: Toy, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("here first")
    board, recorder = TensorBoard(tmp_path / "file" / "logs", write_graph=False), EventRecorder()
    with pytest.raises(NotADirectoryError, match="file"):
        await toy.fit(board, recorder)
    with pytest.raises(NotADirectoryError, match="file"):
        await toy.evaluate(board, recorder)
    assert recorder.of(BatchEnd) == []


@pytest.mark.parametrize("update_freq", ["epoch", 1])
async def test_a_disk_that_fails_later_ends_training_and_the_object_serves_again(
    toy: Toy, tmp_path: Path, update_freq: Any
) -> None:
    board = TensorBoard(tmp_path / "logs", write_graph=False, update_freq=update_freq)
    in_the_way = tmp_path / "logs" / "train"

    def fail(event: EpochBegin) -> None:
        in_the_way.parent.mkdir(exist_ok=True)
        in_the_way.touch()

    with pytest.raises(FileExistsError, match="train"):
        await toy.fit(board, fail)
    in_the_way.unlink()
    await toy.fit(board)
    assert Records(in_the_way).steps("epoch_loss") == [0, 1]


async def test_what_came_before_a_cancellation_is_in_the_files(toy: Toy, tmp_path: Path) -> None:
    board, recorder, gate = TensorBoard(tmp_path, update_freq=1), EventRecorder(), Gate()
    gate.open()  # it only tells that somebody came

    async def tell(event: EpochEnd) -> None:
        if event.epoch == 1:
            await gate.pass_async()

    async with anyio.create_task_group() as group:

        async def train() -> None:
            await toy.fit(board, recorder, tell, epochs=100_000)

        group.start_soon(train)
        await gate.wait_arrived()
        group.cancel_scope.cancel()
    found = Records(tmp_path / "train")
    assert found.steps("batch_loss") == [event.step for event in recorder.of(BatchEnd)]
    assert found.steps("epoch_loss")[:2] == [0, 1]
    await toy.fit(board)
    assert Records(tmp_path / "train").steps("epoch_loss")[-2:] == [0, 1]


async def test_what_came_before_an_error_is_in_the_files(toy: Toy, tmp_path: Path) -> None:
    def data() -> Iterator[tuple[Array, Array]]:
        for index in range(6):
            if index == 5:
                raise OSError("the source is gone")
            yield toy.problem.x[:16], toy.problem.y[:16]

    board = TensorBoard(tmp_path, update_freq=1, histogram_freq=1)
    with pytest.raises(OSError, match="the source is gone"):
        await toy.trainer.fit(data(), steps_per_epoch=2, epochs=9, callbacks=[board])
    found = Records(tmp_path / "train")
    assert found.steps("epoch_loss") == found.steps("w/histogram") == [0, 1]
    assert len(found.steps("batch_loss")) == 5


def ran(program: str, *arguments: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-W", "error", "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_without_the_package_the_extra_is_named() -> None:
    program = """
import sys
sys.modules["tensorboard"] = None
from fitbus.callbacks import TensorBoard
try:
    TensorBoard()
except Exception as error:
    print(type(error).__name__, error)
"""
    said = ran(program)
    assert said.startswith("FitbusError TensorBoard needs the package tensorboard")
    assert 'pip install "fitbus[tensorboard]"' in said


@pytest.mark.slow
def test_an_installed_tensorflow_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('TensorFlow was loaded')")
    program = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from fitbus.callbacks import TensorBoard
from fitbus.testing import toy_problem
import fitbus
board = TensorBoard(sys.argv[1] + "/logs", histogram_freq=1, write_images=True, update_freq=1)
toy = toy_problem(32, 3)
trainer = fitbus.Trainer(toy.task, toy.params)
trainer.fit_sync(toy.x, toy.y, callbacks=[board])
board.image("image", np.zeros((2, 2)), 0)
print("done", "tensorflow" in sys.modules)
"""
    assert ran(program, str(tmp_path)) == "done False\n"
    assert "w/histogram" in Records(tmp_path / "logs" / "train").tags


@pytest.mark.slow
def test_a_full_disk_leaves_whole_records(tmp_path: Path) -> None:
    program = """
import resource, sys
from pathlib import Path
from fitbus.callbacks import TensorBoard
board = TensorBoard(sys.argv[1])
board.text("short", "first", 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    board.text("long", "x" * 5000, 0)
except OSError as error:
    print(type(error).__name__)
board.text("short", "second", 1)
"""
    assert ran(program, str(tmp_path)) == "OSError\n"
    found = Records(tmp_path / "train")
    assert [point.value.item() for point in found.tags["short"]] == [b"first", b"second"]
    assert set(found.tags) == {"short"}


def test_a_directory_that_was_removed_is_made_again(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path / "logs")
    board.scalar("a", 1.0, 0)
    for file in (tmp_path / "logs" / "train").iterdir():
        file.unlink()
    board.scalar("a", 2.0, 1)
    assert Records(tmp_path / "logs" / "train").scalars("a") == [(1, 2.0)]
    assert folders(tmp_path) == {"logs"}


def test_images_without_histograms_are_said_to_have_no_effect(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    TensorBoard(tmp_path, write_images=True)
    assert "write_images has no effect without histogram_freq" in caplog.text
    assert folders(tmp_path) == set()
