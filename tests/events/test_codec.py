"""The codec: JSON and MessagePack carry every event and control, odd values and unknown types.

Scenario 40.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fitbus import (
    BatchBegin,
    BatchEnd,
    CheckpointSaved,
    Codec,
    Control,
    ControlApplied,
    ControlRejected,
    EpochBegin,
    EpochEnd,
    Evaluate,
    Event,
    HandlerFailed,
    Lagged,
    Pause,
    PredictBatchBegin,
    PredictBatchEnd,
    PredictBegin,
    PredictEnd,
    RestoreCheckpoint,
    Resume,
    RunPaused,
    RunResumed,
    SaveCheckpoint,
    ScaleLearningRate,
    SetHyperparameter,
    SetLearningRate,
    StepSkipped,
    StopEpoch,
    StopTraining,
    TestBatchBegin,
    TestBatchEnd,
    TestBegin,
    TestEnd,
    TrainBegin,
    TrainEnd,
    UnknownControl,
    UnknownEvent,
    UpdateState,
)
from fitbus.errors import InvalidArgumentError
from fitbus.events._codec import _encodable, _spell, _walk

Message = Event | Control


class Sampled(Event):
    path: str
    score: float = 0.0
    maybe: float | None = None
    table: dict[str, list[float]] = msgspec.field(default_factory=dict)
    anything: Any = None
    raw: bytes = b""


class Freeze(Control):
    layer: str
    share: float = 1.0


class Asked(Event):
    """Has a control of a known type inside."""

    control: SetLearningRate


def another_sampled() -> type[Event]:
    class Sampled(Event):
        path: int

    return Sampled


CODEC = Codec(Sampled, Freeze, Asked)
ENVELOPE: dict[str, Any] = {"run": "fit-1", "seq": 7, "time": 1.5, "step": 3, "epoch": 1}
LOGS = {"loss": 0.5, "val_loss": 0.25}
MESSAGES: list[Message] = [
    TrainBegin(epochs=3, steps_per_epoch=4, initial_epoch=1),
    TrainEnd(logs=LOGS, reason="stopped", detail="NaN", source="s"),
    EpochBegin(),
    EpochEnd(logs=LOGS),
    BatchBegin(batch=2),
    BatchEnd(batch=2, logs=LOGS, batch_logs=LOGS),
    TestBegin(),
    TestEnd(logs=LOGS),
    TestBatchBegin(batch=2),
    TestBatchEnd(batch=2, logs=LOGS, batch_logs=LOGS),
    PredictBegin(),
    PredictEnd(),
    PredictBatchBegin(batch=2),
    PredictBatchEnd(batch=2),
    ControlApplied(id=1, control=SetLearningRate(0.1), source="s", result={"val_loss": 0.5}),
    ControlRejected(id=1, control=Freeze("encoder"), source="s", why="w"),
    RunPaused(source="s"),
    RunResumed(source="s"),
    CheckpointSaved(path="p", tag="t"),
    StepSkipped(batch=2, metric="loss", leaf="params/w", action="rollback", back_to=1),
    HandlerFailed(subscriber="s", error="e", event_seq=3),
    Lagged(subscriber="s", count=2, first_seq=3, last_seq=9),
    UnknownEvent(tag="other.Event", fields={"x": [1, {"y": "z"}]}),
    Sampled(path="p", score=0.5, table={"a": [0.5]}, anything=[1, None], raw=b"\x00\xff"),
    Asked(control=SetLearningRate(0.1)),
    Event(**ENVELOPE),
    EpochEnd(**ENVELOPE, logs=LOGS),
    StopTraining("r", validate=False),
    StopEpoch("r"),
    SetLearningRate(0.1),
    ScaleLearningRate(0.5),
    SetHyperparameter("b1", 0.5),
    Pause(),
    Resume(),
    Evaluate(),
    SaveCheckpoint("t"),
    RestoreCheckpoint("t"),
    UnknownControl("other.Control", {"x": 1}),
    Freeze("encoder", 0.5),
]

Carry = Callable[[Message], Message]


def by_json(message: Message, codec: Codec = CODEC) -> Message:
    return codec.from_json(codec.to_json(message))


def by_msgpack(message: Message, codec: Codec = CODEC) -> Message:
    return codec.from_msgpack(codec.to_msgpack(message))


@pytest.fixture(params=[by_json, by_msgpack])
def carry(request: pytest.FixtureRequest) -> Any:
    """Encodes and decodes."""
    return request.param


def name_of(message: Message) -> str:
    return type(message).__name__


@pytest.mark.parametrize("message", MESSAGES, ids=name_of)
def test_every_message_comes_back_equal(message: Message, carry: Carry) -> None:
    back = carry(message)
    if isinstance(message, UnknownControl):  # on its own, nothing says that it was a control
        assert back == UnknownEvent(tag=message.tag, fields=message.fields)
        return
    assert type(back) is type(message)
    assert back == message


def test_no_type_is_forgotten_here() -> None:
    """Every public event and control is among the messages, but for what stays in its process."""
    import fitbus

    kinds = {getattr(fitbus, name) for name in fitbus.__all__ if name[0].isupper()}
    kinds = {k for k in kinds if isinstance(k, type) and issubclass(k, Event | Control)}
    assert kinds - {type(message) for message in MESSAGES} == {UpdateState, Control}


def test_nonfinite_numbers_are_words_in_json() -> None:
    event = EpochEnd(logs={"a": math.nan, "b": math.inf, "c": -math.inf})
    raw = json.loads(CODEC.to_json(event))
    assert raw["type"] == "EpochEnd"
    assert raw["logs"] == {"a": "NaN", "b": "Infinity", "c": "-Infinity"}


def test_nonfinite_numbers_survive(carry: Carry) -> None:
    logs = {"a": math.nan, "b": math.inf, "c": -math.inf}
    message = BatchEnd(batch=0, logs=logs, batch_logs=logs)
    sampled = Sampled(path="NaN", score=math.nan, maybe=math.inf, table={"t": [-math.inf]})
    applied = ControlApplied(id=0, control=Freeze("f", math.inf), source="", result=logs)
    back, own, notice = carry(message), carry(sampled), carry(applied)
    assert isinstance(back, BatchEnd)
    assert isinstance(own, Sampled)
    assert isinstance(notice, ControlApplied)
    for found in (back.logs, back.batch_logs, notice.result):
        assert math.isnan(found["a"])
        assert (found["b"], found["c"]) == (math.inf, -math.inf)
    assert math.isnan(own.score)
    assert (own.path, own.maybe, own.table) == ("NaN", math.inf, {"t": [-math.inf]})
    assert notice.control == Freeze("f", math.inf)


def test_numpy_values_survive_as_plain_ones(carry: Carry) -> None:
    message = Sampled(
        path="p",
        score=np.float32(0.5),  # type: ignore[arg-type]
        maybe=np.float64(math.nan),
        table={"t": np.array([0.5, 1.5])},  # type: ignore[dict-item]
        anything={"n": np.int64(3), "flags": np.array([True, False])},
    )
    back = carry(message)
    assert isinstance(back, Sampled)
    assert (back.score, back.table) == (0.5, {"t": [0.5, 1.5]})
    assert math.isnan(back.maybe or 0.0)
    assert back.anything == {"n": 3, "flags": [True, False]}


def test_an_unknown_event_keeps_its_fields_and_can_be_passed_on(carry: Carry) -> None:
    """A process in the middle needn't know a type to pass it on."""
    bare = Codec()
    message = Sampled(**ENVELOPE, path="p", score=0.5)
    unknown = bare.from_json(CODEC.to_json(message))
    assert isinstance(unknown, UnknownEvent)
    assert unknown.tag == f"{__name__}.Sampled"
    assert (unknown.run, unknown.seq, unknown.time, unknown.step, unknown.epoch) == (
        "fit-1",
        7,
        1.5,
        3,
        1,
    )
    assert unknown.fields["path"] == "p"
    assert "seq" not in unknown.fields
    assert carry(unknown) == message


