"""What is on the disk, and which file an error is about."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path

__all__ = ["naming", "sync"]


@contextlib.contextmanager
def naming(path: Path) -> Generator[None]:
    """Has errors of the disk name the file: those of a write, as when there is no room, don't."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def sync(path: Path) -> None:
    """Waits until a file, or the names in a directory, are on the disk."""
    if os.name != "posix" and path.is_dir():
        return  # there, a directory can't be opened
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
