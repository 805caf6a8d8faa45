"""One of each built-in callback, for the tests that all of them must pass."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import fitbus
from fitbus.callbacks import Callback
from fitbus.testing import toy_problem

__all__ = [
    "BROKEN",
    "DEAD",
    "FOREVER",
    "NAMES",
    "PROBLEM",
    "WORKING",
    "Place",
    "X",
    "Y",
    "kind_of",
    "made",
    "nothing_left",
]

NAMES = [name for name in fitbus.callbacks.__all__ if name not in ("Callback", "Logs")]

PROBLEM = toy_problem(16, 2)
X, Y = PROBLEM.x, PROBLEM.y

FOREVER = 10**6
DEAD = "http://127.0.0.1:9"  # the port of a service that nobody runs


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a callback may write.

    Attributes:
        folder: An empty folder.
        url: A server that takes whatever is sent to it.
    """

    folder: Path
    url: str

    @property
    def file(self) -> Path:
        """A file, below which nothing can be written."""
        path = self.folder / "file"
        path.touch()
        return path

    @property
    def blocked(self) -> Path:
        """A path that can't be written."""
        return self.file / "below"


def kind_of(name: str) -> type[Callback]:
    """The class of a name."""
    kind = getattr(fitbus.callbacks, name)
    assert inspect.isclass(kind)
    assert issubclass(kind, Callback)
    return kind


# Each is made so that it lets the others' training go on: nothing stops or diverges.
WORKING: dict[str, Callable[[Any, Place], Callback]] = {
    "BackupAndRestore": lambda kind, place: kind(place.folder / "backup"),
    "CSVLogger": lambda kind, place: kind(place.folder / "log.csv"),
    "DeviceStats": lambda kind, place: kind(),
    "EarlyStopping": lambda kind, place: kind("loss", patience=FOREVER, restore_best_weights=True),
    "Guard": lambda kind, place: kind("rollback", snapshot_every=1),
    "History": lambda kind, place: kind(),
    "JSONLogger": lambda kind, place: kind(place.folder / "log.jsonl"),
    "Journal": lambda kind, place: kind(place.folder / "journal"),
    "LambdaCallback": lambda kind, place: kind(on_epoch_end=lambda epoch, logs: None),
    "LearningRateFinder": lambda kind, place: kind(steps=4, diverges_at=None),
    "LearningRateScheduler": lambda kind, place: kind(lambda epoch: 0.01),
    "ModelCheckpoint": lambda kind, place: kind(
        place.folder / "w.safetensors", "loss", save_best_only=True, save_weights_only=True
    ),
    "OrbaxCheckpoint": lambda kind, place: kind(place.folder / "states", "loss"),
    "ParamScheduler": lambda kind, place: kind("learning_rate", lambda step: 0.01),
    "ProgbarLogger": lambda kind, place: kind(),
    "ProgressBar": lambda kind, place: kind(live=False),
    "ReduceLROnPlateau": lambda kind, place: kind("loss"),
    "RemoteMonitor": lambda kind, place: kind(place.url, retries=0),
    "StopOnDivergence": lambda kind, place: kind(),
    "SwapEMAWeights": lambda kind, place: kind(ema=lambda state: state.params),
    "TensorBoard": lambda kind, place: kind(place.folder / "board", update_freq=1),
    "TerminateOnNaN": lambda kind, place: kind(),
    "Throughput": lambda kind, place: kind(),
    "Timer": lambda kind, place: kind(max_seconds=3600, max_steps=FOREVER),
}


def made(name: str, place: Place) -> Callback:
    """A callback that works, of a name."""
    return WORKING[name](kind_of(name), place)


@dataclasses.dataclass(frozen=True)
class Broken:
    """One whose disk or network fails.

    Attributes:
        make: Makes it, of its class and a place.
        names: What the error, or the warning in the log, must name: the path that is blocked, or
            this.
        outcome: How training ends: "refused" before the first step, "failed" as soon as the error
            is known, or "completed", with a warning in the log.
    """

    make: Callable[[Any, Place], Callback]
    names: str = ""
    outcome: str = "failed"


BROKEN: dict[str, Broken] = {
    "BackupAndRestore": Broken(lambda kind, place: kind(place.blocked), outcome="refused"),
    "CSVLogger": Broken(lambda kind, place: kind(place.blocked), outcome="refused"),
    "JSONLogger": Broken(lambda kind, place: kind(place.blocked)),
    "Journal": Broken(lambda kind, place: kind(place.blocked)),
    "ModelCheckpoint": Broken(lambda kind, place: kind(place.blocked)),
    "OrbaxCheckpoint": Broken(lambda kind, place: kind(place.blocked), outcome="refused"),
    "RemoteMonitor": Broken(
        lambda kind, place: kind(DEAD, retries=0), names=DEAD, outcome="completed"
    ),
    "TensorBoard": Broken(lambda kind, place: kind(place.blocked), outcome="refused"),
}


@contextlib.contextmanager
def nothing_left(trainer: fitbus.Trainer) -> Generator[None]:
    """No thread, and no subscription, outlives it."""
    before = set(threading.enumerate())
    yield
    assert _threads_left(before) == []
    assert trainer.bus.statistics().subscriptions == ()


def _threads_left(before: set[threading.Thread]) -> list[str]:
    """The names of threads that are new and stay: those that event loops keep apart."""
    left: list[str] = []
    for thread in _new(before):
        thread.join(1)
        if thread.is_alive():
            left.append(thread.name)
    return left


def _new(before: set[threading.Thread]) -> Iterator[threading.Thread]:
    of_loops = ("AnyIO worker", "Trio thread", "asyncio_")
    for thread in threading.enumerate():
        if thread not in before and not thread.name.startswith(of_loops):
            yield thread
