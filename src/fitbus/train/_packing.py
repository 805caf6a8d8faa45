"""All that a training needs to go on, as bytes: MessagePack, and raw arrays behind it."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np

from fitbus.control import Control, Pause, Receipt, Resume, StopTraining, UnknownControl
from fitbus.errors import FitbusError
from fitbus.events import Codec
from fitbus.train._state import is_key

if TYPE_CHECKING:
    from fitbus.train._engine import Engine
    from fitbus.train._position import Restored

__all__ = ["packed", "plain", "send_waiting", "unpacked"]

_logger = logging.getLogger("fitbus")

Arrays = list[np.ndarray[Any, Any]]

_ARRAY, _SCALAR, _TUPLE, _BIG, _COMPLEX = range(1, 6)  # what MessagePack itself doesn't know
_LENGTH_BYTES = 8


def packed(engine: Engine) -> list[Any]:
    """What a run's engine and callbacks are at a boundary, copied: the parts of a file.

    Raises:
        FitbusError: A callback remembers what is neither plain nor an array.
    """
    keys_as_data = jax.tree.map(
        lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf, engine.state
    )  # `plain` copies
    state = jax.tree_util.tree_leaves_with_path(keys_as_data)
    position = engine.position()
    epochs, values = engine.history.epoch, engine.history.history
    return plain(
        {
            "state": [(jax.tree_util.keystr(place), leaf) for place, leaf in state],
            "position": {
                "epoch": position.epoch,
                "batch": position.batch,
                "order": position.order,
                "running": jax.tree.leaves(position.running),
                "logs": dict(position.logs),
                "place": position.place,
                "validated": position.validated,
                "facts": dict(position.facts),
                "seq": position.seq,
                "began": position.began,
                "sent": position.sent,
                "stop_epoch": position.stop_epoch,
                "data": dict(position.data),
            },
            "controls": _waiting(engine),
            "callbacks": engine.preparation.callback_states(),
            "history": (list(epochs), {n: v for n, v in values.items() if _can_be(v)}),
        }
    )


def _waiting(engine: Engine) -> list[tuple[bytes, str]]:
    """Controls that came since the boundary was reached; stops and pauses are of this process."""
    waiting = engine.publisher.inbox.waiting()
    if not waiting:
        return []
    codec, found = Codec(), list[tuple[bytes, str]]()
    for control, source in waiting:
        if not isinstance(control, StopTraining | Pause | Resume):
            try:
                found.append((codec.to_msgpack(control), source))
            except Exception as error:  # noqa: BLE001  # whatever a type of the user's own raises
                _logger.warning("a backup can't hold %r, which waits to act: %s", control, error)
    return found


def send_waiting(engine: Engine, restored: Restored) -> None:
    """Sends what waited when a backup was taken, to act at the first boundary."""
    codec = Codec(*getattr(engine.steps.task, "controls", ()))
    receipts: list[Receipt] = []
    for data, source in restored.controls:
        control = codec.from_msgpack(data)
        if isinstance(control, Control) and not isinstance(control, UnknownControl):
            receipts.append(engine.publisher.inbox.aside(control, source))
        else:
            _logger.warning("a control that waited when a backup was taken is lost: %r", control)
    engine.publisher.inbox.put_back(receipts)  # they were sent before all that wait now


def plain(content: Any) -> list[Any]:
    """Plain values (None, numbers, texts, bytes, lists, tuples, dicts) and arrays, as bytes.

    Raises:
        FitbusError: Something is neither, says where; or it is nested too deeply.
    """
    arrays: Arrays = []
    try:
        encoded = _encodable(content, arrays, "")
        described = [(_name(array.dtype), array.shape) for array in arrays]
        header = msgspec.msgpack.encode([encoded, described])
    except (RecursionError, OverflowError, UnicodeError) as error:  # too deep, or odd texts
        raise FitbusError(f"a backup can't hold what was given ({error})") from error
    flat = [array.reshape(-1).view(np.uint8).data for array in arrays]
    return [len(header).to_bytes(_LENGTH_BYTES, "little"), header, *flat]


def unpacked(data: bytes) -> Any:
    """What `plain`, or `packed`, was given.

    Raises:
        FitbusError: The bytes are of neither.
    """
    try:
        return _unpacked(data)
    except Exception as error:  # of any of the libraries that look into it, and their warnings
        raise FitbusError(
            f"what is in it isn't a backup's content ({type(error).__name__}: {error})"
        ) from error


def _unpacked(data: bytes) -> Any:
    at = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    header = data[_LENGTH_BYTES:at]
    arrays: Arrays = []

    def hook(code: int, content: memoryview) -> Any:
        value: Any = decoder.decode(content)
        if code == _ARRAY:
            return arrays[value]
        if code == _SCALAR:
            return arrays[value][()]
        if code == _TUPLE:
            return tuple(value)
        return int(value) if code == _BIG else complex(*value)

    decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Any, ext_hook=hook)
    raw = msgspec.msgpack.Decoder(tuple[msgspec.Raw, list[tuple[str, list[int]]]])
    encoded, described = raw.decode(header)
    for name, shape in described:
        dtype = jnp.dtype(name)
        size = math.prod(shape) * dtype.itemsize
        if not _is_known(dtype) or min(shape, default=0) < 0:
            raise ValueError(f"an array of {dtype} and shape {shape}")
        if at + size > len(data):  # before there is memory taken for it
            raise ValueError(f"an array of {size} bytes, where {len(data) - at} are left")
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8)[:] = np.frombuffer(data[at : at + array.nbytes], np.uint8)
        arrays.append(array)
        at += array.nbytes
    return decoder.decode(encoded)


def _encodable(value: Any, arrays: Arrays, where: str) -> Any:
    if value is None or type(value) in (bool, float, str, bytes):
        return value
    if type(value) is int:
        return value if -(2**63) <= value < 2**64 else _extension(_BIG, str(value))
    if type(value) is complex:
        return _extension(_COMPLEX, [value.real, value.imag])
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        array = np.array(value, order="C", copy=True)
        if not _is_known(array.dtype):
            raise _refusal(where, f"an array of {array.dtype}")
        arrays.append(array)
        kind = _SCALAR if isinstance(value, np.generic) else _ARRAY
        return _extension(kind, len(arrays) - 1)
    if isinstance(value, dict):
        for key in value:
            if type(key) not in (str, int):
                raise _refusal(where, f"a dict with the key {key!r}")
        return {k: _encodable(v, arrays, f"{where}[{k!r}]") for k, v in value.items()}
    if type(value) in (list, tuple):
        items = [_encodable(item, arrays, f"{where}[{i}]") for i, item in enumerate(value)]
        return items if type(value) is list else _extension(_TUPLE, items)
    raise _refusal(where, type(value).__name__)


def _is_known(dtype: np.dtype[Any]) -> bool:
    """Whether arrays of a type are bytes, and the type is found again by its name."""
    if dtype.hasobject or dtype.names is not None or not dtype.itemsize:
        return False
    try:
        return bool(jnp.dtype(_name(dtype)) == dtype)
    except TypeError:
        return False


def _extension(code: int, value: Any) -> Any:
    return msgspec.msgpack.Ext(code, msgspec.msgpack.encode(value))


def _refusal(where: str, found: str) -> FitbusError:
    return FitbusError(
        f"a backup can't hold {found}{where and f', at {where}'}: `state_dict` gives None, numbers,"
        " texts, bytes, lists, tuples, dicts and arrays"
    )


def _can_be(value: Any) -> bool:
    """Whether it can be packed: callbacks may add to the logs what they like."""
    try:
        _encodable(value, [], "")
    except FitbusError:
        return False
    return True


def _name(dtype: np.dtype[Any]) -> str:
    """A name by which a type is found again; NumPy doesn't spell those of machine learning."""
    return dtype.name if dtype.kind == "V" else dtype.str
