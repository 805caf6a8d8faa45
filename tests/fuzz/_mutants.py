"""Real bytes, changed: what a program of mutations, itself bytes, makes of them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

__all__ = ["OPERATION_BYTES", "mutants"]

OPERATION_BYTES = 8  # kind, a choice, two places, an amount

TEXTS = [  # to stand in JSON
    *(b"NaN", b"-Infinity", b"Infinity", b'"NaN"', b'"nan"', b'"-Infinity"', b"1e400", b"-0.0"),
    *(b"9" * 30, b"-" + b"9" * 400, b"9" * 5000, b'"' + b"9" * 400 + b'"', b"1e-400", b"0x1"),
    *(b'"\\ud800"', b'"\\ud83d\\ude00"', b'"\\u0000"', b'"\xff"', b'"\xc0\x80"', b'"\xed\xa0\x80"'),
    *(
        b"[" * 60 + b"]" * 60,
        b"[" * 3000,
        b'{"a":' * 120 + b"1" + b"}" * 120,
        b"[]",
        b"{}",
        b"null",
    ),
    *(
        b"true",
        b'"type":"Pause",',
        b'"seq":1,',
        b'{"type":"UpdateState"}',
        b"1.5",
        b'""',
        b"\xef\xbb\xbf",
    ),
]
PIECES = [  # to stand in MessagePack
    *(
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\x7f\xff\xff\xff",
    ),
    *(b"\xc9\xff\xff\xff\xff\x01", b"\xdc\xff\xff", b"\xde\xff\xff", b"\xc1", b"\xc0", b"\xc3"),
    *(b"\x91" * 60 + b"\xc0", b"\x91" * 3000, b"\x81\xa1a" * 120 + b"\xc0", b"\x81\x90\x01"),
    *(
        b"\x81\xd4\x05a\x01",
        b"\xd4\x05a",
        b"\xd6\xff\x00\x00\x00\x01",
        b"\xc7\x0c\xff" + b"\xff" * 12,
    ),
    *(
        b"\xd7\xff" + b"\x00" * 8,
        b"\xcb\x7f\xf8" + bytes(6),
        b"\xcb\x7f\xf0" + bytes(6),
        b"\xcf" + b"\xff" * 8,
    ),
    *(b"\xd3\x80" + bytes(7), b"\xa2\xff\xfe", b"\xa3\xed\xa0\x80", b"\xd9\x00", b"\x80", b"\x90"),
    *(b"\xa4type", b"\xa5Pause", b"\xd4\x01\x00", b"\xd4\x03\x90", b"\xd6\x05\x92\x01\x02\xc0"),
]
VALUES: list[Any] = [  # to stand where another one was
    *(None, True, 0, -1, 2**63, 2**64 - 1, -(2**63), 0.0, -0.0, 1e308, float("nan"), float("-inf")),
    *("", "NaN", "Infinity", "1", "1e400", "\x00", "é", "9" * 400, b"\xff", [], {}, [[]]),
    *(
        [1, "a", None, [2.5]],
        {"a": {"b": [1]}},
        {"type": "Pause"},
        {"type": "UpdateState", "fn": 1},
    ),
    *({"type": "EpochEnd"}, {"type": "UnknownControl", "tag": "Pause", "fields": {}}),
    *(
        {"type": "ControlApplied", "id": 0, "source": "", "control": {"type": "Pause"}},
        {"a": float("nan")},
    ),
]


def mutants(  # noqa: C901  # a case for each operation
    seeds: list[bytes], first: int, program: bytes, *, is_text: bool
) -> Iterator[bytes]:
    """One of the seeds after one operation, after two, and so on.

    Args:
        seeds: Real bytes.
        first: Which one is changed.
        program: `OPERATION_BYTES` for each operation.
        is_text: Whether they are JSON.
    """
    data = seeds[first % len(seeds)]
    pieces = TEXTS if is_text else PIECES
    for at in range(0, len(program) - OPERATION_BYTES + 1, OPERATION_BYTES):
        kind, choice, one, other, amount = struct.unpack_from("<BBHHH", program, at)
        piece = pieces[choice % len(pieces)]
        another = seeds[choice % len(seeds)]
        if kind >= 128:  # begins anew: what was changed often is nothing any more
            data = another
        low, high = sorted((one % (len(data) + 1), other % (len(data) + 1)))
        match kind % 12:
            case 0:  # flips a bit
                flipped = bytearray(data or b"\0")
                flipped[one % len(flipped)] ^= 1 << (choice % 8)
                data = bytes(flipped)
            case 1:  # cuts
                data = data[:high]
            case 2:  # leaves something out
                data = data[:low] + data[low + amount % 9 + 1 :]
            case 3:  # says something twice
                data = data[:high] + data[low:]
            case 4:  # puts something in
                data = data[:low] + piece + data[low:]
            case 5:  # or in the place of something
                data = data[:low] + piece + data[low + amount % 9 + 1 :]
            case 6:  # goes on as another one
                data = data[:low] + another[amount % (len(another) + 1) :]
            case 7:  # arbitrary bytes
                data = data[:low] + program[at : at + amount % 9] + data[low:]
            case _:  # one value is another's
                data = _with_another_value(data, choice, one, is_text=is_text)
        data = data[:20_000]
        yield data


def _with_another_value(data: bytes, choice: int, place: int, *, is_text: bool) -> bytes:
    decode: Callable[[bytes], Any] = msgspec.json.decode if is_text else msgspec.msgpack.decode
    encode: Callable[[Any], bytes] = msgspec.json.encode if is_text else msgspec.msgpack.encode
    value: Any = VALUES[choice % len(VALUES)]
    try:
        message = decode(data)
        if not isinstance(message, dict | list):
            return data
        where: Any = message
        while True:  # to a leaf, by digits of the place
            keys = [*where] if isinstance(where, dict) else [*range(len(where))]
            place, digit = divmod(place, len(keys) + 1)
            if digit == len(keys):  # an additional one
                if isinstance(where, dict):
                    where["another"] = value
                else:
                    where.append(value)
                break
            inner = where[keys[digit]]
            if not isinstance(inner, dict | list) or not inner:
                where[keys[digit]] = value
                break
            where = inner
        return encode(message)
    except (ValueError, TypeError, OverflowError, RecursionError, KeyError):
        return data  # it isn't whole any more
