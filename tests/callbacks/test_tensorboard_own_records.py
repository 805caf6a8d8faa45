"""What users write themselves: before, in and after a run, from any thread."""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from fitbus import BatchEnd, EpochEnd, TrainEnd
from fitbus.callbacks import Callback, Logs, TensorBoard
from fitbus.callbacks._tensorboard_writer import Writer
from fitbus.errors import InvalidArgumentError

from ._tensorboard_reading import Array, Records, Toy, as_float32, folders

pytestmark = pytest.mark.anyio


class Writes(Callback):
    """Writes in all ways there are."""

    def __init__(self, board: TensorBoard) -> None:
        self.board = board

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.board.text("note", "begin", 0)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.board.scalar("from a hook", epoch / 2, epoch)
        thread = threading.Thread(target=self.board.scalar, args=("from a thread", epoch, epoch))
        thread.start()
        thread.join()

    async def on_test_end(self, logs: Logs | None = None) -> None:
        self.board.scalar("from the loop", 1.0, 0, to="validation")

    def on_train_end(self, logs: Logs | None = None) -> None:
        self.board.text("note", "end", 9)


@pytest.mark.parametrize("is_first", [True, False])
async def test_all_that_is_written_in_a_run_is_there_when_fit_returns(
    toy: Toy, tmp_path: Path, is_first: bool
) -> None:
    board = TensorBoard(tmp_path)

    async def late(event: TrainEnd) -> None:
        board.scalar("from a handler", event.step, event.step)

    def concurrent(event: BatchEnd) -> None:
        board.scalar("from a batch", event.logs["loss"], event.step)

    callbacks: list[Any] = [board, Writes(board), late]
    async with toy.trainer.run(
        toy.problem.x,
        toy.problem.y,
        batch_size=16,
        epochs=2,
        validation_split=0.25,
        callbacks=callbacks if is_first else callbacks[::-1],
    ) as run:
        run.add(concurrent, wait=False)
        await run.wait()
    found = Records(tmp_path / "train")
    assert [point.value.item() for point in found.tags["note"]] == [b"begin", b"end"]
    assert found.scalars("from a hook") == [(0, 0.0), (1, 0.5)]
    assert found.scalars("from a thread") == [(0, 0.0), (1, 1.0)]
    assert len(found.scalars("from a batch")) == 6
    assert len(found.scalars("from a handler")) == 1
    assert Records(tmp_path / "validation").scalars("from the loop") == [(0, 1.0)] * 2


async def test_before_and_after_a_run_it_is_there_at_once(toy: Toy, tmp_path: Path) -> None:
    board = TensorBoard(tmp_path)
    board.text("note", "before", 0)
    assert set(Records(tmp_path / "train").tags) == {"note"}
    await toy.fit(board)
    board.text("note", "after", 1)
    notes = Records(tmp_path / "train").tags["note"]
    assert [point.value.item() for point in notes] == [b"before", b"after"]
    assert len(folders(tmp_path / "train")) == 1


async def test_many_threads_may_write_at_once(toy: Toy, tmp_path: Path) -> None:
    board = TensorBoard(tmp_path, update_freq=1, histogram_freq=1)

    def write(index: int) -> None:
        for count in range(300):
            board.scalar(f"thread {index}", count, count)

    threads = [threading.Thread(target=write, args=(index,)) for index in range(3)]

    class Begins(Callback):
        def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
            if epoch == 1:  # the last one: they go on while the board waits for its files
                for thread in threads:
                    thread.start()

        def on_train_end(self, logs: Logs | None = None) -> None:
            for thread in threads:
                thread.join()

    await toy.fit(board, Begins())
    found = Records(tmp_path / "train")
    for index in range(3):
        assert found.steps(f"thread {index}") == list(range(300))
    assert len(found.steps("batch_loss")) == 8


@pytest.mark.parametrize("for_good", [True, False])
def test_what_comes_while_the_files_are_waited_for_follows_in_order(
    tmp_path: Path, for_good: bool
) -> None:
    writer = Writer(tmp_path, 30.0)
    writer.open()
    scheduled: list[bool] = []

    def late() -> None:
        while not writer._closing:
            threading.Event().wait(0.001)
        writer.put_scalars("train", "{}", {"a": 1.0}, 0)
        writer.put_scalars("train", "{}", {"a": 2.0}, 1)
        scheduled.append(writer._scheduled)  # nobody may overtake this piece of work

    writer.submit(late)
    writer.close(for_good=for_good)
    if not for_good:
        writer.close()
    assert scheduled == [False]
    assert Records(tmp_path / "train").scalars("a") == [(0, 1.0), (1, 2.0)]


