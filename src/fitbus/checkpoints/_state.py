"""A whole state as a directory of Orbax'."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from fitbus.checkpoints._disk import absolute, moved_in, previous_of, replacing
from fitbus.checkpoints._extra import check_installed
from fitbus.checkpoints._named import Array, named_arrays
from fitbus.checkpoints._orbax import (
    apart,
    check_replaceable,
    is_sealed,
    nested,
    put_back_read,
    seal,
)
from fitbus.errors import InvalidArgumentError

__all__ = ["load_state", "save_state", "write_state"]

T = TypeVar("T")


def save_state(path: str | Path, state: Any) -> None:
    """Writes a whole state, with Orbax, to a directory; the old one stays until it is whole.

    All of it is kept: parameters, the optimizer's state, the step, the random key (as its data) and
    `extra`. It is written beside its place, with parent folders as needed, brought to the disk, and
    moved there: whoever is killed meanwhile leaves the previous one, which `load_state` finds, and
    perhaps a hidden one ending in `.tmp`, which nobody reads. Takes a copy of the state in memory.

    Orbax itself reads the directory as nested dictionaries of NumPy arrays:
    `orbax.checkpoint.StandardCheckpointer().restore(path)`.

    Args:
        path: The directory. One that is there is replaced only if it is such a checkpoint, or
            empty.
        state: A `TrainState`: `trainer.state`, or what `await run.snapshot()` gives.

    Raises:
        FitbusError: Orbax isn't installed, or the directory can't be written (its message names
            it).
        InvalidArgumentError: A leaf is no array; or what is at `path` is no checkpoint, and isn't
            replaced by one.

    Source: https://orbax.readthedocs.io
    """
    write_state(path, named_arrays(state))


def write_state(path: str | Path, named: Mapping[str, Array]) -> None:
    """Writes what `named_arrays` copied, as `save_state` does. Any thread.

    Args:
        path: The directory.
        named: The arrays, by name; nobody may change them meanwhile.

    Raises:
        FitbusError: As of `save_state`.
        InvalidArgumentError: As of `save_state`.
    """
    check_installed("save_state", "orbax.checkpoint")
    target = absolute(path)
    check_replaceable("path", target)
    with replacing(target) as temporary:
        try:
            apart(lambda: _write(temporary, named))
        except Exception as error:  # Orbax and TensorStore say it in many ways
            raise OSError(f"{type(error).__name__}: {error}") from error
        seal(temporary)
        moved_in(temporary, target, _is_whole)


def load_state(path: str | Path, like: T) -> T:
    """Reads a whole state that `save_state` wrote.

        trainer = fitbus.Trainer(task, load_state(path, trainer.state))

    Args:
        path: The directory.
        like: A state of the same structure, shapes and dtypes, such as a new trainer's. The new
            arrays lie where its arrays do: on their devices, sharded as they are, or in NumPy's.

    Returns:
        A state of the structure of `like`; bit for bit what was saved.

    Raises:
        InvalidArgumentError: There is no such directory, or it is a file; or a name, a shape or a
            dtype differs: the first one at fault is named, and nothing is returned.
        FitbusError: It is truncated or corrupted; or Orbax isn't installed.
    """
    check_installed("load_state", "orbax.checkpoint")
    source = absolute(path)
    previous = previous_of(source)
    if previous.exists() and not (source.exists() and _is_whole(source)):
        source = previous  # who replaced it was killed in between
    if source.is_file():
        raise InvalidArgumentError(
            "path", str(path), "it is a file, and a whole state a directory; load_weights reads one"
        )
    if not source.exists():
        raise InvalidArgumentError("path", str(path), "there is no such directory")
    return put_back_read(like, source, _read)


def _is_whole(path: Path) -> bool:
    return is_sealed(path, thoroughly=True)


def _write(path: Path, named: Mapping[str, Array]) -> None:
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(path, args=ocp.args.StandardSave(nested(named)))


def _read(path: Path) -> Any:
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        return checkpointer.restore(path, args=ocp.args.StandardRestore())
