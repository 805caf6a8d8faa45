"""A small disk for a process of its own: a tmpfs that only it sees, where that can be had."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, final

LIMIT_S = 120.0
_PAGE = 4096
_MOUNT = "mount -t tmpfs -o size=256k tmpfs"


@final
class Disk:
    """The small disk, in the process that has it.

    Args:
        folder: Where it lies.
        kind: `"tmpfs"`, or `"limit"`: it is any disk, and while it is full, none of the process'
            files gets larger than a limit.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder = folder
        self._ballast = folder / "ballast"
        self._kind = kind

    def fill(self, left: int = 0) -> None:
        """Leaves room for so many bytes, in pages."""
        if self._kind == "limit":
            files = [p for p in self._ballast.parent.rglob("*") if p.is_file()]
            size = max((p.stat().st_size for p in files), default=0)
            limit = left or size + 100
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            return
        with self._ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(_PAGE))
        size = self._ballast.stat().st_size
        os.truncate(self._ballast, max(0, size - left) // _PAGE * _PAGE)

    def make_room(self) -> None:
        """Leaves all of it."""
        if self._kind == "limit":
            resource.setrlimit(
                resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            )
        self._ballast.unlink(missing_ok=True)

    def set_writable(self, folder: Path, *, writable: bool) -> None:
        """Lets nobody write to the disk; or, where there is only a limit, to one of its folders."""
        if self._kind == "limit":  # who may not mount isn't root, for whom modes are nothing
            folder.chmod(0o755 if writable else 0o555)
            return
        how = f"remount,{'rw' if writable else 'ro'}"
        command = ["sh", "-c", 'mount -o "$0" "$1"', how, str(self._folder)]
        deadline = time.monotonic() + 30
        # It is busy while a file is being written.
        while subprocess.run(command, capture_output=True, check=False).returncode:
            if time.monotonic() > deadline:
                raise TimeoutError(how)


def kind_here() -> str:
    """How a small disk can be had: in a namespace, by root's `mount`, or as a limit of files."""
    for kind, before in (("unshare", ["unshare", "-rm"]), ("mount", [])):
        probe = f'd=$(mktemp -d) && {_MOUNT} "$d" && umount "$d" && rmdir "$d"'
        with contextlib.suppress(OSError):
            if (
                subprocess.run(
                    [*before, "sh", "-c", probe], capture_output=True, check=False
                ).returncode
                == 0
            ):
                return kind
    return "limit"


def told_by(program: Path, small: Path, *arguments: str, kind: str | None = None) -> dict[str, Any]:
    """Runs a program with a small disk at a place; returns the JSON that it prints last."""
    kind = kind or kind_here()
    root = program.parents[2]
    name = ".".join(program.relative_to(root).with_suffix("").parts)
    command = [sys.executable, "-m", name, str(small), "limit" if kind == "limit" else "tmpfs"]
    command += arguments
    if kind != "limit":
        command = ["sh", "-c", f'{_MOUNT} "$0" && exec "$@"', str(small), *command]
    if kind == "unshare":
        command = ["unshare", "-rm", *command]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
            cwd=root,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )
    finally:
        if kind == "mount":
            subprocess.run(["sh", "-c", 'umount "$0"', str(small)], check=False)  # noqa: S607  # it's in PATH
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
