"""The files of a journal: their names, their headers, and the frames in them."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fitbus.errors import JournalError

__all__ = ["HEADER", "Frame", "framed", "frames", "segment", "segments"]

_MAGIC = b"\x89fitbus\n"  # no text, and a line's end, which a transfer as text would change
_VERSION = 1
HEADER = _MAGIC + struct.pack("<I", _VERSION)
_SIZES = struct.Struct("<II")  # the payload's length and checksum
_CHECK = struct.Struct("<I")  # the checksum of these two
_FRAME_BYTES = _SIZES.size + _CHECK.size
_NAME = re.compile(r"([0-9]{6}|[1-9][0-9]{6,})\.journal")


class Frame(NamedTuple):
    """A frame that was found whole.

    Attributes:
        offset: Where it begins in its file.
        end: Where it ends.
        payload: What is in it.
    """

    offset: int
    end: int
    payload: bytes


def segment(path: Path, number: int) -> Path:
    """The file of a number."""
    return path / f"{number:06d}.journal"


def segments(path: Path) -> list[tuple[int, Path]]:
    """The files of a journal with their numbers, the oldest first; other files aren't looked at.

    Raises:
        JournalError: One in the middle is missing.
        OSError: The directory can't be read.
    """
    names = (_NAME.fullmatch(file.name) for file in path.iterdir())
    numbers = sorted(int(name[1]) for name in names if name)
    for before, number in pairwise(numbers):
        if number != before + 1:
            raise JournalError(
                segment(path, before + 1),
                0,
                "the file is missing; put it back, or read those before and after it one by one",
            )
    return [(number, segment(path, number)) for number in numbers]


def framed(payload: bytes) -> bytes:
    """A payload as a frame."""
    sizes = _SIZES.pack(len(payload), zlib.crc32(payload))
    return b"".join((sizes, _CHECK.pack(zlib.crc32(sizes)), payload))


def frames(path: Path, *, is_last: bool) -> Iterator[Frame]:
    """The frames of a file, in order.

    Args:
        path: The file.
        is_last: Whether nothing was written after it: then a last frame that was cut off, or whose
            bytes never reached the disk, ends it without an error.

    Raises:
        JournalError: It is no file of a journal, or is damaged.
        OSError: It can't be read.
    """
    with path.open("rb") as file:
        head = file.read(len(HEADER))
        if head != HEADER:
            if is_last and (HEADER.startswith(head) or (not any(head) and _is_blank(file))):
                return
            raise JournalError(path, 0, _not_ours(head))
        offset = len(HEADER)
        while start := file.read(_FRAME_BYTES):
            torn = "the last frame was cut off, and others were written after it"
            if len(start) == _FRAME_BYTES:
                sizes = start[: _SIZES.size]
                (check,) = _CHECK.unpack_from(start, _SIZES.size)
                if zlib.crc32(sizes) == check:
                    length, expected = _SIZES.unpack(sizes)
                    payload = _read(file, length)
                    end = offset + _FRAME_BYTES + length
                    if len(payload) == length and zlib.crc32(payload) == expected:
                        yield Frame(offset, end, payload)
                        offset = end
                        continue
                    if len(payload) == length and (not is_last or not _is_blank(file)):
                        raise JournalError(path, offset, "the checksum of a frame doesn't fit")
                elif not _is_blank(file):
                    raise JournalError(
                        path, offset, "the checksum of a frame's beginning doesn't fit"
                    )
            if not is_last:
                raise JournalError(path, offset, torn)
            return


def _read(file: BinaryIO, length: int) -> bytes:
    """Up to so many bytes; a length that isn't true takes no memory."""
    parts: list[bytes] = []
    while length > 0:
        part = file.read(min(length, 1 << 20))
        if not part:
            break
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _is_blank(file: BinaryIO) -> bool:
    """Whether only zeros follow: room that was made in the file, and never written."""
    while part := file.read(1 << 20):
        if any(part):
            return False
    return True


def _not_ours(head: bytes) -> str:
    if head[: len(_MAGIC)] != _MAGIC:
        return "it doesn't begin as a file of a journal does"
    if len(head) < len(HEADER):
        return "its header was cut off"
    (version,) = struct.unpack_from("<I", head, len(_MAGIC))
    return f"it is of version {version}, and this fitbus reads version {_VERSION}"
