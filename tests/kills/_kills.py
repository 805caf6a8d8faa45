"""Trainings that are killed at moments that a seed decides, and started again until they are done.

`python -m tests.kills --kills 40 --seed 7` kills forty times in all, from the root of the
repository. What is looked at, when they are done, is what an undisturbed process ends with: state,
history, CSV, JSON lines, journal and TensorBoard's records, byte for byte but for times and the
run's id.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Settings", "kill", "undisturbed"]

ROOT = Path(__file__).parents[2]
LIMIT_S = 120.0
_LOOK_S = 0.0005


class Settings(NamedTuple):
    """How a training is run."""

    fused: int
    ahead: bool
    save_freq: int | str


ALL = [
    Settings(1, ahead=False, save_freq=4),
    Settings(3, ahead=True, save_freq=10),
    Settings(1, ahead=True, save_freq=1),
    Settings(3, ahead=False, save_freq="epoch"),
]


def _started(folder: Path, settings: Settings) -> subprocess.Popen[str]:
    arguments = [str(folder), *map(str, settings)]
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tests.kills._training", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )


def undisturbed(folder: Path, settings: Settings) -> Any:
    """What a process ends with that nobody kills."""
    with _started(folder, settings) as process:
        process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, f"{settings} failed"
    return json.loads((folder / "result.json").read_text())


def kill(
    seed: int, kills: int, expected: dict[Settings, Any], say: Callable[[str], object] = str
) -> None:
    """Kills so many times in all, in as many trainings as that takes; compares each.

    Args:
        seed: Decides how trainings are run, and when they are killed.
        kills: How many times.
        expected: What undisturbed ones end with; what is missing is found out.
        say: Is told what happens.
    """
    rng = random.Random(seed)  # noqa: S311
    while kills > 0:
        settings = rng.choice(ALL)
        with tempfile.TemporaryDirectory() as place:
            if settings not in expected:
                own = Path(place, "undisturbed")
                own.mkdir()
                expected[settings] = undisturbed(own, settings)
            folder = Path(place, "killed")
            folder.mkdir()
            most = rng.randint(1, 5)
            done = 0
            while done < min(most, kills) and _killed(folder, settings, rng, say):
                done += 1
            kills -= done
            result = undisturbed(folder, settings)
            for name, value in expected[settings].items():
                if name != "left":
                    assert result[name] == value, (
                        f"{name} isn't that of an undisturbed training, after {done} kills of"
                        f" {settings}; again: python -m tests.kills --seed {seed}"
                    )
            say(f"{settings}: {done} kills, and all is as it should be; {kills} kills are left")


def _killed(
    folder: Path, settings: Settings, rng: random.Random, say: Callable[[str], object]
) -> bool:
    """Starts one, and kills it; whether that came before its end."""
    in_a_save = rng.random() < 0.5
    epochs, delay_s = rng.randint(1, 4), rng.uniform(0, 0.05)
    with _started(folder, settings) as process:
        assert process.stdout is not None
        begun = 0
        for _ in process.stdout:
            begun += 1
            if begun == epochs:
                break
        if in_a_save:
            deadline = time.monotonic() + 1.0
            while process.poll() is None and time.monotonic() < deadline:
                if any(folder.glob("backup/.*.unfinished")):
                    break
                time.sleep(_LOOK_S)
        else:
            time.sleep(delay_s)
        process.kill()
        process.stdout.read()
        code = process.wait(LIMIT_S)
    say(f"  {'in a save' if in_a_save else f'{delay_s:.3f} s after epoch {begun}'}: {code}")
    assert code in (0, -signal.SIGKILL), f"it ended with {code}"
    if not any(folder.glob("backup/backup-*")):
        # It begins anew, and TensorBoard keeps what an earlier training has left, as Keras' does.
        shutil.rmtree(folder / "board", ignore_errors=True)
    return code != 0