def test_an_unknown_control_inside_a_notice(carry: Carry) -> None:
    notice = ControlRejected(id=1, control=Freeze("encoder", 0.5), source="s", why="w")
    bare = Codec()
    unknown = bare.from_json(CODEC.to_json(notice))
    assert isinstance(unknown, ControlRejected)
    assert unknown.control == UnknownControl(
        f"{__name__}.Freeze", {"layer": "encoder", "share": 0.5}
    )
    assert carry(unknown) == notice


def test_two_types_of_one_name_stay_two(carry: Carry) -> None:
    other = another_sampled()
    codec = Codec(Sampled, other)
    messages: list[Message] = [Sampled(path="p"), other(path=3)]  # type: ignore[call-arg]
    for message in messages:
        for back in (by_json(message, codec), by_msgpack(message, codec)):
            assert type(back) is type(message)
            assert back == message
    assert carry(messages[1]) != messages[1]  # a codec that wasn't told of it


def test_a_type_given_twice_is_one() -> None:
    codec = Codec(Sampled, Sampled, EpochEnd)
    assert by_json(Sampled(path="p"), codec) == Sampled(path="p")


@pytest.mark.parametrize("kind", [3, int, "EpochEnd", EpochEnd(), None])
def test_what_is_no_type_of_message_is_refused(kind: Any) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Codec(kind)
    assert str(caught.value) == (f"user_types: found {kind!r}; give subclasses of Event or Control")


