"""A process that is killed while it writes leaves a whole checkpoint."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fitbus.checkpoints import NumberedStates, load_state, load_weights

WRITER = """
import sys, threading
import numpy as np
from fitbus.checkpoints import NumberedStates, named_arrays, save_state, save_weights

numbered = NumberedStates("numbered", max_to_keep=1)
kinds = (
    lambda tree, _: save_weights("weights", tree),
    lambda tree, _: save_state("state", tree),
    lambda tree, n: numbered.write(n // 2, named_arrays(tree)),  # replaces one every second time
)

def tree(number):
    return {"w": np.full(2**18, number, np.float32)}

def write(kind):
    for number in range(1, 10**6):
        kind(tree(number), number)
        print(number, flush=True)

for kind in kinds:
    kind(tree(0), 0)
print("ready", flush=True)
for kind in kinds:
    threading.Thread(target=write, args=[kind]).start()
"""
LIKE = {"w": np.zeros(2**18, np.float32)}


@pytest.mark.slow
@pytest.mark.parametrize("lines", [1, 12])
def test_killed_at_any_moment_it_leaves_whole_ones(tmp_path: Path, lines: int) -> None:
    """All arrays of each are of one time; and the next writer goes on as if nothing had been."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            for _ in range(lines):
                assert process.stdout.readline(), "the writer failed"
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    with NumberedStates(tmp_path / "numbered", max_to_keep=1) as states:
        for found in (
            load_weights(tmp_path / "weights", LIKE),
            load_state(tmp_path / "state", LIKE),
            states.load(LIKE),
        ):
            assert np.unique(found["w"]).size == 1
        numbers = states.numbers()
        assert len(numbers) in (1, 2), "the old one may not be deleted yet"
        states.write(10**6, LIKE)
        assert states.numbers() == [10**6]
    left = [path.name for path in (tmp_path / "numbered").iterdir()]
    assert all(name == "1000000" or name.endswith(".tmp") for name in left), left
