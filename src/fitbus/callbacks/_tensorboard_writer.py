"""Records on their way to TensorBoard's files: from any thread, in order, off the caller's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from fitbus.callbacks._background import Background
from fitbus.callbacks._tensorboard_files import EventFile, check_place, event, graph_event
from fitbus.callbacks._tensorboard_summaries import scalar
from fitbus.events import BatchEnd, EpochBegin

if TYPE_CHECKING:
    from fitbus.train import Run

__all__ = ["Batches", "Writer"]


@final
class Writer:
    """Writes to the files of one directory.

    While it is open a thread of its own writes, in order, and what that raises is raised by the
    next call. Else the caller writes, and waits: so nothing is lost that comes early or late.

    Args:
        log_dir: The directory.
        timeout_s: Seconds that closing waits.
    """

    def __init__(self, log_dir: Path, timeout_s: float) -> None:
        self._log_dir = log_dir
        self._files = {name: EventFile(log_dir / name) for name in ("train", "validation")}
        self._background = Background("TensorBoard", timeout_s, room=4096)
        self._lock = threading.Lock()  # so that one thread at a time makes the other one
        self._open = False

    def open(self) -> None:
        """Lets a thread write from here on, if it can write there at all."""
        check_place(self._log_dir)
        with self._lock:
            self._open = True

    def flush(self) -> None:
        """Waits until all is written."""
        self._background.flush()

    def close(self, timeout_s: float | None = None, *, for_good: bool = False) -> None:
        """Waits until all is written.

        Args:
            timeout_s: Seconds for it; its own, unless given.
            for_good: Whether what comes from here on is written by who brings it.
        """
        if for_good:
            with self._lock:
                self._open = False
        self._background.close(timeout_s)

    def submit(self, work: Callable[[], object]) -> None:
        """Does a piece of work in its turn."""
        with self._lock:
            if self._open:
                self._background.submit(work)
                return
        work()

    def put(self, to: str, values: Callable[[], Sequence[Any]], step: int) -> None:
        """Writes summaries, which are made in their turn."""
        now = time.time()
        self.submit(lambda: self.write(to, [event(values(), step, now)]))

    def put_scalars(self, to: str, tag: str, found: Mapping[str, float], step: int) -> None:
        """Writes numbers, if there are any; `tag` has braces where their names go."""
        if found:
            self.put(to, lambda: [scalar(tag.format(k), v) for k, v in found.items()], step)

    def put_graph(self, graph: Callable[[], Any]) -> None:
        """Writes a graph, which is drawn in its turn."""
        now = time.time()
        self.submit(lambda: self.write("train", [graph_event(graph(), now)]))

    def write(self, to: str, events: Sequence[Any]) -> None:
        """Writes records at once."""
        self._files[to].write(events)


@final
class Batches:
    """Writes the logs of batches, in a worker thread, while training goes on.

    Args:
        writer: Where to.
        every: Each so many optimizer updates.
        speed: Whether the updates in a second are written too: since the batch that was written
            last, or since the epoch began.
    """

    def __init__(self, writer: Writer, every: int, *, speed: bool) -> None:
        self._writer = writer
        self._every = every
        self._speed = speed
        self._since = (0, 0.0)

    def watch(self, run: Run[Any]) -> None:
        """Subscribes."""
        kinds = (EpochBegin, BatchEnd) if self._speed else (BatchEnd,)
        run.add(
            self._write,
            *kinds,
            where=self._is_due,
            wait=False,
            batched=True,
            name="TensorBoard batches",
        )

    def _is_due(self, found: EpochBegin | BatchEnd) -> bool:
        return isinstance(found, EpochBegin) or found.step % self._every == 0

    def _write(self, found: Sequence[EpochBegin | BatchEnd]) -> None:
        records: list[Any] = []
        for each in found:
            if isinstance(each, BatchEnd):
                values = [scalar(f"batch_{name}", value) for name, value in each.logs.items()]
                steps, took = each.step - self._since[0], each.time - self._since[1]
                if self._speed and steps > 0 and took > 0:
                    values.append(scalar("batch_steps_per_second", steps / took))
                records.append(event(values, each.step, each.time))
            self._since = (each.step, each.time)
        self._writer.write("train", records)
