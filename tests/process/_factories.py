"""Trainings that child processes are asked for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import fitbus
from fitbus.testing import toy_problem
from fitbus.train import Training


class Drawn(fitbus.Event):
    """An event of a user's own."""

    n: int


def toy(
    epochs: int = 1, x: Any = None, y: Any = None, steps: int | None = None, **options: Any
) -> Training:
    """Two batches an epoch, or so many steps, unless data are given."""
    problem = toy_problem(64, 4)
    trainer = fitbus.Trainer(problem.task, problem.params)
    if x is None:
        x, y, options = problem.x, problem.y, {"batch_size": 32, **options}
    if steps is not None:
        options |= {"steps_per_epoch": steps}
    return Training(trainer, x, y, epochs=epochs, **options)


def dies(how: str) -> Training:
    """Ends its process after the first batch, in one of several ways."""

    @fitbus.handler(fitbus.BatchEnd, wait=True)
    def die(event: fitbus.BatchEnd) -> None:
        sys.stderr.write("the last words\n")
        sys.stderr.flush()
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "exited":
            os._exit(7)
        elif how == "crashed":
            os.abort()
        elif how == "raised":
            raise ValueError("not today")
        elif how == "holds the lock":
            sys.setswitchinterval(1000)
            while True:
                pass
        else:
            time.sleep(1000)

    return toy(epochs=10**6, callbacks=[die])


def lingers(path: str) -> Training:
    """Leaves a thread and a process that never end, and a long line that doesn't, either.

    Args:
        path: Where it says which process.
    """
    left = subprocess.Popen(["sleep", "1000"])  # noqa: S607
    Path(path).write_text(str(left.pid), "utf-8")
    sys.stderr.write("half\r" + "y" * 200_000)
    sys.stderr.flush()
    threading.Thread(target=time.sleep, args=(1000,)).start()
    return toy()


def broken() -> Training:
    """Can't be made."""
    raise LookupError("no such data")


class Mute(Exception):
    """An error that fails to say what it is."""

    def __str__(self) -> str:
        raise LookupError


def mute() -> Training:
    """Raises one, whose cause has a text that can't be encoded."""
    raise Mute from ValueError("\udc80")


def no_training() -> Any:
    """Returns something else."""
    return 3


def draws() -> Training:
    """Publishes events of its own."""

    class Draw(fitbus.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            assert self.run is not None
            self.run.publish(Drawn(n=batch))

    return toy(callbacks=[Draw()])
