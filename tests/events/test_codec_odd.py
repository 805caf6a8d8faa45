"""Odd bytes and values: decoding raises its own error only, and what decodes encodes again.

Scenario 40.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import pytest

from fitbus import (
    Codec,
    ControlApplied,
    ControlRejected,
    Event,
    Pause,
    UnknownControl,
    UnknownEvent,
)
from fitbus.errors import InvalidArgumentError


class Anything(Event):
    value: Any = None


CODEC = Codec(Anything)


@pytest.mark.parametrize(
    "data",
    [
        b'{"type":"x","a":' + b"[" * 100 + b"]" * 100 + b"}",
        b"[" * 100_000,
        b'{"type":"\xff"}',
        '{"type":"\ud800"}',
        b'{"type":"EpochEnd","seq":' + b"9" * 5000 + b"}",
        b'{"type":"EpochEnd","logs":{"loss":' + b"9" * 400 + b"}}",
        b'{"type":"UnknownEvent"',
    ],
)
def test_odd_json_is_refused(data: bytes | str) -> None:
    with pytest.raises(msgspec.DecodeError):
        CODEC.from_json(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x82\xa4type\xa1x\xa1a" + b"\x91" * 100 + b"\xc0",
        b"\x91" * 100_000,
        b"\x81\xa4type\xa1\xff",
        b"\x82\xa4type\xa1x\xa1a\x81\xd4\x05a\x01",  # an extension as a key
        b"\xdd\xff\xff\xff\xff\x01",  # four billion items, of which one is there
    ],
)
def test_odd_messagepack_is_refused(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        CODEC.from_msgpack(data)


@pytest.mark.parametrize("decode", [CODEC.from_json, CODEC.from_msgpack])
def test_what_are_no_bytes_is_the_callers_mistake(decode: Any) -> None:
    with pytest.raises(TypeError):
        decode(3)


def nested(depth: int) -> Any:
    value: Any = None
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("encode", [CODEC.to_json, CODEC.to_msgpack])
def test_what_would_not_decode_is_not_encoded(encode: Any) -> None:
    """Nested 100 deep at the most, the message itself counted."""
    with pytest.raises(InvalidArgumentError, match="nested 100 deep"):
        encode(Anything(value=nested(100)))
    encode(Anything(value=nested(99)))


def test_the_deepest_that_is_allowed_comes_back() -> None:
    message = Anything(value=nested(99))
    assert CODEC.from_json(CODEC.to_json(message)) == message
    assert CODEC.from_msgpack(CODEC.to_msgpack(message)) == message


@pytest.mark.parametrize(
    "value",
    [b"\xff", {"a": b"\x00"}, dt.datetime(2026, 1, 2, tzinfo=dt.UTC), msgspec.msgpack.Ext(5, b"a")],
)
def test_messagepack_keeps_what_it_has_values_for(value: Any) -> None:
    """Where a field may be anything, nothing says that a text was bytes."""
    message = Anything(value=value)
    assert CODEC.from_msgpack(CODEC.to_msgpack(message)) == message


def test_bytes_of_a_field_that_were_packed_as_a_text_are_still_read() -> None:
    class Raw(Event, tag="raw"):
        data: bytes

    old = msgspec.msgpack.encode({"type": "raw", "data": "AP8="})
    assert Codec(Raw).from_msgpack(old) == Raw(data=b"\x00\xff")


@pytest.mark.parametrize("decode", ["from_json", "from_msgpack"])
def test_an_unknown_control_is_no_type_of_its_own(decode: str) -> None:
    """So that one of the tag `Pause` doesn't become a `Pause` when it is passed on."""
    raw = {"type": "UnknownControl", "tag": "Pause", "fields": {}}
    notice = {"type": "ControlRejected", "id": 1, "control": raw, "source": "s", "why": "w"}
    encode = msgspec.json.encode if decode == "from_json" else msgspec.msgpack.encode
    own = {"tag": "Pause", "fields": {}}
    assert getattr(CODEC, decode)(encode(raw)) == UnknownEvent(tag="UnknownControl", fields=own)
    found = getattr(CODEC, decode)(encode(notice))
    assert isinstance(found, ControlRejected)
    assert found.control == UnknownControl("UnknownControl", own)
    again = CODEC.from_json(CODEC.to_json(found))
    assert again == found


def test_a_result_may_be_as_deep() -> None:
    notice = ControlApplied(id=1, control=Pause(), source="", result=nested(99))
    assert CODEC.from_json(CODEC.to_json(notice)) == notice
