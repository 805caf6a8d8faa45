"""Records on their way to TensorBoard's files: from any thread, in order, off the caller's."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, final

from fitbus.callbacks._background import Background, unless
from fitbus.callbacks._tensorboard_files import EventFile, check_place, event, graph_event
from fitbus.callbacks._tensorboard_summaries import scalar
from fitbus.events import BatchEnd, EpochBegin

if TYPE_CHECKING:
    from fitbus.bus import Subscription
    from fitbus.train import Run

__all__ = ["Batches", "Writer"]

_ROOM = 4096  # records that may wait to be written
_Piece: TypeAlias = tuple[str | None, Callable[[], Any]]  # makes a record for a file, or does work


@final
class Writer:
    """Writes to the files of one directory, in the order in which it is asked to.

    While it is open a thread of its own writes, all that has gathered at once, and what that raises
    is raised by the next call. Else the caller writes, and waits: so nothing is lost that comes
    early or late.

    Args:
        log_dir: The directory.
        timeout_s: Seconds that closing waits, and that a caller waits for room.
    """

    def __init__(self, log_dir: Path, timeout_s: float) -> None:
        self._log_dir = log_dir
        self._files = {name: EventFile(log_dir / name) for name in ("train", "validation")}
        self._background = Background("TensorBoard", timeout_s)
        self._timeout_s = timeout_s
        self._changed = threading.Condition()
        self._gathered: list[_Piece] = []
        self._open = False
        self._closing = False
        self._scheduled = False
        self._error: BaseException | None = None
        self._lost = False  # something, since it was opened
        self._began = int(time.time())  # files that are made from here on are its own
        self._count = dict.fromkeys(self._files, 0)  # of records, batches' left out

    def open(self) -> None:
        """Lets a thread write from here on, if it can write there at all."""
        check_place(self._log_dir)
        with self._changed:
            self._open = True
            self._error = None
            self._lost = False

    def attach(self, run: Run[Any]) -> None:
        """Lets it know of the run's cancellation."""
        self._background.run = run

    def written(self) -> dict[str, int]:
        """What `go_on` needs to find this place again."""
        with self._changed:
            return {"began": self._began, **self._count}

    def go_on(self, written: Mapping[str, int], step: int | None) -> None:
        """Takes out what was written after a place; before anything is written.

        Args:
            written: The place.
            step: Completed optimizer updates there; None leaves the files alone.
        """
        self.flush()
        with self._changed:
            self._began = written["began"]
            self._count = {name: written[name] for name in self._files}
            if step is not None:
                for name, file in self._files.items():
                    file.cut(self._began, self._count[name], step)

    def mark(self) -> Callable[[float], bool]:
        """What waits until all is written that came so far; see `Background.mark`."""
        return unless(lambda: self._lost, self._background.mark())

    def flush(self) -> None:
        """Waits until all is written."""
        self._background.flush()
        with self._changed:
            self._check()

    def close(self, *, for_good: bool = False) -> None:
        """Waits until all is written. What comes meanwhile follows, and isn't waited for.

        Args:
            for_good: Whether what comes from here on is written by who brings it.
        """
        with self._changed:
            self._closing = True
            self._open = self._open and not for_good
        try:
            self._background.close()
        finally:
            with self._changed:
                self._closing = self._scheduled = False
                if self._open:
                    self._schedule()
                else:
                    self._write_gathered()
                self._check()

    def submit(self, work: Callable[[], object]) -> None:
        """Does a piece of work in its turn."""
        self._add((None, work))

    def put(self, to: str, values: Callable[[], Sequence[Any]], step: int) -> None:
        """Writes summaries, which are made in their turn."""
        now = time.time()
        self._add((to, lambda: event(values(), step, now)))

    def put_scalars(self, to: str, tag: str, found: Mapping[str, float], step: int) -> None:
        """Writes numbers, if there are any; `tag` has braces where their names go."""
        if found:
            self.put(to, lambda: [scalar(tag.format(k), v) for k, v in found.items()], step)

    def put_graph(self, graph: Callable[[], Any]) -> None:
        """Writes a graph, which is drawn in its turn."""
        now = time.time()
        self._add(("train", lambda: graph_event(graph(), now)))

    def write(self, to: str, events: Sequence[Any]) -> None:
        """Writes records at once."""
        try:
            self._files[to].write(events)
        except OSError:
            self._lost = True
            raise

    def _add(self, piece: _Piece) -> None:
        with self._changed:
            self._check()
            waits = self._background.waits(self._timeout_s)
            if not any(self._changed.wait_for(self._has_room, wait_s) for wait_s in waits):
                raise self._background.late(f"{_ROOM:,} records aren't written", self._timeout_s)
            self._gathered.append(piece)
            if piece[0] is not None:
                self._count[piece[0]] += 1
            if self._open or self._closing:
                self._schedule()
            else:
                self._write_gathered()
                self._check()

    def _has_room(self) -> bool:
        return len(self._gathered) < _ROOM

    def _schedule(self) -> None:
        """Lets the thread take what has gathered. The lock is held."""
        if self._gathered and not (self._scheduled or self._closing):
            self._scheduled = True
            self._background.submit(self._take)

    def _take(self) -> None:
        """Writes what has gathered; in the thread."""
        with self._changed:
            self._scheduled = False
            pieces, self._gathered = self._gathered, []
            self._changed.notify_all()
        self._write_all(pieces)

    def _write_gathered(self) -> None:
        pieces, self._gathered = self._gathered, []
        self._write_all(pieces)

    def _write_all(self, pieces: Sequence[_Piece]) -> None:
        if self._error is not None:
            return  # what follows may build upon what failed
        try:
            for to, group in itertools.groupby(pieces, key=lambda piece: piece[0]):
                if to is None:
                    for _, work in group:
                        work()
                else:
                    self._files[to].write([make() for _, make in group])
        except BaseException as error:  # noqa: BLE001  # raised by the next call
            self._error = error
            self._lost = True

    def _check(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error


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

    def watch(self, run: Run[Any]) -> Subscription[Any]:
        """Subscribes."""
        kinds = (EpochBegin, BatchEnd) if self._speed else (BatchEnd,)
        return run.add(
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
