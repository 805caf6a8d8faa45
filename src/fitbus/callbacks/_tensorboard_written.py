"""What users write to TensorBoard's files, beside what training does."""

from __future__ import annotations

from typing import Any, Literal

from fitbus.callbacks._tensorboard_checks import (
    check_tag,
    checked_numbers,
    checked_pixels,
    checked_text,
    checked_value,
)
from fitbus.callbacks._tensorboard_summaries import histogram, image, scalar, text_summary
from fitbus.callbacks._tensorboard_writer import Writer

__all__ = ["Written"]

Folder = Literal["train", "validation"]


class Written:
    """The methods of `TensorBoard` by which users write."""

    _writer: Writer

    def scalar(self, tag: str, value: float, step: int, *, to: Folder = "train") -> None:
        """Writes a number. Any thread; this and the other three.

        During a run it returns at once: a thread writes, and `fit` waits for it. An error of the
        file system is raised by the next call, or by `fit`. Outside of a run it writes, and waits.

        Args:
            tag: Its name; slashes group.
            value: The number, of Python, NumPy or JAX; NaN and the infinities too.
            step: What TensorBoard draws it over.
            to: The directory: `"train"` or `"validation"`.

        Raises:
            InvalidArgumentError: An argument is of the wrong kind.
        """
        check_tag("scalar", tag, step, to)
        found = checked_value(value)
        self._writer.put(to, lambda: [scalar(tag, found)], step)

    def text(self, tag: str, text: str, step: int, *, to: Folder = "train") -> None:
        """Writes a text, in Markdown; the rest as in `scalar`."""
        check_tag("text", tag, step, to)
        found = checked_text(text)
        self._writer.put(to, lambda: [text_summary(tag, found)], step)

    def image(self, tag: str, array: Any, step: int, *, to: Folder = "train") -> None:
        """Writes an image, or the first three of several; the rest as in `scalar`.

        Args:
            tag: Its name.
            array: uint8, or floats from 0 to 1, of shape (height, width), (height, width, channels)
                or (images, height, width, channels), with 1 to 4 channels. It is copied.
            step: What TensorBoard shows it at.
            to: The directory.
        """
        check_tag("image", tag, step, to)
        found = checked_pixels(array)
        self._writer.put(to, lambda: [image(tag, found)], step)

    def histogram(self, tag: str, array: Any, step: int, *, to: Folder = "train") -> None:
        """Writes a histogram of an array of numbers, which is copied; the rest as in `scalar`."""
        check_tag("histogram", tag, step, to)
        found = checked_numbers(array)
        self._writer.put(to, lambda: [histogram(tag, found)], step)
