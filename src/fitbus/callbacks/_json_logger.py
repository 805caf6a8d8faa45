"""Writes a line of JSON for each event."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final, get_args

import msgspec

from fitbus._files import naming
from fitbus.bus import OnError, Subscription
from fitbus.callbacks._arguments import check_flag, check_whole
from fitbus.callbacks._background import unless
from fitbus.callbacks._callback import Callback
from fitbus.callbacks._encodable import encodable
from fitbus.callbacks._last_line import cut_last_lines, end_last_line
from fitbus.errors import InvalidArgumentError, one_of
from fitbus.events import (
    BatchBegin,
    BatchEnd,
    CheckpointSaved,
    Codec,
    ControlApplied,
    ControlRejected,
    EpochBegin,
    EpochEnd,
    Event,
    HandlerFailed,
    Lagged,
    PredictBatchBegin,
    PredictBatchEnd,
    PredictBegin,
    PredictEnd,
    RunPaused,
    RunResumed,
    TestBatchBegin,
    TestBatchEnd,
    TestBegin,
    TestEnd,
    TrainBegin,
    TrainEnd,
)

if TYPE_CHECKING:
    from fitbus.train import Run

__all__ = ["JSONLogger"]


@final
class JSONLogger(Callback):
    """Writes a line of JSON for each event, by the codec: what happened, for other programs.

    Works in `fit`, `evaluate` and `predict`. Lines are in the order of `seq`, none is lost, and
    training doesn't wait for them: a thread of its own writes what has gathered, and training is
    held only when more than 1,024 of them wait for a slow disk. When `fit` returns, all lines are
    there (as long as the disk took less than its `drain_s`, and after a cancellation less than
    `grace_s`). Between two writes the file isn't held open. Read it back with
    `fitbus.Codec(*own_types).from_json(line)`.

    NaN and the infinities are the strings "NaN", "Infinity" and "-Infinity", so each line is strict
    JSON. The outputs of predictions are left out; of a control that works inside its process only
    (`UpdateState`) there is the name.

    A training that goes on from a backup goes on with the file: what came after the backup is taken
    out, since it happens again, and `TrainBegin` and what else is told again isn't written again.
    So in the end there are the lines of a training that was never interrupted, but for the times
    and the id of the run; for a stop that interrupted it, such as a signal's; and for controls that
    handlers of `TrainBegin` or `EpochBegin` send, which act, and are told, again. The lines of
    earlier trainings stay, and with `append` those of one that didn't come to its first backup.

    A file that is taken away meanwhile is begun anew with the next line.

    Differs from Keras in being there: Keras has none; its guide writes such a file by hand.

    Args:
        path: The file. Its directory must be there.
        types: Which events; subclasses are included. None: all of fitbus' own. For yours as well:
            `types=[fitbus.Event]`, or `types=[*JSONLogger.default_types, Mine]`.
        every: Of the batches, each n-th is written: the n-th, the 2n-th, ... of an epoch. Other
            events are written always.
        append: Whether what is in the file stays; else a run begins it anew with its first line,
            unless it goes on from a backup. Half a last line, which a power failure may leave, is
            cut off then.
        on_error: What a full disk does, as of any handler: `"raise"` (training ends at the next
            step boundary), `"log"`, `"stop"` or `"unsubscribe"`.

    Attributes:
        default_types: All types of fitbus' own.

    Raises:
        InvalidArgumentError: An argument is of the wrong kind or out of range.
        OSError: In `fit`: the file can't be written; it names the path.
        TypeError: In `fit`: a field of an event of yours can't be encoded.

    Source: https://jsonlines.org.
    """

    adds_logs: ClassVar[bool | frozenset[str]] = False

    default_types: ClassVar[tuple[type[Event], ...]] = (
        *(TrainBegin, TrainEnd, EpochBegin, EpochEnd, BatchBegin, BatchEnd),
        *(TestBegin, TestEnd, TestBatchBegin, TestBatchEnd),
        *(PredictBegin, PredictEnd, PredictBatchBegin, PredictBatchEnd),
        *(ControlApplied, ControlRejected, RunPaused, RunResumed, CheckpointSaved),
        *(HandlerFailed, Lagged),
    )

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        types: Iterable[type[Event]] | None = None,
        every: int = 1,
        append: bool = False,
        on_error: OnError = "raise",
    ) -> None:
        if not isinstance(path, str | os.PathLike) or not os.fspath(path):
            raise InvalidArgumentError("JSONLogger.path", path, "give the path of a file")
        check_whole("JSONLogger", "every", every, 1)
        check_flag("JSONLogger", "append", append)
        if on_error not in get_args(OnError):
            raise InvalidArgumentError("JSONLogger.on_error", on_error, one_of(get_args(OnError)))
        self.path = os.fspath(path)
        self.types = self.default_types if types is None else _checked(types)
        self.every = every
        self.append = append
        self._on_error: OnError = on_error
        self._codec = Codec()
        self._writer: _Writer | None = None
        self._subscription: Subscription[Event] | None = None

    def attach(self, run: Run[Any]) -> None:
        """Subscribes to a run; `callbacks=[...]` calls it."""
        super().attach(run)
        run.preparation.claim_file(self.path, "JSONLogger")
        self._writer = _Writer(Path(self.path), self._codec, run, append=self.append)
        self._subscription = run.add(
            self._writer,
            *self.types,
            wait=False,
            batched=True,
            where=None if self.every == 1 else self._is_wanted,
            on_error=self._on_error,
            name="JSONLogger",
        )

    def state_dict(self) -> dict[str, Any]:
        """How many bytes the file had before this training, if it appends to it."""
        return {"before": self._writer.before} if self.append and self._writer else {}

    def pending_writes(self) -> Callable[[float], bool] | None:
        """The lines that aren't in the file yet."""
        if self._subscription is None or (writer := self._writer) is None:
            return None
        counts = self._on_error in ("raise", "stop")  # else it may lose some
        return unless(lambda: counts and writer.failed, self._subscription.mark())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on with the file, whose first bytes stay in any case."""
        if self._writer is not None:
            self._writer.before = int(state.get("before", 0))

    def _is_wanted(self, event: Event) -> bool:
        batch: int | None = getattr(event, "batch", None)
        return not event.batch_level or batch is None or (batch + 1) % self.every == 0


@final
class _Writer:
    """Writes one run's lines; called in a thread of its own, with what has gathered.

    Args:
        path: The file.
        codec: Encodes them.
        begins: The run. When it has an event to write, it is known whether it goes on from a
            backup; if it doesn't, it begins the file anew, unless it is to
        append: to it.

    Attributes:
        before: Bytes of the file that were there before the training.
        failed: Whether some lines weren't written.
    """

    def __init__(self, path: Path, codec: Codec, begins: Run[Any], *, append: bool) -> None:
        self._path = path
        self._codec = codec
        self._begins: Run[Any] | None = begins
        self._append = append
        self._from = 0  # the `seq` from which on it writes
        self._is_torn = False  # a write failed: its last line may be half of one
        self.failed = False
        self.before = path.stat().st_size if append and path.is_file() else 0

    def __call__(self, events: Sequence[Event]) -> None:
        lines: list[bytes] = []
        if self._begins is not None and (resumed := self._begins.preparation.resumed) is not None:
            self._from = resumed.seq or 0
        events = [event for event in events if not -1 < event.seq < self._from]
        if not events:
            return
        try:
            try:
                for event in events:
                    lines += [self._codec.to_json(encodable(event)), b"\n"]
            finally:  # one that can't be encoded takes none with it
                self._write(b"".join(lines))
        except BaseException:
            self.failed = True
            if self._is_torn:
                self._cut_torn()
            raise

    def _write(self, data: bytes) -> None:
        begins = self._begins
        resumed = begins is not None and begins.preparation.resumed is not None
        anew = begins is not None and not resumed and not self._append
        with naming(self._path):
            if (begins is not None and not anew) or self._is_torn:
                torn = resumed or self._is_torn
                end_last_line(self._path, _is_json if torn else _is_somebodys)
            if self._from and begins is not None:
                cut_last_lines(self._path, self.before, self._comes_again)
            with self._path.open("wb" if anew else "ab") as file:
                self._begins, self._is_torn = None, True
                file.write(data)
            self._is_torn = False

    def _cut_torn(self) -> None:
        """Takes out half a line, since nobody may come to write the next one."""
        with contextlib.suppress(OSError):
            end_last_line(self._path, _is_json)

    def _comes_again(self, line: bytes) -> bool:
        """Whether a line tells of what the training does again."""
        try:
            return msgspec.json.decode(line, type=_Place).seq >= self._from
        except msgspec.DecodeError:
            return False


@final
class _Place(msgspec.Struct):
    """What is read of a line."""

    seq: int = -1


def _is_json(line: bytes) -> bool:
    """Whether a line is whole: half an object of JSON is none."""
    try:
        msgspec.json.decode(line)
    except msgspec.DecodeError:
        return False
    return True


def _is_somebodys(line: bytes) -> bool:
    """Whether it stays as it is: before a training that doesn't go on, whatever it is."""
    return bool(line)


def _checked(types: object) -> tuple[type[Event], ...]:
    found = tuple(types) if isinstance(types, Iterable) else ()
    if not found or not all(isinstance(kind, type) and issubclass(kind, Event) for kind in found):
        raise InvalidArgumentError(
            "JSONLogger.types", types, "give a list of event types, or None for all of fitbus' own"
        )
    return found
