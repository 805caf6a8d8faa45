"""What is fuzzed: each target takes any bytes, and raises only if something is wrong with it."""

from __future__ import annotations

import datetime as dt
import decimal
import hashlib
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

import fitbus
from fitbus import Control, Event
from fitbus.callbacks._backup_file import BackupFiles, Damaged
from fitbus.errors import FitbusError, JournalError
from fitbus.journal import JournalWriter, read
from fitbus.journal._segments import HEADER, framed, frames
from fitbus.train._packing import plain, unpacked

__all__ = ["TARGETS", "Target", "alike"]


class Sampled(Event, tag="sampled"):
    """Of many kinds of fields."""

    path: str
    score: float = 0.0
    maybe: float | None = None
    table: dict[str, list[float]] = msgspec.field(default_factory=dict)
    numbered: dict[int, tuple[int, str]] = msgspec.field(default_factory=dict)
    anything: Any = None
    raw: bytes = b""
    when: dt.datetime | None = None
    exact: decimal.Decimal = decimal.Decimal(0)
    kind: Literal["a", "b"] = "a"
    chosen: frozenset[int] = frozenset()
    control: Control | None = None


class Freeze(Control, tag="freeze"):
    layer: str
    share: float = 1.0


class Target(NamedTuple):
    """What is fuzzed.

    Attributes:
        check: Takes any bytes.
        seeds: Real ones, to be changed.
        is_text: Whether they are a text's.
    """

    check: Callable[[bytes], object]
    seeds: list[bytes]
    is_text: bool = False


CODEC = fitbus.Codec(Sampled, Freeze)
NAN = math.nan
LOGS = {"loss": 0.5, "val_loss": NAN, "accuracy": math.inf, "é": -0.0}
ENVELOPE: dict[str, Any] = {"run": "fit-1", "seq": 7, "time": 1.5, "step": 3, "epoch": 1}
CONTROLS: list[Control] = [
    fitbus.StopTraining("r", validate=False, resumable=True),
    fitbus.StopEpoch("r"),
    fitbus.SetLearningRate(0.1),
    fitbus.ScaleLearningRate(0.5),
    fitbus.SetHyperparameter("b1", 0.5),
    fitbus.Pause(),
    fitbus.Resume(),
    fitbus.Evaluate(),
    fitbus.SaveCheckpoint("t"),
    fitbus.RestoreCheckpoint("t"),
    fitbus.UnknownControl("other.Control", {"x": [1, {"y": None}]}),
    Freeze("encoder", NAN),
]
EVENTS: list[Event] = [
    Event(**ENVELOPE),
    fitbus.TrainBegin(**ENVELOPE, epochs=3, steps_per_epoch=4, initial_epoch=1),
    fitbus.TrainEnd(**ENVELOPE, logs=LOGS, reason="stopped", detail="NaN", source="s"),
    fitbus.EpochBegin(**ENVELOPE),
    fitbus.EpochEnd(**ENVELOPE, logs=LOGS),
    fitbus.BatchBegin(**ENVELOPE, batch=2),
    fitbus.BatchEnd(**ENVELOPE, batch=2, logs=LOGS, batch_logs=LOGS),
    fitbus.TestBegin(),
    fitbus.TestEnd(logs=LOGS),
    fitbus.TestBatchBegin(batch=2),
    fitbus.TestBatchEnd(batch=2, logs=LOGS, batch_logs=LOGS),
    fitbus.PredictBegin(),
    fitbus.PredictEnd(),
    fitbus.PredictBatchBegin(batch=2),
    fitbus.PredictBatchEnd(batch=2),
    *(fitbus.ControlApplied(id=1, control=c, source="s", result=LOGS) for c in CONTROLS),
    *(fitbus.ControlRejected(id=1, control=c, source="s", why="w") for c in CONTROLS[::5]),
    fitbus.RunPaused(source="s"),
    fitbus.RunResumed(source="s"),
    fitbus.CheckpointSaved(path="p", tag="t"),
    fitbus.StepSkipped(batch=2, metric="loss", leaf="params/w", action="rollback", back_to=1),
    fitbus.HandlerFailed(subscriber="s", error="e", event_seq=3),
    fitbus.Lagged(subscriber="s", count=2, first_seq=3, last_seq=9),
    fitbus.UnknownEvent(**ENVELOPE, tag="other.Event", fields={"x": [1, {"y": "z"}], "tag": NAN}),
    Sampled(
        path="p",
        score=NAN,
        maybe=math.inf,
        table={"a": [0.5, 2.5]},
        numbered={3: (4, "five")},
        anything=[1, None, {"y": [2**64 - 1, -1.5]}],
        raw=b"\x00\xff",
        when=dt.datetime(2026, 11, 26, tzinfo=dt.UTC),
        exact=decimal.Decimal("0.1"),
        kind="b",
        chosen=frozenset({1, 2}),
    ),
]
MESSAGES: list[Event | Control] = [*EVENTS, *CONTROLS]
PACKED: list[Any] = [
    None,
    [True, 0, 2**64 - 1, 2**200, -(2**70), 1.5, NAN, 1 + 2j, "text", b"bytes", {}],
    {"a": {"b": [1, (2, (3,))]}, 4: np.float32(0.1), "": ()},
    {"state": [("['w']", np.arange(6.0).reshape(2, 3)), ("b", np.array(True))]},
    [np.zeros((0, 3), "<u2"), np.array(["é"]), np.int64(3), np.array(1 + 1j, "c8")],
]


