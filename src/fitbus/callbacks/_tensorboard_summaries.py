"""What TensorBoard draws, in its own form: scalars, histograms, images and text."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np

from fitbus.callbacks._tensorboard_files import protos

__all__ = ["as_float", "histogram", "image", "pixels_of", "scalar", "text_summary", "weight_pixels"]

Array = np.ndarray[Any, Any]

_BUCKETS = 30
_AT_ONCE = 1 << 22  # values of a histogram that are counted at once, so that memory stays bounded
_HUGE = 1e300  # so that the difference of two values stays finite
_MOST_IMAGES = 3
_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}  # PNG's types of colour, by the number of channels


def scalar(tag: str, value: float) -> Any:
    """A scalar, as float32; NaN and the infinities are what they are."""
    from tensorboard.plugins.scalar import metadata

    with np.errstate(over="ignore"):  # beyond float32 it is infinite
        number = np.float32(value)
    return _summary(tag, metadata, np.asarray(number))


def histogram(tag: str, array: Array) -> Any:
    """A histogram of the finite values, in 30 buckets of one width."""
    from tensorboard.plugins.histogram import metadata

    return _summary(tag, metadata, _buckets(as_float(array).reshape(-1)))


def image(tag: str, pixels: Array) -> Any:
    """Images, the first three; `pixels` are uint8 of shape (images, height, width, channels)."""
    from tensorboard.plugins.image import metadata

    _, height, width, _ = pixels.shape
    parts = [str(width).encode(), str(height).encode(), *map(_png, pixels[:_MOST_IMAGES])]
    return _summary(tag, metadata, np.array(parts, dtype=object))


def text_summary(tag: str, words: str) -> Any:
    """A text, in Markdown."""
    from tensorboard.plugins.text import metadata

    return _summary(tag, metadata, np.array(words.encode(), dtype=object))


def as_float(array: Array) -> Array:
    """Values of a kind that NumPy computes with: float32 for bfloat16 and what is smaller."""
    if array.dtype.kind == "c":
        return np.abs(array)
    return array if array.dtype.kind == "f" else array.astype(np.float32)


def pixels_of(array: Array) -> Array | None:
    """The pixels of an image, or of several; None of what is none.

    Args:
        array: uint8, or floats from 0 to 1, of shape (height, width), (height, width, channels) or
            (images, height, width, channels), with 1 to 4 channels.
    """
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4 or array.shape[-1] not in _COLOURS or 0 in array.shape:
        return None
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind in "iu":
        return None  # of what range is it?
    return _shades(np.clip(np.nan_to_num(as_float(array)), 0, 1))


def weight_pixels(array: Array) -> Array | None:
    """A parameter as images, from its least value, black, to its greatest; None of what can't be.

    As in Keras: a vector is a column; a matrix lies on its longer side; of three dimensions the
    last one counts the images; four dimensions are images if the last one can be colours.
    """
    array = np.squeeze(as_float(array))
    if array.ndim == 1:
        array = array[None, :, None, None]
    elif array.ndim == 2:
        array = (array.T if array.shape[0] > array.shape[1] else array)[None, ..., None]
    elif array.ndim == 3:
        array = array.transpose(2, 0, 1)[..., None]
    if array.ndim != 4 or array.shape[-1] not in (1, 3, 4) or 0 in array.shape:
        return None
    finite = array[np.isfinite(array)]
    least, greatest = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    width = float(greatest) - float(least)
    shown = np.nan_to_num(array.astype(np.float64), nan=least, posinf=greatest, neginf=least)
    return _shades((shown - least) / (width or 1.0))


def _buckets(data: Array) -> Array:
    """Their left and right edges, and the counts: float64 of shape (30, 3)."""
    data = data[np.isfinite(data)]
    if data.size == 0:
        return np.zeros((_BUCKETS, 3))
    least, greatest = (min(max(float(v), -_HUGE), _HUGE) for v in (data.min(), data.max()))
    width = (greatest - least) / _BUCKETS
    if width == 0:  # all are one value: the last bucket has them
        edges: Array = np.full(_BUCKETS + 1, least)
        counts = np.zeros(_BUCKETS)
        counts[-1] = data.size
    else:
        edges = np.linspace(least, greatest, _BUCKETS + 1)
        counts = np.zeros(_BUCKETS)
        for start in range(0, data.size, _AT_ONCE):
            some = np.clip(data[start : start + _AT_ONCE].astype(np.float64), -_HUGE, _HUGE)
            places = np.minimum((some - least) / width, _BUCKETS - 1).astype(np.int64)
            counts += np.bincount(places, minlength=_BUCKETS)
    return np.stack([edges[:-1], edges[1:], counts], axis=1)


def _shades(values: Array) -> Array:
    """From 0 to 1 to pixels."""
    shades: Array = np.rint(values * 255).astype(np.uint8)
    return shades


def _png(pixels: Array) -> bytes:
    """A PNG file of one image: uint8 of shape (height, width, channels)."""
    height, width, channels = pixels.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each begins with "not filtered"
    rows[:, 1:] = pixels.reshape(height, -1)
    head = struct.pack(">IIBBBBB", width, height, 8, _COLOURS[channels], 0, 0, 0)
    body = zlib.compress(rows.tobytes())
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", body) + _chunk(b"IEND")


def _chunk(name: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _summary(tag: str, plugin: Any, array: Array) -> Any:
    """A summary for one of TensorBoard's plugins, told by the module that describes its data."""
    from tensorboard.util import tensor_util

    described = plugin.create_summary_metadata(display_name=None, description=None)
    tensor = tensor_util.make_tensor_proto(array)
    return protos().Summary.Value(tag=tag, metadata=described, tensor=tensor)