def test_two_types_with_one_tag_are_refused() -> None:
    one, two = another_sampled(), another_sampled()
    with pytest.raises(InvalidArgumentError) as caught:
        Codec(one, two)
    tag = f"{__name__}.another_sampled.<locals>.Sampled"
    assert str(caught.value) == f"user_types: found {two!r}; its tag {tag!r} is taken by {one!r}"


@pytest.mark.parametrize("encode", [CODEC.to_json, CODEC.to_msgpack])
@pytest.mark.parametrize(
    ("message", "allowed"),
    [
        (3, "give an Event or a Control"),
        (EpochEnd, "give an Event or a Control"),
        (UpdateState(abs), "UpdateState works inside its process only"),
    ],
)
def test_what_cannot_be_encoded_is_refused(
    encode: Callable[[Any], bytes], message: Any, allowed: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        encode(message)
    assert str(caught.value) == f"message: found {message!r}; {allowed}"


def test_a_value_that_is_not_plain_is_named() -> None:
    with pytest.raises(TypeError, match=r"a object can't be encoded; give plain values"):
        CODEC.to_json(Sampled(path="p", anything=object()))


def test_outputs_are_left_out(carry: Carry) -> None:
    assert carry(PredictBatchEnd(batch=1, outputs=np.zeros(3))) == PredictBatchEnd(batch=1)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], "expected a map with a text under 'type'"),
        ({}, "expected a map with a text under 'type'"),
        ({"type": 3}, "expected a map with a text under 'type'"),
        ({"type": "EpochEnd", "seq": "first"}, "Expected `int`, got `str` - at `$.seq`"),
        ({"type": "Other", "seq": "first"}, "Expected `int`, got `str` - at `$.seq`"),
        ({"type": "BatchBegin"}, "Object missing required field `batch`"),
        (
            {"type": "BatchBegin", "batch": -1},
            "BatchBegin.batch: found -1; give a whole number of at least 0",
        ),
        (
            {"type": "ControlApplied", "id": 0, "source": ""},
            "expected a map with a text under 'type'",
        ),
        (
            {"type": "ControlApplied", "id": 0, "source": "", "control": {"type": "EpochEnd"}},
            "expected a control under 'control' of a ControlApplied",
        ),
    ],
)
def test_what_is_no_message_is_refused(raw: object, message: str) -> None:
    """Always as `msgspec.DecodeError`, whatever is wrong with it."""
    for decode, encode in (
        (CODEC.from_json, msgspec.json.encode),
        (CODEC.from_msgpack, msgspec.msgpack.encode),
    ):
        with pytest.raises(msgspec.DecodeError) as caught:
            decode(encode(raw))
        assert str(caught.value) == message


@pytest.mark.parametrize("decode", [CODEC.from_json, CODEC.from_msgpack])
def test_bytes_that_are_neither_are_refused(decode: Callable[[bytes], object]) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(b"\xc1 nothing of the kind")


def test_json_may_be_text() -> None:
    assert CODEC.from_json('{"type": "EpochBegin"}') == EpochBegin()


numbers = st.floats() | st.integers(-(2**53), 2**53).map(float)
logs = st.dictionaries(st.text(max_size=5), numbers, max_size=3)


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(logs=logs, path=st.text(), score=numbers, raw=st.binary())
def test_any_values_survive(logs: dict[str, float], path: str, score: float, raw: bytes) -> None:
    for message in (
        BatchEnd(batch=1, logs=logs, batch_logs={}),
        Sampled(path=path, score=score, raw=raw, table={"t": [*logs.values()]}),
    ):
        for back in (by_json(message), by_msgpack(message)):
            assert repr(back) == repr(message)  # NaN equals nothing, but is spelled alike


@given(
    logs=st.dictionaries(st.text(max_size=5), st.floats() | st.integers(-9, 9), max_size=4),
    time=st.floats(0, 1e12),
    ends=st.booleans(),
)
def test_events_of_batches_are_the_same_bytes_by_the_shorter_way(
    logs: dict[str, float], time: float, ends: bool
) -> None:
    """JSON of what is told of every step, with what isn't finite and without."""
    event: Event = (
        BatchEnd(run="r", seq=3, time=time, step=2, batch=1, logs=logs, batch_logs=dict(logs))
        if ends
        else BatchBegin(run="r", seq=3, time=time, step=2, batch=1)
    )
    long_way = msgspec.json.encode(_walk(_encodable(event, ()), _spell))
    assert Codec().to_json(event) == long_way
