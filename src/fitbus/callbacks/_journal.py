"""Writes every event of a run to disk, to be read afterwards."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, final, get_args

from fitbus.bus import OnError, Subscription
from fitbus.callbacks._arguments import check_flag, check_whole, path_of
from fitbus.callbacks._background import unless
from fitbus.callbacks._callback import Callback
from fitbus.callbacks._encodable import encodable
from fitbus.errors import InvalidArgumentError, one_of
from fitbus.events import Event, PredictEnd, TestEnd, TrainBegin, TrainEnd
from fitbus.journal import JournalWriter

if TYPE_CHECKING:
    from fitbus.train import Run

__all__ = ["Journal"]


@final
class Journal(Callback):
    """Writes every event of a run, yours among them, and every control with the step it acted at.

    Works in `fit`, `evaluate` and `predict`. What it writes is read with `fitbus.journal.read`, and
    listed and exported by `python -m fitbus journal`.

    Events are in the order of `seq`, none is lost, and training doesn't wait for them: a thread of
    its own writes what has gathered, and training is held only when more than 1,024 of them wait
    for a slow disk. When `fit` returns, all are on the disk (as long as that took less than its
    `drain_s`, and after a cancellation less than `grace_s`). A `kill -9` loses what waits in the
    process, the last events of some milliseconds; a power failure what the system hasn't brought to
    the disk, which may be those of half a minute, but no segment before the last one. What either
    leaves of a last frame is cut off when the journal is appended to, and ends the reading.

    A run that goes on from a backup appends, after what came past the backup, and happens again,
    was taken away; `TrainBegin` and what else is told again isn't written again. So in the end
    there are the events of a run that was never interrupted. A backup counts only when the journal
    has what came before it. One directory belongs to one run at a time.

    The outputs of predictions are left out; of a control that works inside its process only
    (`UpdateState`) there is the name.

    Differs from Keras in being there: Keras has none.

    Args:
        path: The directory. It is made if its parent is there.
        segment_bytes: The size of a file, at which another one is begun.
        keep_segments: How many files stay, the oldest are deleted; None keeps all.
        append: Whether what is there stays; else a run begins the journal anew with its first
            event, unless it goes on from a backup.
        on_error: What a full disk does, as of any handler: `"raise"` (training ends at the next
            step boundary), `"log"`, `"stop"` or `"unsubscribe"`.

    Raises:
        InvalidArgumentError: An argument is of the wrong kind or out of range.
        JournalError: In `fit`: what it is to append to is damaged.
        OSError: In `fit`: a file can't be written; it names the path.
        TypeError: In `fit`: a field of an event of yours can't be encoded.
    """

    adds_logs: ClassVar[bool | frozenset[str]] = False

    _keeper: _Keeper

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        segment_bytes: int = 64 << 20,
        keep_segments: int | None = None,
        append: bool = False,
        on_error: OnError = "raise",
    ) -> None:
        self.path = path_of("Journal", "path", path)
        check_whole("Journal", "segment_bytes", segment_bytes, 1)
        if keep_segments is not None:
            check_whole("Journal", "keep_segments", keep_segments, 1, also=", or None for all")
        check_flag("Journal", "append", append)
        if on_error not in get_args(OnError):
            raise InvalidArgumentError("Journal.on_error", on_error, one_of(get_args(OnError)))
        self.segment_bytes = segment_bytes
        self.keep_segments = keep_segments
        self.append = append
        self._on_error: OnError = on_error
        self._subscription: Subscription[Event] | None = None

    def __fspath__(self) -> str:
        """Its path: it stands for its journal where one is read."""
        return self.path

    def pending_writes(self) -> Callable[[float], bool] | None:
        """The events that aren't in it yet."""
        if self._subscription is None:
            return None
        keeper, counts = self._keeper, self._on_error in ("raise", "stop")  # else it may lose some
        return unless(lambda: counts and keeper.failed, self._subscription.mark())

    def attach(self, run: Run[Any]) -> None:
        """Subscribes to a run; `callbacks=[...]` calls it."""
        super().attach(run)
        self._keeper = _Keeper(self, run)
        self._subscription = run.add(
            self._keeper,
            Event,
            wait=False,
            batched=True,
            on_error=self._on_error,
            name="Journal",
        )


@final
class _Keeper:
    """Writes one run's events; called in a thread of its own, with what has gathered.

    Attributes:
        failed: Whether some weren't written.
    """

    def __init__(self, journal: Journal, run: Run[Any]) -> None:
        self._journal = journal
        self._run: Run[Any] | None = run  # until it has begun
        self._writer: JournalWriter | None = None
        self._from = 0  # the `seq` from which on it writes
        self._ends: tuple[type[Event], ...] = (TestEnd, PredictEnd)
        self.failed = False

    def __call__(self, events: Sequence[Event]) -> None:
        try:
            self._write(events)
        except BaseException:
            self.failed = True
            raise

    def _write(self, events: Sequence[Event]) -> None:
        if self._writer is None:
            self._writer = self._begun(events[0])
        # What is told again, when a training goes on, is there from before.
        self._writer.write(encodable(e) for e in events if not -1 < e.seq < self._from)
        if isinstance(events[-1], self._ends) or any(isinstance(e, TrainEnd) for e in events):
            self._writer.sync()

    def _begun(self, first: Event) -> JournalWriter:
        """Knows by now whether the run goes on from a backup."""
        assert self._run is not None
        resumed = self._run.preparation.resumed
        journal = self._journal
        writer = JournalWriter(
            journal.path,
            segment_bytes=journal.segment_bytes,
            keep_segments=journal.keep_segments,
            anew=resumed is None and not journal.append,
        )
        if resumed is not None and resumed.seq is not None:
            self._from = resumed.seq
            writer.cut(self._from)
        if isinstance(first, TrainBegin):
            self._ends = (TrainEnd,)
        self._run = None
        return writer
