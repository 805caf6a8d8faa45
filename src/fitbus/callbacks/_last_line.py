"""A file of lines: the last ones, which a crash may have cut off, or which come again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

__all__ = ["cut_last_lines", "end_last_line"]

_BLOCK_BYTES = 4096  # that are read at once in search of a line's beginning


def end_last_line(path: Path, is_whole: Callable[[bytes], bool]) -> None:
    """Sees to it that what is added to a file of lines begins a line of its own.

    Does nothing to a file that ends with a line's end, isn't there, or is none (a device, a pipe).

    Args:
        path: The file.
        is_whole: Told the last line, where it has no end: whether it gets one; else it is cut off.

    Raises:
        OSError: It can't be read, or written.
    """
    if not path.is_file():
        return
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        begin = _line_begin(file, end, 0)
        file.seek(begin)
        last = file.read()
        if last and is_whole(last):
            file.write(b"\n")
        elif last:
            file.truncate(begin)


def cut_last_lines(path: Path, down_to: int, goes: Callable[[bytes], bool]) -> None:
    """Takes lines off the end of a file, up to the first from there that stays.

    Args:
        path: The file; one that isn't there, or is none (a device, a pipe), stays as it is.
        down_to: Bytes at its beginning that stay in any case.
        goes: Told a line: whether it goes.

    Raises:
        OSError: It can't be read, or written.
    """
    if not path.is_file():
        return
    with path.open("r+b") as file:
        whole = end = file.seek(0, os.SEEK_END)
        while end > down_to:
            begin = _line_begin(file, end - 1, down_to)
            file.seek(begin)
            if not goes(file.read(end - begin)):
                break
            end = begin
        if end < whole:
            file.truncate(end)


def _line_begin(file: BinaryIO, end: int, down_to: int) -> int:
    """Where the line begins that goes on up to a place; not before another place."""
    while end > down_to:
        start = max(down_to, end - _BLOCK_BYTES)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return down_to
