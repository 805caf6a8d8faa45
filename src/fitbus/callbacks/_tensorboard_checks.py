"""What `TensorBoard` refuses, at its door and at those of its methods."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from fitbus.callbacks._arguments import check_flag, scalar
from fitbus.callbacks._tensorboard_summaries import pixels_of
from fitbus.errors import InvalidArgumentError

__all__ = [
    "check_arguments",
    "check_metadata",
    "check_tag",
    "checked_numbers",
    "checked_pixels",
    "checked_text",
    "checked_value",
    "numbers",
    "window_of",
]

_FOLDERS = ("train", "validation")


def check_arguments(log_dir: Any, update_freq: Any, *, freqs: Any, flags: Any) -> None:
    """Refuses arguments of the wrong kind.

    Args:
        log_dir: The directory.
        update_freq: When batches are written.
        freqs: By name: numbers of epochs.
        flags: By name: booleans.
    """
    found = os.fspath(log_dir) if isinstance(log_dir, str | os.PathLike) else None
    if not isinstance(found, str) or not found or "://" in found:
        raise InvalidArgumentError("TensorBoard.log_dir", log_dir, "give a local directory's path")
    for name, freq in freqs.items():
        if not _is_whole(freq) or freq < 0:
            raise InvalidArgumentError(
                f"TensorBoard.{name}", freq, "give a whole number of epochs, or 0 for none"
            )
    for name, flag in flags.items():
        check_flag("TensorBoard", name, flag)
    if update_freq not in ("batch", "epoch") and not (_is_whole(update_freq) and update_freq > 0):
        raise InvalidArgumentError(
            "TensorBoard.update_freq",
            update_freq,
            'allowed are "batch", "epoch", and whole numbers of at least 1',
        )


def check_metadata(metadata: Any) -> None:
    """Refuses what is neither a name of a file nor a dict of such."""
    names = (*metadata, *metadata.values()) if isinstance(metadata, Mapping) else (metadata,)
    if metadata is not None and not all(isinstance(name, str) and name for name in names):
        raise InvalidArgumentError(
            "TensorBoard.embeddings_metadata",
            metadata,
            "give the name of a file, or a dict of names of parameters to such",
        )


def window_of(profile_batch: Any) -> tuple[int, int]:
    """The first and the last batch to look at, from 1; (0, 0) for none."""
    found: list[Any] = []
    try:
        if isinstance(profile_batch, str):
            found = [int(part) for part in profile_batch.split(",")]
        else:
            is_pair = isinstance(profile_batch, tuple | list)
            found = list(profile_batch) if is_pair else [profile_batch]
    except ValueError:
        pass  # no numbers: refused below
    least = 1 if len(found) == 2 else 0
    whole = all(map(_is_whole, found)) and len(found) in (1, 2)
    if not whole or not least <= found[0] <= found[-1]:
        raise InvalidArgumentError(
            "TensorBoard.profile_batch",
            profile_batch,
            'give a batch, counted from 1, a pair (first, last) or "first,last"; 0 for none',
        )
    return int(found[0]), int(found[-1])


def check_tag(method: str, tag: Any, step: Any, to: Any) -> None:
    """Refuses where a user's record can't go."""
    if not isinstance(tag, str) or not tag:
        raise InvalidArgumentError(f"TensorBoard.{method}.tag", tag, "give a text")
    if not _is_whole(step):
        raise InvalidArgumentError(f"TensorBoard.{method}.step", step, "give a whole number")
    if to not in _FOLDERS:
        raise InvalidArgumentError(
            f"TensorBoard.{method}.to", to, "allowed are 'train', 'validation'"
        )


def checked_value(value: Any) -> float:
    """A number as such."""
    found = scalar(value)
    if found is None:
        raise InvalidArgumentError("TensorBoard.scalar.value", value, "give a number")
    return found


def checked_text(text: Any) -> str:
    """A text."""
    if not isinstance(text, str):
        raise InvalidArgumentError("TensorBoard.text.text", text, "give a text")
    return text


def checked_pixels(array: Any) -> np.ndarray[Any, Any]:
    """The pixels of images: a copy."""
    found = np.array(array, copy=True)
    pixels = None if found.dtype.hasobject or found.dtype.kind in "USMm" else pixels_of(found)
    if pixels is None:
        raise InvalidArgumentError(
            "TensorBoard.image.array",
            f"{found.dtype} of shape {found.shape}",
            "give uint8, or floats from 0 to 1, of shape (height, width), (height, width, channels)"
            " or (images, height, width, channels), with 1 to 4 channels",
        )
    return pixels


def checked_numbers(array: Any) -> np.ndarray[Any, Any]:
    """An array of numbers: a copy."""
    found = np.array(array, copy=True)
    if found.dtype.hasobject or found.dtype.kind in "USMm":
        raise InvalidArgumentError(
            "TensorBoard.histogram.array",
            f"{found.dtype} of shape {found.shape}",
            "give an array of numbers",
        )
    return found


def numbers(logs: Mapping[str, Any]) -> dict[str, float]:
    """Those of the logs that are numbers: callbacks may have added what they like."""
    found = {name: scalar(value) for name, value in logs.items()}
    return {name: value for name, value in found.items() if value is not None}


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
