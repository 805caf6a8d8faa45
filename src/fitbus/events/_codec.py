"""Events and controls as JSON and MessagePack."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from typing import Any, final

import msgspec

from fitbus import control as _control
from fitbus._checks import set_field
from fitbus._message import tag_of
from fitbus.control import Control, UnknownControl
from fitbus.errors import InvalidArgumentError
from fitbus.events import _lifecycle, _notices
from fitbus.events._base import Event, UnknownEvent
from fitbus.events._lifecycle import (
    BatchBegin,
    BatchEnd,
    PredictBatchEnd,
    TestBatchBegin,
    TestBatchEnd,
)
from fitbus.events._notices import ControlApplied, ControlRejected

__all__ = ["Codec"]

_ENVELOPE = ("run", "seq", "time", "step", "epoch")
_PLAIN = {BatchBegin, BatchEnd, TestBatchBegin, TestBatchEnd}
# What MessagePack has values for; else it would come back as a text, where a field may be anything.
_PACKED = (bytes, bytearray, dt.datetime, msgspec.msgpack.Ext)
_NESTING = (dict, list, tuple)
_MOST_NESTED = 100  # every level takes frames of the stack: of ours, and of msgspec's
_NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@final
class Codec:
    """Turns events and controls into JSON or MessagePack, and back.

    Both forms are a map with the type's tag under `"type"`. In JSON, NaN and the infinities are the
    strings `"NaN"`, `"Infinity"` and `"-Infinity"`, which come back as numbers where a field's type
    says so, and in `ControlApplied.result`. An event of an unknown tag decodes to an
    `UnknownEvent`. `PredictBatchEnd.outputs` is left out; `UpdateState` can't be encoded, nor can
    maps and lists that are nested more than 100 deep. Whatever bytes it is given, decoding raises
    nothing but `msgspec.DecodeError` (and what a type of your own raises when it is constructed).

    >>> from fitbus.control import SetLearningRate
    >>> codec = Codec()
    >>> codec.from_json(codec.to_json(SetLearningRate(0.1)))
    SetLearningRate(value=0.1)

    Args:
        user_types: Subclasses of `Event` and `Control` of your own that should be decoded.

    Raises:
        InvalidArgumentError: A type is neither, or two types have one tag.
    """

    def __init__(self, *user_types: type[Event | Control]) -> None:
        built_in = [
            kind
            for module in (_lifecycle, _notices, _control)
            for kind in (getattr(module, name) for name in module.__all__)
            if isinstance(kind, type) and issubclass(kind, Event | Control)
            if kind is not UnknownControl  # no type's tag: it encodes as what it stands for
        ]
        self._types: dict[str, type[Event | Control]] = {}
        for kind in (Event, *built_in, *user_types):
            if not (isinstance(kind, type) and issubclass(kind, Event | Control)):
                raise InvalidArgumentError(
                    "user_types", kind, "give subclasses of Event or Control"
                )
            other = self._types.setdefault(tag_of(kind), kind)
            if other is not kind:
                raise InvalidArgumentError(
                    "user_types", kind, f"its tag {tag_of(kind)!r} is taken by {other!r}"
                )

    @property
    def types(self) -> tuple[type[Event | Control], ...]:
        """The types that it knows."""
        return tuple(self._types.values())

    def to_json(self, message: Event | Control) -> bytes:
        """Encodes a message as JSON.

        Raises:
            InvalidArgumentError: The message can't leave the process (`UpdateState`), or is nested
                too deeply.
        """
        if type(message) in _PLAIN and _is_finite(
            message
        ):  # the same bytes, in a tenth of the time
            return msgspec.json.encode(message, enc_hook=_plain)
        return msgspec.json.encode(_walk(_encodable(message, ()), _spell))

    def from_json(self, data: bytes | str) -> Event | Control:
        """Decodes a message from JSON.

        Raises:
            msgspec.DecodeError: `data` is no JSON, no message, or an `UpdateState`.
        """
        return self._typed(_decoded(msgspec.json.decode, data), strict=False)

    def to_msgpack(self, message: Event | Control) -> bytes:
        """Encodes a message as MessagePack.

        Raises:
            InvalidArgumentError: The message can't leave the process (`UpdateState`), or is nested
                too deeply.
        """
        if type(message) in _PLAIN:  # made for every step: the same bytes in a tenth of the time
            return msgspec.msgpack.encode(message, enc_hook=_plain)
        return msgspec.msgpack.encode(_encodable(message, _PACKED))

    def from_msgpack(self, data: bytes) -> Event | Control:
        """Decodes a message from MessagePack.

        Raises:
            msgspec.DecodeError: `data` is no MessagePack, no message, or an `UpdateState`.
        """
        return self._typed(_decoded(msgspec.msgpack.decode, data), strict=True)

    def _typed(self, raw: Any, *, strict: bool) -> Event | Control:
        if not isinstance(raw, dict) or not isinstance(raw.get("type"), str):
            raise msgspec.ValidationError("expected a map with a text under 'type'")
        values = dict(raw)
        tag: str = values["type"]
        kind = self._types.get(tag)
        if kind is None:
            del values["type"]
            envelope = {key: values.pop(key) for key in _ENVELOPE if key in values}
            return msgspec.convert(
                {**envelope, "tag": tag, "fields": values}, UnknownEvent, strict=strict
            )
        if issubclass(kind, Control) and not kind.crosses_processes:
            raise msgspec.ValidationError(
                f"{kind.__name__} can't cross a wire: it works inside its process only"
            )
        if not issubclass(kind, ControlApplied | ControlRejected):
            return msgspec.convert(values, kind, strict=strict)
        control = self._typed(values.get("control"), strict=strict)
        if isinstance(control, UnknownEvent):
            control = UnknownControl(control.tag, control.fields)
        elif not isinstance(control, Control):
            raise msgspec.ValidationError(f"expected a control under 'control' of a {tag}")
        values["control"] = {
            "type": tag_of(Control)
        }  # keeps the place: any subclass may stand there
        if not strict and "result" in values:
            values["result"] = _walk(values["result"], lambda item: _NONFINITE.get(item, item))
        notice = msgspec.convert(values, kind, strict=strict)
        set_field(notice, "control", control)
        return notice


def _decoded(decode: Callable[[Any], Any], data: bytes | str) -> Any:
    """The plain values in bytes. What msgspec lets out besides its own error becomes that."""
    try:
        raw = decode(data)
    except (RecursionError, UnicodeError) as error:
        raise msgspec.DecodeError(f"{type(error).__name__}: {error}") from error
    except TypeError as error:
        if "unhashable" not in str(error):
            raise  # `data` is of a wrong type
        raise msgspec.DecodeError(f"a map has a key that can't be one: {error}") from error
    if _is_deep(raw):
        raise msgspec.ValidationError(f"nested more than {_MOST_NESTED} deep")
    return raw


def _is_deep(value: Any) -> bool:
    """Whether maps and lists are nested deeper than is allowed; takes no stack itself."""
    level = [value] if isinstance(value, _NESTING) else []
    for _ in range(_MOST_NESTED):
        found: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                found += [each for each in item.values() if isinstance(each, _NESTING)]
                found += [key for key in item if isinstance(key, tuple)]
            else:
                found += [each for each in item if isinstance(each, _NESTING)]
        if not found:
            return False
        level = found
    return True


def _encodable(message: object, kept: tuple[type, ...]) -> dict[str, Any]:
    """The message as a map that decodes again."""
    fields = _builtins(message, kept)
    if _is_deep(fields):
        raise InvalidArgumentError(
            "message", message, f"maps and lists in it may be nested {_MOST_NESTED} deep"
        )
    return fields


def _builtins(message: object, kept: tuple[type, ...]) -> dict[str, Any]:
    """The message as a map of its tag and fields; msgspec encodes what is in them.

    Values of the types that are kept stay as they are.
    """
    if isinstance(message, UnknownEvent):
        envelope = {key: getattr(message, key) for key in _ENVELOPE}
        return {"type": message.tag, **envelope, **message.fields}
    if isinstance(message, UnknownControl):
        return {"type": message.tag, **message.fields}
    if not isinstance(message, Event | Control):
        raise InvalidArgumentError("message", message, "give an Event or a Control")
    if isinstance(message, Control) and not message.crosses_processes:
        raise InvalidArgumentError(
            "message", message, f"{type(message).__name__} works inside its process only"
        )
    fields: dict[str, Any] = {"type": tag_of(type(message))}
    for name in message.__struct_fields__:
        if isinstance(message, PredictBatchEnd) and name == "outputs":
            continue
        value: object = getattr(message, name)
        fields[name] = (
            _builtins(value, kept)
            if isinstance(value, Control)
            else msgspec.to_builtins(value, builtin_types=kept, enc_hook=_plain)
        )
    return fields


def _is_finite(message: Any) -> bool:
    """Whether all numbers of a batch's event are finite, and plain."""
    try:
        total = sum(getattr(message, "logs", {}).values(), message.time)
        return math.isfinite(sum(getattr(message, "batch_logs", {}).values(), total))
    except (TypeError, OverflowError):
        return False


def _plain(value: object) -> object:
    """Lets NumPy's and JAX's scalars and arrays be encoded, without importing either."""
    to_list = getattr(value, "tolist", None)
    if to_list is None:
        raise TypeError(f"a {type(value).__name__} can't be encoded; give plain values")
    return to_list()


def _spell(item: object) -> object:
    if isinstance(item, float) and not math.isfinite(item):
        return "NaN" if math.isnan(item) else "Infinity" if item > 0 else "-Infinity"
    return item


def _walk(value: Any, change: Callable[[Any], Any]) -> Any:
    """Applies `change` to every leaf of maps and lists."""
    if isinstance(value, dict):
        return {key: _walk(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_walk(item, change) for item in value]
    return change(value)
