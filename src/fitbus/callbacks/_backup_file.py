"""Numbered files of which the newest are kept, each whole or not there at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias, final

from fitbus._files import sync

__all__ = ["BackupFiles", "Damaged"]

Buffer: TypeAlias = bytes | memoryview

_MAGIC = b"fitbus backup 1\n"
_DIGEST_BYTES = hashlib.sha256().digest_size


class Damaged(Exception):
    """A file isn't what was written; says why."""


@final
class BackupFiles:
    """The files `backup-1`, `backup-2`, ... of a directory. One thread at a time.

    A file is written beside, brought to the disk, and only then given its name; it ends with a
    checksum, which is looked at before anything else in it.

    Args:
        directory: Where they are.
        keep: How many whole ones are kept.
    """

    def __init__(self, directory: Path, keep: int) -> None:
        self._directory = directory
        self._keep = keep
        self._damaged: set[Path] = set()

    def prepare(self) -> None:
        """Makes the directory, and deletes what somebody who was killed has left in it.

        Raises:
            OSError: It can't be made, or written to.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        if not os.access(self._directory, os.W_OK | os.X_OK):  # told now, and not hours later
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self._directory))
        self.clear_unfinished()

    def newest_first(self) -> list[Path]:
        """Those that are there."""
        found: dict[int, Path] = {}
        if self._directory.is_dir():
            for path in self._directory.iterdir():
                number = path.name.removeprefix("backup-")
                if path.name.startswith("backup-") and number.isdecimal():
                    found[int(number)] = path
        return [found[number] for number in sorted(found, reverse=True)]

    def read(self, path: Path) -> bytes:
        """What was written to a file.

        Raises:
            Damaged: It was cut off or changed since, can't be read, or is none of ours.
        """
        self._damaged.add(path)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise Damaged(error.strerror or str(error)) from error
        content = data[len(_MAGIC) : -_DIGEST_BYTES]
        if not data.startswith(_MAGIC):
            raise Damaged("it doesn't begin as a backup of this version of fitbus does")
        if hashlib.sha256(content).digest() != data[-_DIGEST_BYTES:]:
            raise Damaged("its checksum is wrong: it was cut off, or changed")
        self._damaged.discard(path)
        return content

    def write(self, parts: Iterable[Buffer]) -> Path:
        """Writes another one; when it is there, the oldest and the damaged ones go.

        Returns:
            Where it is.

        Raises:
            OSError: It couldn't be written. Those before are as they were.
        """
        there = self.newest_first()
        number = int(there[0].name.removeprefix("backup-")) + 1 if there else 1
        path = self._directory / f"backup-{number}"
        self.write_as(path, parts)
        whole = [old for old in there if old not in self._damaged]
        for old in {*self._damaged.intersection(there), *whole[self._keep - 1 :]}:
            old.unlink(missing_ok=True)
        self._damaged.clear()
        return path

    def named(self, name: str) -> Path:
        """Where one lies that was asked for by a name, which `write_as` writes."""
        return self._directory / f"checkpoint-{name}"

    def write_as(self, path: Path, parts: Iterable[Buffer]) -> None:
        """Writes one that is kept until somebody else deletes it, or writes it anew.

        Raises:
            OSError: It couldn't be written. What was there before still is.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        temporary = self._temporary(path)
        digest = hashlib.sha256()
        try:
            with temporary.open("wb") as file:
                file.write(_MAGIC)
                for part in parts:
                    digest.update(part)
                    file.write(part)
                file.write(digest.digest())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(path)) from error
        with contextlib.suppress(OSError):  # brings its names to the disk, where the system can
            sync(self._directory)

    def clear(self) -> None:
        """Deletes all of them, and the directory if nothing else is in it."""
        self.clear_unfinished()
        for path in self.newest_first():
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._directory.rmdir()

    def clear_unfinished(self) -> None:
        """Deletes what somebody who was killed has left half written."""
        for kind in ("backup", "checkpoint"):
            for path in self._directory.glob(f".{kind}-*.unfinished"):
                path.unlink(missing_ok=True)

    def _temporary(self, path: Path) -> Path:
        return path.with_name(f".{path.name}.unfinished")
