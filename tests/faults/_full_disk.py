"""Trainings whose disk is full for a while; run as a process, it tells what came of each."""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import fitbus
from fitbus import journal
from fitbus.callbacks import (
    BackupAndRestore,
    Callback,
    CSVLogger,
    Journal,
    JSONLogger,
    ModelCheckpoint,
    TensorBoard,
)
from fitbus.callbacks._background import Lost
from fitbus.callbacks._backup_file import BackupFiles, Damaged
from fitbus.testing import toy_problem
from fitbus.train import is_key

from ._small_disk import Disk

EPOCHS, FULL_AT, ROOM_AT = 10, 12, 30  # epochs of five batches; steps
FILES = ("backup", "csv", "json", "journal", "board", "checkpoint")

PROBLEM = toy_problem(40, 3)
TRAINER = fitbus.Trainer(PROBLEM.task, PROBLEM.params, seed=5)
BEGIN = TRAINER.state


class Large(Callback):
    """Makes the rows of a table, and where asked the backups, large."""

    def __init__(self, size: int) -> None:
        self.much = np.random.default_rng(3).bytes(size)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs["much"] = "x" * 1500

    def state_dict(self) -> dict[str, Any]:
        return {"much": self.much}

    def load_state_dict(self, state: Any) -> None:
        assert state["much"] == self.much


def callbacks(
    at: dict[str, Path], *, size: int = 0, policy: Any = "raise", segment_bytes: int = 3000
) -> list[Any]:
    """All that write files, each at its place."""
    made: list[Any] = [
        Large(size),
        BackupAndRestore(at["backup"], 3, delete_checkpoint=False),
        CSVLogger(at["csv"]),
        JSONLogger(at["json"], on_error=policy),
        Journal(at["journal"], segment_bytes=segment_bytes, on_error=policy),
        TensorBoard(at["board"], write_graph=False, update_freq=1),
    ]
    if "checkpoint" in at:  # which tells of itself, at any moment
        path = at["checkpoint"] / "{epoch}.safetensors"
        made.append(ModelCheckpoint(path, save_weights_only=True))
    return made


def train(*more: Any) -> fitbus.History:
    TRAINER.keeper.take_back(fitbus.Trainer(PROBLEM.task, BEGIN).state)
    data = PROBLEM.x, PROBLEM.y
    return TRAINER.fit_sync(*data, batch_size=8, epochs=EPOCHS, callbacks=list(more))


def content(at: dict[str, Path]) -> dict[str, Any]:
    """What came of a training."""
    codec = fitbus.Codec()
    leaves = [jax.random.key_data(x) if is_key(x) else x for x in jax.tree.leaves(TRAINER.state)]
    found = {
        "state": [np.asarray(leaf).tobytes().hex() for leaf in leaves],
        "csv": at["csv"].read_text(),
        "board": board(at["board"]),
    }
    if "checkpoint" in at:
        read = importlib.import_module("safetensors.numpy").load_file
        arrays = {path.name: read(path) for path in sorted(at["checkpoint"].iterdir())}
        weights = {file: {n: a.tolist() for n, a in of.items()} for file, of in arrays.items()}
        return {**found, "checkpoint": weights}
    lines = [json.loads(line) for line in at["json"].read_text().splitlines()]
    events = [json.loads(codec.to_json(event)) for event in journal.read(at["journal"])]
    return {
        **found,
        "json": [line | {"time": 0, "run": ""} for line in lines],
        "journal": [event | {"time": 0, "run": ""} for event in events],
    }


def board(folder: Path) -> list[tuple[str, int]]:
    files = importlib.import_module("tensorboard.backend.event_processing.event_file_loader")
    return sorted(
        (value.tag, event.step)
        for path in (folder / "train").glob("events*")
        for event in files.EventFileLoader(str(path)).Load()
        for value in event.summary.value
        if "per_second" not in value.tag
    )


def whole(folder: Path) -> dict[str, bool]:
    """The files of a folder of backups, and which are whole."""
    files, found = BackupFiles(folder, 9), {}
    for path in sorted(folder.iterdir()):
        try:
            files.read(path)
        except Damaged:
            found[path.name] = False
        else:
            found[path.name] = True
    return found


