"""Folders that can't be written to, or vanish; run as a process, it tells what came of each."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fitbus import journal
from fitbus.errors import JournalError
from fitbus.events import BatchEnd
from fitbus.testing import EventRecorder

from ._full_disk import FILES, FULL_AT, acting, board, callbacks, content, failed, train, whole
from ._small_disk import Disk


class Scenarios:
    """Trains, and tells.

    Args:
        small: Where the disk is that can't be written to at times, and
        kind: of which kind.
        roomy: A folder on another disk.
    """

    def __init__(self, small: Path, kind: str, roomy: Path) -> None:
        self._small, self._roomy = small, roomy
        self._disk = Disk(small, kind)
        self._expected: dict[bool, dict[str, Any]] = {}
        self.told: dict[str, Any] = {}
        for one in (False, True):
            at = self._places(f"undisturbed {one}", "checkpoint" if one else "none")
            train(*callbacks(at))
            self._expected[one] = content(at)

    def before(self, which: str, policy: str = "raise") -> None:
        """It can't be written to when the training begins."""
        at = self._places(f"before {which} {policy}", which)
        if which == "backup":
            at[which].mkdir()
        folder = at[which] if which == "backup" else at[which].parent
        self._disk.set_writable(folder, writable=False)
        seen = EventRecorder()
        error = failed(lambda: train(*callbacks(at, policy=policy), seen))
        self._disk.set_writable(folder, writable=True)
        steps = len(seen.of(BatchEnd))
        self.told[f"before {which} {policy}"] = {**error, "path": str(at[which]), "steps": steps}

    def amid(self, which: str) -> None:
        """It can't from a step on; then it can again, and the same training goes on."""
        at = self._places(f"amid {which}", which)
        made = callbacks(at)

        def lock() -> None:
            for folder in (at[which], at[which].parent):
                if folder.is_dir():
                    self._disk.set_writable(folder, writable=False)

        error = failed(lambda: train(*made, acting(made, {FULL_AT: lock})))
        kept = whole(at["backup"])
        for folder in (at[which].parent, at[which]):
            if folder.is_dir():
                self._disk.set_writable(folder, writable=True)
        after = failed(lambda: train(*callbacks(at)))
        found, wanted = content(at), self._expected[which == "checkpoint"]
        self.told[f"amid {which}"] = {
            **error,
            "path": str(at[which]),
            "backups": kept,
            "after": after["message"],
            "differs": [key for key in wanted if found[key] != wanted[key]],
        }

    def vanishing(self, which: str, *, folder: bool) -> None:
        """A file, or its folder, is deleted at a step."""
        name = f"{'folder' if folder else 'file'} {which}"
        at = self._places(name, which)
        made = callbacks(at, segment_bytes=100_000)

        def delete() -> None:
            if folder:
                shutil.rmtree(at[which].parent)
            elif at[which].is_dir():
                for path in at[which].rglob("*"):
                    if path.is_file():
                        path.unlink()
            else:
                at[which].unlink()

        error = failed(lambda: train(*made, acting(made, {FULL_AT: delete})))
        self.told[name] = {**error, "path": str(at[which]), "left": _left(which, at[which])}

    def _places(self, name: str, full: str) -> dict[str, Path]:
        for disk in (self._small, self._roomy):
            (disk / name).mkdir()
            for other in (each for each in self._small.iterdir() if each.name != name):
                shutil.rmtree(other)  # or it would get full
        names = FILES if full == "checkpoint" else FILES[:-1]
        return {n: (self._small if n == full else self._roomy) / name / n for n in names}


def _left(which: str, path: Path) -> Any:
    """What can be read of what is there after the training."""
    if not path.exists():
        return None
    return _READERS[which](path)


def _events(path: Path) -> Any:
    try:
        return [event.seq for event in journal.read(path)]
    except JournalError as error:
        return str(error)


_READERS: dict[str, Callable[[Path], Any]] = {
    "csv": lambda path: [row[0] for row in csv.reader(path.read_text().splitlines())],
    "json": lambda path: [json.loads(line)["seq"] for line in path.read_text().splitlines()],
    "journal": _events,
    "board": lambda path: [step for tag, step in board(path) if tag == "batch_loss"],
    "backup": whole,
    "checkpoint": lambda path: sorted(file.name for file in path.iterdir()),
}


if __name__ == "__main__":
    place, kind_of_disk, folder_with_room = sys.argv[1:]
    scenarios = Scenarios(Path(place), kind_of_disk, Path(folder_with_room))
    for one in FILES:
        scenarios.before(one)
        scenarios.amid(one)
        scenarios.vanishing(one, folder=True)
        scenarios.vanishing(one, folder=False)
    for one in ("json", "journal"):
        for rule in ("log", "unsubscribe", "stop"):
            scenarios.before(one, rule)
    print(json.dumps(scenarios.told))  # noqa: T201