def alike(one: Any, other: Any) -> bool:
    """Whether two values are the same: of the same types, and NaN is NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, msgspec.Struct):
        return all(alike(getattr(one, n), getattr(other, n)) for n in one.__struct_fields__)
    if isinstance(one, dict):
        return alike([*one.items()], [*other.items()])
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float | decimal.Decimal) and one != one:  # noqa: PLR0124  # NaN
        return bool(other != other)  # noqa: PLR0124
    return bool(one == other)


def json(data: bytes) -> None:
    """The codec's JSON."""
    try:
        message = CODEC.from_json(data)
    except msgspec.DecodeError:
        return
    assert alike(CODEC.from_json(CODEC.to_json(message)), message), message


def msgpack(data: bytes) -> None:
    """The codec's MessagePack."""
    try:
        message = CODEC.from_msgpack(data)
    except msgspec.DecodeError:
        return
    assert alike(CODEC.from_msgpack(CODEC.to_msgpack(message)), message), message


_folder = tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True)
_journal = Path(_folder.name, "journal")
_journal.mkdir()
_segment = _journal / "000001.journal"
_MARK = fitbus.EpochEnd(run="appended", logs={"loss": 0.5})


def journal(data: bytes) -> None:
    """A journal's file: read, opened (which cuts off a torn end), appended to, and read again."""
    _segment.write_bytes(data)
    before, is_damaged = _read()
    refusal: JournalError | None = None
    try:
        JournalWriter(_journal).write([_MARK])
    except JournalError as error:
        refusal = error
    if refusal is not None:
        assert is_damaged
        assert refusal.path == str(_segment)
        assert 0 <= refusal.offset <= len(data)
        assert _segment.read_bytes() == data  # as it was
        return
    after, still_damaged = _read()
    assert still_damaged == is_damaged  # opening doesn't look into the frames
    assert alike(after[: len(before)], before)
    assert is_damaged or after == [*after[: len(before)], _MARK]
    *_, last = frames(_segment, is_last=True)
    assert CODEC.from_msgpack(last.payload) == _MARK
    assert last.end == _segment.stat().st_size


def _read() -> tuple[list[Event], bool]:
    """The events of the file as far as they can be read, and whether it is damaged."""
    found: list[Event] = []
    try:
        for event in read(_journal, Sampled, Freeze):
            assert isinstance(event, Event)
            found.append(event)
    except JournalError:
        return found, True
    return found, False


_SEPARATOR = b"|frame|"


def frame(data: bytes) -> None:
    """A journal's frames, whose checksums are right whatever is in them."""
    journal(HEADER + b"".join(map(framed, data.split(_SEPARATOR))))


_files = BackupFiles(Path(_folder.name, "backups"), 2)
_files.write([b"made"])
_backup = Path(_folder.name, "backups", "backup-1")
_MAGIC = b"fitbus backup 1\n"


def backup(data: bytes) -> None:
    """A backup's file."""
    _backup.write_bytes(data)
    try:
        content = _files.read(_backup)
    except Damaged:
        return
    assert data == _MAGIC + content + hashlib.sha256(content).digest()
    packed(content)


def packed(data: bytes) -> None:
    """What is packed into a backup."""
    try:
        content = unpacked(data)
    except FitbusError:
        return
    try:
        again = b"".join(plain(content))
    except FitbusError:  # MessagePack knows more than is packed
        return
    assert b"".join(plain(unpacked(again))) == again


def _journals() -> Iterator[bytes]:
    payloads = [CODEC.to_msgpack(event) for event in EVENTS]
    yield HEADER
    for size in (1, 3):
        for first in range(0, len(payloads), size):
            yield HEADER + b"".join(map(framed, payloads[first : first + size]))
    yield HEADER + framed(payloads[0]) + bytes(30)


def _sealed(content: bytes) -> bytes:
    return _MAGIC + content + hashlib.sha256(content).digest()


def _described() -> Iterator[bytes]:
    """What says of its arrays what can't be true, or what no array is."""
    dtypes = [
        "<f8",
        "O",
        "V8",
        "f8,f8",
        "S999999999999",
        "U0",
        "M8[s]",
        "int4",
        "bfloat16",
        "",
        "\0",
    ]
    shapes = [[2], [], [-1], [2**62], [10**9] * 3, [0], [2**64 - 1], [1] * 70, [0, 2**62]]
    an_array = msgspec.msgpack.Ext(1, b"\0")
    for dtype in dtypes:
        for shape in shapes:
            header = msgspec.msgpack.encode([an_array, [(dtype, shape)]])
            yield len(header).to_bytes(8, "little") + header + bytes(16)


_CONTENTS = [*(b"".join(plain(content)) for content in PACKED), *_described()]

TARGETS = {
    "json": Target(json, [CODEC.to_json(message) for message in MESSAGES], is_text=True),
    "msgpack": Target(msgpack, [CODEC.to_msgpack(message) for message in MESSAGES]),
    "journal": Target(journal, [*_journals()]),
    "frame": Target(frame, [CODEC.to_msgpack(message) for message in MESSAGES]),
    "backup": Target(backup, [*map(_sealed, _CONTENTS)]),
    "packed": Target(packed, _CONTENTS),
}
