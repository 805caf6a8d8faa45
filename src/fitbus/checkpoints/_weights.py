"""Weights as one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fitbus._files import sync
from fitbus.checkpoints._disk import absolute, replacing
from fitbus.checkpoints._extra import check_installed
from fitbus.checkpoints._named import Array, check_sums, named_arrays, put_back, sums
from fitbus.errors import FitbusError, InvalidArgumentError

__all__ = ["load_weights", "save_weights", "write_weights"]

T = TypeVar("T")

_KEPT = """
    bool int8 uint8 int16 uint16 int32 uint32 int64 uint64 float16 bfloat16 float32 float64
    complex64
"""
_SUMS = "fitbus_crc32"
_RESERVED = "__metadata__"  # what a file with an array of that name says of itself can't be read


def save_weights(path: str | Path, tree: Any) -> None:
    """Writes the arrays of any pytree to a safetensors file; the old one stays until it is whole.

    Each array has the name of its path in the tree, as `named_arrays` says, and keeps its dtype,
    in the byte order of the machine. The file is written beside its place, with parent folders as
    needed, brought to the disk, and moved there in one step: whoever is killed meanwhile leaves the
    previous file, and perhaps a hidden one ending in `.tmp`, which nobody reads. Takes a copy of
    the arrays in memory.

    Args:
        path: The file; `.safetensors` is its usual ending.
        tree: Parameters, or any other pytree of arrays.

    Raises:
        FitbusError: safetensors isn't installed, or the file can't be written (its message names
            it).
        InvalidArgumentError: There is no array in the tree; a leaf is none, or of a dtype, or a
            name (`__metadata__`), that the format doesn't have; or `path` is a directory.

    Source: https://huggingface.co/docs/safetensors
    """
    write_weights(path, named_arrays(tree))


def write_weights(path: str | Path, named: Mapping[str, Array]) -> None:
    """Writes what `named_arrays` copied, as `save_weights` does. Any thread.

    Args:
        path: The file.
        named: The arrays, by name; nobody may change them meanwhile.

    Raises:
        FitbusError: As of `save_weights`.
        InvalidArgumentError: As of `save_weights`.
    """
    check_installed("save_weights", "safetensors")
    from safetensors.numpy import save_file

    target = absolute(path)
    if target.is_dir():
        raise InvalidArgumentError(
            "path", str(path), "it is a directory; give the path of a file for weights"
        )
    for name, array in named.items():
        if name == _RESERVED:
            raise InvalidArgumentError(
                f"tree, leaf {name!r}", name, "safetensors has that name for itself; use another"
            )
        if array.dtype.name not in _KEPT.split():
            raise InvalidArgumentError(
                f"tree, leaf {name!r}",
                array.dtype.name,
                f"a safetensors file holds {', '.join(_KEPT.split())}; convert it, or use"
                " save_state",
            )
    metadata = {"format": "fitbus", _SUMS: json.dumps(sums(named))}
    with replacing(target) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # that of other new files: the library's is for its owner
        try:
            save_file(dict(named), temporary, metadata=metadata)
        except Exception as error:
            if type(error).__name__ == "SafetensorError":  # what it makes of an OSError
                raise OSError(str(error)) from error
            raise
        temporary.chmod(mode)
        sync(temporary)
        temporary.replace(target)
        sync(target.parent)


def load_weights(path: str | Path, like: T) -> T:
    """Reads the arrays of a safetensors file into a tree.

    Args:
        path: The file: one of `save_weights`, or any other whose names are those of the tree.
        like: A tree of the same names, shapes and dtypes, such as the parameters that a model was
            initialized with. The new arrays lie where its arrays do: on their devices, sharded as
            they are, or in NumPy's.

    Returns:
        A tree of the structure of `like`; bit for bit what was saved.

    Raises:
        InvalidArgumentError: There is no such file, or it is a directory; or a name, a shape or a
            dtype differs: the first one at fault is named, and nothing is returned.
        FitbusError: The file is truncated or corrupted; or safetensors isn't installed.
    """
    check_installed("load_weights", "safetensors")
    from safetensors import SafetensorError, safe_open

    source = absolute(path)
    if source.is_dir():
        raise InvalidArgumentError(
            "path", str(path), "it is a directory; a whole state is read by load_state"
        )
    if not source.exists():
        raise InvalidArgumentError("path", str(path), "there is no such file")
    try:
        with safe_open(source, framework="np") as file:
            metadata: dict[str, str] = file.metadata() or {}
            named: dict[str, Array] = {
                name: np.array(file.get_tensor(name))
                for name in file.keys()  # noqa: SIM118  # it isn't iterable itself
            }
        kept: dict[str, int] = json.loads(metadata.get(_SUMS, "{}"))
    except (SafetensorError, OSError, ValueError, AttributeError) as error:  # last: unknown dtypes
        raise FitbusError(
            f"{source} couldn't be read: it is truncated, corrupted, or no safetensors file"
            f" ({error}); take another checkpoint"
        ) from error
    check_sums(named, kept, source)
    return put_back(like, named, source)
