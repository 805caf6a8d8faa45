"""Files and directories that are there whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Generator
from pathlib import Path

from fitbus._files import sync
from fitbus.errors import FitbusError, InvalidArgumentError

__all__ = [
    "REPLACED",
    "absolute",
    "delete_checkpoint",
    "moved_in",
    "previous_of",
    "replacing",
    "writing",
]

REPLACED = ".previous"  # ends the name of a directory that is being replaced


def absolute(path: str | Path) -> Path:
    """A path that stays the same when the working directory changes."""
    if not isinstance(path, str | os.PathLike) or not str(path):
        raise InvalidArgumentError("path", path, "give a path")
    return Path(os.path.abspath(path))  # noqa: PTH100  # unlike `absolute()`, without ".."


@contextlib.contextmanager
def replacing(path: Path) -> Generator[Path, None, None]:
    """Gives the path of a temporary file or directory beside another; nothing of it is left.

    What is at it when the block is left normally must have been moved.

    Raises:
        FitbusError: It can't be written: the error names the path, and what to do.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
    finally:
        for left in (temporary, temporary.with_name(f"{temporary.name}.orbax-checkpoint-tmp")):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    left.unlink()


@contextlib.contextmanager
def writing(path: Path) -> Generator[None, None, None]:
    """Says of errors of the disk what couldn't be written, and what to do."""
    try:
        yield
    except OSError as error:
        raise FitbusError(
            f"{path} couldn't be written: {error.strerror or error}; is its folder one that can be"
            " written to, and is there room on the disk?"
        ) from error


def delete_checkpoint(path: str | Path) -> None:
    """Deletes weights or a whole state; what is gone already is fine.

    A directory is given a hidden name first: whoever is killed meanwhile doesn't leave half of it.

    Raises:
        FitbusError: It can't be deleted; the message names it.
    """
    target = absolute(path)
    try:
        if target.is_dir() and not target.is_symlink():
            hidden = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
            target.rename(hidden)
            shutil.rmtree(hidden)
        else:
            target.unlink(missing_ok=True)
    except FileNotFoundError:
        return
    except OSError as error:
        raise FitbusError(
            f"{target} couldn't be deleted: {error.strerror or error}; is its folder one that can"
            " be written to?"
        ) from error


def previous_of(path: Path) -> Path:
    """Where the directory that is being replaced lies for a moment."""
    return path.with_name(f".{path.name}{REPLACED}")


def moved_in(temporary: Path, path: Path, is_whole: Callable[[Path], bool]) -> None:
    """Puts a directory where another one may be; there is a whole one at every moment.

    The other one is moved aside first, since no system replaces one directory by another in one
    step: one who is killed between the two leaves it there, to be read.
    """
    previous = previous_of(path)
    if path.exists() and previous.exists() and not is_whole(path):
        shutil.rmtree(path)  # the one aside is what is left
    elif path.exists():
        shutil.rmtree(previous, ignore_errors=True)
        path.rename(previous)
    try:
        temporary.rename(path)
    except OSError:
        if previous.exists():
            previous.rename(path)
        raise
    sync(path.parent)
    shutil.rmtree(previous, ignore_errors=True)