def acting(made: list[Any], actions: dict[int, Callable[[], object]]) -> Any:
    """Does something after a step; first, all that came before it is written."""

    def act(event: fitbus.BatchEnd) -> None:
        action = actions.get(event.step)
        if action is None:
            return
        for each in made:
            if isinstance(each, BackupAndRestore):
                each._background.flush()
            wait = getattr(each, "pending_writes", lambda: None)()
            with contextlib.suppress(Lost):
                if wait is not None and not wait(30):
                    raise TimeoutError
        action()

    return fitbus.handler(fitbus.BatchEnd, wait=True)(act)


def failed(work: Any) -> dict[str, Any]:
    """What a training raised."""
    try:
        work()
    except Exception as error:  # noqa: BLE001  # told
        cause = error if isinstance(error, OSError) else error.__cause__
        kind, is_of_disk = type(error).__name__, isinstance(cause, OSError)
        return {"kind": kind, "of the disk": is_of_disk, "message": str(error)}
    return {"kind": None, "message": ""}


class Scenarios:
    """Trains, and tells.

    Args:
        small: Where the small disk is, and
        kind: of which kind.
        roomy: A folder on another disk.
    """

    def __init__(self, small: Path, kind: str, roomy: Path) -> None:
        self._small, self._roomy = small, roomy
        self._disk = Disk(small, kind)
        self._expected: dict[bool, dict[str, Any]] = {}
        self.told: dict[str, Any] = {}
        for with_checkpoint in (False, True):
            names = FILES if with_checkpoint else FILES[:-1]
            folder = roomy / f"undisturbed {with_checkpoint}"
            folder.mkdir()
            train(*callbacks(at := {name: folder / name for name in names}))
            self._expected[with_checkpoint] = content(at)

    def interrupt(self, name: str, full: tuple[str, ...], size: int = 0, left: int = 0) -> None:
        """Some of the files are on the disk that gets full; then there is room again."""
        at = self._places(name, full)
        made = callbacks(at, size=size)
        full_at = FULL_AT if left == 0 else 1
        error = failed(lambda: train(*made, acting(made, {full_at: lambda: self._disk.fill(left)})))
        kept = whole(at["backup"])
        self._disk.make_room()
        after = failed(lambda: train(*callbacks(at, size=size)))
        found, wanted = content(at), self._expected["checkpoint" in full]
        self.told[name] = {
            **error,
            "paths": [str(at[each]) for each in full],
            "backups": kept,
            "after": after["message"],
            "differs": [key for key in wanted if found[key] != wanted[key]],
        }
        self._clear(name)

    def go_by(self, policy: str, which: str) -> None:
        """Training needn't fail."""
        name = f"{which} {policy}"
        at = self._places(name, (which,))
        made = callbacks(at, policy=policy)
        errors: list[Any] = []
        reasons: list[str] = []

        def listen(event: fitbus.HandlerFailed) -> None:
            errors.append(event.error)

        def end(event: fitbus.TrainEnd) -> None:
            reasons.append(event.reason)

        fill = acting(made, {FULL_AT: self._disk.fill, ROOM_AT: self._disk.make_room})
        error = failed(lambda: train(*made, listen, end, fill))
        self._disk.make_room()
        found = content(at)
        other = found["json" if which == "journal" else "journal"]
        self.told[name] = {
            **error,
            "told": errors,
            "reason": reasons,
            "path": str(at[which]),
            "seqs": [event["seq"] for event in found[which]],
            "types": [event["type"] for event in found[which]],
            "other": [event["seq"] for event in other],
        }
        self._clear(name)

    def _places(self, name: str, full: tuple[str, ...]) -> dict[str, Path]:
        for disk in (self._small, self._roomy):
            (disk / name).mkdir()
        names = FILES if "checkpoint" in full else FILES[:-1]
        return {n: (self._small if n in full else self._roomy) / name / n for n in names}

    def _clear(self, name: str) -> None:
        shutil.rmtree(self._small / name)


if __name__ == "__main__":
    place, kind_of_disk, folder_with_room = sys.argv[1:]
    scenarios = Scenarios(Path(place), kind_of_disk, Path(folder_with_room))
    for one in ("csv", "json", "journal", "board", "checkpoint"):
        scenarios.interrupt(one, (one,))
    scenarios.interrupt("all", FILES)
    for number in range(4):
        scenarios.interrupt(f"backup {number}", ("backup",), 56_000, 32_000 + number * 64_000)
    for one in ("json", "journal"):
        for rule in ("log", "unsubscribe", "stop"):
            scenarios.go_by(rule, one)
    print(json.dumps(scenarios.told))  # noqa: T201
