"""Writes a line of JSON for each event."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final, get_args

import msgspec

from fitbus.bus import OnError
from fitbus.callbacks._arguments import check_flag, check_whole
from fitbus.callbacks._callback import Callback
from fitbus.callbacks._encodable import encodable
from fitbus.callbacks._last_line import end_last_line, naming
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

    Differs from Keras in being there: Keras has none; its guide writes such a file by hand.

    Args:
        path: The file. Its directory must be there.
        types: Which events; subclasses are included. None: all of fitbus' own. For yours as well:
            `types=[fitbus.Event]`, or `types=[*JSONLogger.default_types, Mine]`.
        every: Of the batches, each n-th is written: the n-th, the 2n-th, ... of an epoch. Other
            events are written always.
        append: Whether what is in the file stays; else a run begins it anew with its first line,
            unless it goes on from a backup: what the file tells of did happen. Half a last line,
            which a power failure may leave, is cut off then.
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

    def attach(self, run: Run[Any]) -> None:
        """Subscribes to a run; `callbacks=[...]` calls it."""
        super().attach(run)
        run.add(
            _Writer(Path(self.path), self._codec, run, append=self.append),
            *self.types,
            wait=False,
            batched=True,
            where=None if self.every == 1 else self._is_wanted,
            on_error=self._on_error,
            name="JSONLogger",
        )

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
    """

    def __init__(self, path: Path, codec: Codec, begins: Run[Any], *, append: bool) -> None:
        self._path = path
        self._codec = codec
        self._begins: Run[Any] | None = begins
        self._append = append

    def __call__(self, events: Sequence[Event]) -> None:
        lines: list[bytes] = []
        try:
            for event in events:
                lines += [self._codec.to_json(encodable(event)), b"\n"]
        finally:  # one that can't be encoded takes none with it
            self._write(b"".join(lines))

    def _write(self, data: bytes) -> None:
        begins = self._begins
        resumed = begins is not None and begins.preparation.resumed is not None
        anew = begins is not None and not resumed and not self._append
        with naming(self._path):
            if begins is not None and not anew:
                end_last_line(self._path, _is_json if resumed else _is_somebodys)
            with self._path.open("wb" if anew else "ab") as file:
                file.write(data)
        self._begins = None


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
