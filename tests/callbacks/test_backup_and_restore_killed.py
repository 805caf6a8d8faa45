"""Processes that are killed, and started again: what they end with is what nobody disturbed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import hashlib, json, sys
import numpy as np
import fitbus
from fitbus.callbacks import BackupAndRestore, CSVLogger, EarlyStopping, History, JSONLogger
from fitbus.testing import toy_problem

directory, save_freq = sys.argv[1], sys.argv[2]
csv, lines = f"{directory}.csv", f"{directory}.jsonl"
problem = toy_problem(72, 5)

backup = BackupAndRestore(directory, save_freq if save_freq == "epoch" else int(save_freq))

def tell(event: fitbus.BatchEnd) -> None:
    print(f"step {event.step}", flush=True)
    if event.step == 10:
        backup._background.flush()  # one is there, however slow the disk is

recorded = History()
trainer = fitbus.Trainer(problem.task, problem.params, seed=11)
history = trainer.fit_sync(
    problem.x, problem.y, batch_size=8, epochs=4, validation_data=(problem.x[:20], problem.y[:20]),
    callbacks=[
        recorded,
        EarlyStopping("val_loss", patience=3, restore_best_weights=True),
        backup,
        CSVLogger(csv),
        JSONLogger(lines),
        fitbus.handler(fitbus.BatchEnd, wait=True)(tell),
    ],
)
params = trainer.state.params
print(json.dumps({
    "params": {name: np.asarray(params[name]).tobytes().hex() for name in sorted(params)},
    "step": int(trainer.state.step),
    "history": [history.epoch, history.history, recorded.history],
    "csv": open(csv, newline="").read(),
    "lines": [json.loads(line) | {"time": 0, "run": ""} for line in open(lines)],
}), flush=True)
"""
STEPS = 36


def started(directory: Path, save_freq: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(directory), save_freq],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )


def killed_after(directory: Path, save_freq: str, step: int) -> list[int]:
    """The steps of a process that is killed as soon as one of them is seen."""
    seen: list[int] = []
    with started(directory, save_freq) as process:
        assert process.stdout is not None
        for line in process.stdout:
            seen.append(int(line.removeprefix("step ")))
            if seen[-1] == step:
                process.kill()
                break
        assert process.wait(60) == -signal.SIGKILL
    return seen


def finished(directory: Path, save_freq: str) -> tuple[list[int], Any]:
    """The steps of a process that is let alone, and what it ends with."""
    with started(directory, save_freq) as process:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
    *steps, result = out.splitlines()
    return [int(line.removeprefix("step ")) for line in steps], json.loads(result)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    steps, result = finished(tmp_path_factory.mktemp("undisturbed"), "epoch")
    assert steps == list(range(1, STEPS + 1))
    return result


@pytest.mark.parametrize(
    ("save_freq", "kills"), [("2", [13, 25]), ("epoch", [20])], ids=["twice", "by epoch"]
)
def test_parameters_history_and_files_are_those_of_an_undisturbed_process_bit_for_bit(
    tmp_path: Path, undisturbed: Any, save_freq: str, kills: list[int]
) -> None:
    """Though the process is killed, by SIGKILL, after batches that were seen."""
    for number, step in enumerate(kills):
        steps = killed_after(tmp_path, save_freq, step)
        assert number == 0 or steps[0] > 1, "it goes on, and doesn't begin anew"
        assert steps == list(range(steps[0], step + 1))
    steps, result = finished(tmp_path, save_freq)
    assert 1 < steps[0] <= kills[-1] + 1
    assert steps == list(range(steps[0], STEPS + 1))
    assert [line["seq"] for line in result["lines"]] == list(range(len(result["lines"])))
    assert result == undisturbed
    assert not tmp_path.exists()