async def test_callbacks_after_it_find_all_in_the_files_at_the_end_of_training(
    toy: Toy, tmp_path: Path
) -> None:
    found: list[int] = []

    class Slows(Callback):
        def on_train_end(self, logs: Logs | None = None) -> None:
            board._writer.submit(lambda: threading.Event().wait(0.2))  # a disk that takes its time
            board.text("note", "after", 1)

    class Reads(Callback):
        def on_train_end(self, logs: Logs | None = None) -> None:
            found.append(len(Records(tmp_path / "train").tags["note"]))

    board = TensorBoard(tmp_path)
    board.text("note", "before", 0)
    await toy.fit(Slows(), board, Reads())
    assert found == [2]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (3, 3.0),
        (0.1, as_float32(0.1)),
        (True, 1.0),
        (np.float64(1e300), math.inf),
        (-math.inf, -math.inf),
        (np.int64(7), 7.0),
        (jnp.bfloat16(1.5), 1.5),
        (jnp.asarray(2.5), 2.5),
        (np.array(4.5), 4.5),
    ],
    ids=repr,
)
def test_any_kind_of_number_is_a_scalar(tmp_path: Path, value: Any, found: float) -> None:
    TensorBoard(tmp_path).scalar("a/b", value, np.int64(-3))  # type: ignore[arg-type]  # as good as an int
    assert Records(tmp_path / "train").scalars("a/b") == [(-3, found)]


def test_nan_is_a_scalar(tmp_path: Path) -> None:
    TensorBoard(tmp_path).scalar("loss", math.nan, 0)
    ((_, value),) = Records(tmp_path / "train").scalars("loss")
    assert math.isnan(value)


def shown(place: Path) -> list[Array]:
    """The images of the tag "image"."""
    (point,) = Records(place / "train").tags["image"]
    width, height, *files = point.value
    images = [np.asarray(Image.open(io.BytesIO(file))) for file in files]
    assert {image.shape[:2] for image in images} == {(int(height), int(width))}
    return images


GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


@pytest.mark.parametrize(
    ("array", "images"),
    [
        (GREY, [GREY]),
        (GREY / np.float32(255), [GREY]),
        (GREY[..., None], [GREY]),
        (np.stack([GREY] * 3, -1), [np.stack([GREY] * 3, -1)]),
        (np.stack([GREY] * 4, -1), [np.stack([GREY] * 4, -1)]),
        (np.stack([GREY, GREY + 1])[..., None], [GREY, GREY + 1]),
        (np.stack([GREY] * 5)[..., None], [GREY] * 3),
        (jnp.asarray(GREY), [GREY]),
        (GREY > 100, [(GREY > 100) * np.uint8(255)]),
        (np.array([[-1.0, 2.0, math.nan, math.inf]]), [np.array([[0, 255, 0, 255]])]),
    ],
    ids=[
        "grey",
        "floats",
        "one channel",
        "colours",
        "with transparency",
        "two",
        "five, of which three are shown",
        "on the device",
        "booleans",
        "out of range",
    ],
)
def test_an_image_is_shown_pixel_by_pixel(tmp_path: Path, array: Any, images: list[Array]) -> None:
    TensorBoard(tmp_path).image("image", array, 0)
    found = shown(tmp_path)
    assert len(found) == len(images)
    for one, wanted in zip(found, images, strict=True):
        np.testing.assert_array_equal(one, wanted)


async def test_an_array_may_be_changed_once_it_was_given(toy: Toy, tmp_path: Path) -> None:
    board, array = TensorBoard(tmp_path), GREY.copy()

    def write(event: EpochEnd) -> None:
        if event.epoch == 0:
            board.image("image", array, 0)
            board.histogram("histogram", array, 0)
            array[:] = 0

    await toy.fit(board, write)
    np.testing.assert_array_equal(shown(tmp_path)[0], GREY)
    counts = Records(tmp_path / "train").tags["histogram"][0].value
    assert (counts[0, 0], counts[-1, 1]) == (0, 220)


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("scalar.tag", lambda board: board.scalar("", 1.0, 0)),
        ("scalar.tag", lambda board: board.scalar(3, 1.0, 0)),
        ("scalar.step", lambda board: board.scalar("a", 1.0, 0.5)),
        ("scalar.step", lambda board: board.scalar("a", 1.0, True)),
        ("scalar.value", lambda board: board.scalar("a", "1.0", 0)),
        ("scalar.value", lambda board: board.scalar("a", [1.0], 0)),
        ("scalar.value", lambda board: board.scalar("a", None, 0)),
        ("scalar.value", lambda board: board.scalar("a", 1j, 0)),
        ("scalar.to", lambda board: board.scalar("a", 1.0, 0, to="test")),
        ("text.text", lambda board: board.text("a", b"words", 0)),
        ("text.to", lambda board: board.text("a", "words", 0, to=None)),
        ("image.array", lambda board: board.image("a", np.zeros(3), 0)),
        ("image.array", lambda board: board.image("a", np.zeros((2, 3, 5)), 0)),
        ("image.array", lambda board: board.image("a", np.zeros((2, 3), np.int32), 0)),
        ("image.array", lambda board: board.image("a", np.zeros((0, 3)), 0)),
        ("image.array", lambda board: board.image("a", "picture.png", 0)),
        ("image.step", lambda board: board.image("a", np.zeros((2, 3)), None)),
        ("histogram.array", lambda board: board.histogram("a", ["x"], 0)),
        ("histogram.array", lambda board: board.histogram("a", [object()], 0)),
        ("histogram.step", lambda board: board.histogram("a", [1.0], "0")),
    ],
)
def test_what_is_no_record_is_refused_naming_the_argument(
    tmp_path: Path, argument: str, call: Callable[[Any], None]
) -> None:
    with pytest.raises(InvalidArgumentError, match=f"TensorBoard.{argument}"):
        call(TensorBoard(tmp_path))
    assert folders(tmp_path) == set()
