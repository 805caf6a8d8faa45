"""The training that is killed: run as a process, it writes all that callbacks can write."""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import fitbus
from fitbus import journal
from fitbus.callbacks import (
    BackupAndRestore,
    CSVLogger,
    EarlyStopping,
    History,
    Journal,
    JSONLogger,
    ReduceLROnPlateau,
    TensorBoard,
)
from fitbus.testing import toy_problem
from fitbus.train import is_key

STEPS = 30  # in an epoch
EPOCHS = 12


def trained(folder: Path, fused: int, *, ahead: bool, save_freq: Any) -> dict[str, Any]:
    """Trains, from a backup if there is one; returns what came of it.

    Args:
        folder: Where all is written.
        fused: `steps_per_execution`.
        ahead: Whether steps run ahead of who listens.
        save_freq: That of the backups.
    """
    problem = toy_problem(STEPS * 8 + 50, 5)
    recorded = History()

    def listen(event: fitbus.BatchEnd) -> None:
        if event.batch % 5 == 0:
            time.sleep(0.002)  # long enough for somebody to kill it

    def begin(event: fitbus.EpochBegin) -> None:
        sys.stdout.write(f"epoch {event.epoch}\n")
        sys.stdout.flush()

    trainer = fitbus.Trainer(problem.task, problem.params, seed=11)
    history = trainer.fit_sync(
        *(problem.x, problem.y),
        batch_size=8,
        epochs=EPOCHS,
        steps_per_execution=fused,
        validation_split=50 / (STEPS * 8 + 50),
        callbacks=[
            recorded,
            ReduceLROnPlateau("loss", patience=2, factor=0.5, min_delta=1e-3),
            EarlyStopping("val_loss", patience=EPOCHS, restore_best_weights=True),
            BackupAndRestore(folder / "backup", save_freq),
            CSVLogger(folder / "log.csv"),
            JSONLogger(folder / "log.jsonl"),
            Journal(folder / "journal", segment_bytes=20_000),
            TensorBoard(folder / "board", histogram_freq=1, update_freq=3),
            fitbus.handler(fitbus.BatchEnd, wait=not ahead)(listen),
            begin,
        ],
    )
    return {
        "state": _digest(trainer.state),
        "history": [history.epoch, history.history, recorded.history],
        "csv": (folder / "log.csv").read_text(),
        "lines": [
            json.loads(line) | {"time": 0, "run": ""}
            for line in (folder / "log.jsonl").read_text().splitlines()
        ],
        "journal": [_plain(event) for event in journal.read(folder / "journal")],
        "board": _board(folder / "board"),
        "left": sorted(path.name for path in folder.iterdir()),
    }


def _digest(state: fitbus.TrainState) -> str:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        digest.update(np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf).tobytes())
    return digest.hexdigest()


def _plain(event: fitbus.Event) -> Any:
    found: Any = json.loads(fitbus.Codec().to_json(event))
    return found | {"time": 0, "run": ""}


def _board(folder: Path) -> dict[str, list[list[Any]]]:
    files = importlib.import_module("tensorboard.backend.event_processing.event_file_loader")
    tensors = importlib.import_module("tensorboard.util.tensor_util")
    found: dict[str, list[list[Any]]] = {}
    for name in ("train", "validation"):
        for path in sorted((folder / name).glob("events*")):
            for event in files.EventFileLoader(str(path)).Load():
                for value in event.summary.value:
                    array = tensors.make_ndarray(value.tensor)
                    entry = [event.step, hashlib.sha256(array.tobytes()).hexdigest()]
                    found.setdefault(f"{name}/{value.tag}", []).append(entry)
    for program in ("train/__run_graph__", "train/train_step"):  # in words, with addresses
        found.pop(program, None)
    return found


if __name__ == "__main__":
    place, steps, runs_ahead, freq = sys.argv[1:]
    result = trained(
        Path(place),
        int(steps),
        ahead=runs_ahead == "True",
        save_freq=freq if freq == "epoch" else int(freq),
    )
    Path(place, "result.json").write_text(json.dumps(result))
