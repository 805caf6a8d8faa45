"""A file of lines: the last ones, which a crash may have cut off, and errors that name the file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator
from pathlib import Path

__all__ = ["cut_last_lines", "end_last_line", "naming"]

_BLOCK_BYTES = 65536
_LINE_BYTES = 4096  # that are read at once in search of a line's beginning


@contextlib.contextmanager
def naming(path: Path) -> Generator[None]:
    """Has errors of the disk name the file: those of a write, as when there is no room, don't."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


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
        begin = end = file.seek(0, os.SEEK_END)
        last = b""
        while begin and b"\n" not in last:
            start = max(0, begin - _BLOCK_BYTES)
            file.seek(start)
            last = file.read(begin - start) + last
            begin = start
        last = last[last.rfind(b"\n") + 1 :]
        if last and is_whole(last):
            file.seek(end)
            file.write(b"\n")
        elif last:
            file.truncate(end - len(last))


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
            start = end - 1
            while start > down_to:  # until what is before it ends a line
                begin = max(down_to, start - _LINE_BYTES)
                file.seek(begin)
                found = file.read(start - begin).rfind(b"\n")
                start = begin if found < 0 else begin + found + 1
                if found >= 0:
                    break
            file.seek(start)
            if not goes(file.read(end - start)):
                break
            end = start
        if end < whole:
            file.truncate(end)
