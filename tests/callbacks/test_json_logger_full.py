"""`JSONLogger` on a disk that is full for a while."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource, signal, sys
import fitbus
from fitbus.callbacks import JSONLogger
from fitbus.testing import toy_problem

path = sys.argv[1]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
problem = toy_problem(72, 5)
logger = JSONLogger(path, on_error="log")

def fill(event: fitbus.BatchEnd) -> None:
    logger.pending_writes()(30)
    limit = {3: 2000, 6: resource.RLIM_INFINITY}.get(event.batch)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

trainer = fitbus.Trainer(problem.task, problem.params)
trainer.fit_sync(problem.x, problem.y, batch_size=8, epochs=1, callbacks=[logger, fill])
"""


@pytest.mark.slow  # a fresh process, whose files may not grow
def test_half_a_line_is_cut_off_before_the_next_one(tmp_path: Path) -> None:
    """What didn't fit is lost, and nothing else is: each line is JSON."""
    path = tmp_path / "log.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    assert "File too large" in done.stderr
    seqs = [json.loads(line)["seq"] for line in path.read_text().splitlines()]
    assert seqs == sorted(set(seqs))
    assert seqs[0] == 0
    assert json.loads(path.read_text().splitlines()[-1])["type"] == "TrainEnd"
    assert len(seqs) < seqs[-1] + 1
