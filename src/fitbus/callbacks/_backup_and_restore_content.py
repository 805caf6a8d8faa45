"""What a backup holds: found, and put back."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import jax

from fitbus.callbacks._backup_file import BackupFiles, Damaged
from fitbus.errors import FitbusError, InvalidArgumentError
from fitbus.train import Engine, Position, Restored, TrainState, is_key, unpacked

__all__ = ["newest_whole", "restored"]


def newest_whole(files: BackupFiles, directory: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest backup that can be read, with a warning if it isn't the newest that is there.

    Args:
        files: The backups.
        directory: Where they are, for messages.

    Returns:
        Where it is, and what `packed` made of a run; None if there is none.

    Raises:
        FitbusError: None of those that are there can be read.
    """
    damaged: list[str] = []
    for path in files.newest_first():
        try:
            content: dict[str, Any] = unpacked(files.read(path))
        except (Damaged, FitbusError) as error:
            damaged.append(f"{path}: {error}")
            continue
        if damaged:
            warnings.warn(
                f"BackupAndRestore: a backup is damaged ({'; '.join(damaged)}); training goes"
                f" on from the one before, {path}",
                RuntimeWarning,
                stacklevel=2,
            )
        return path, content
    if damaged:
        raise FitbusError(
            f"BackupAndRestore: no backup can be read ({'; '.join(damaged)}); put a copy of one"
            f" there, or delete {directory} to begin anew"
        )
    return None


def restored(engine: Engine, path: Path, content: dict[str, Any]) -> Restored:
    """What to go on with.

    Args:
        engine: Whose state it shall be.
        path: Where it comes from, for messages.
        content: What `packed` made of a run.

    Raises:
        InvalidArgumentError: It is of another state.
        FitbusError: It isn't what this version's `packed` makes.
    """
    try:
        found: list[tuple[str, Any]] = list(map(tuple, content["state"]))
        given = [(name, *_kind(leaf)) for name, leaf in found]
        position = Position(**content["position"])
        callbacks, history = content["callbacks"], content["history"]
        waited = content.get("controls", ())
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FitbusError(
            f"{path} can't be gone on with: it isn't as this version of fitbus makes them"
            f" ({type(error).__name__}: {error})"
        ) from error
    leaves, tree = jax.tree_util.tree_flatten_with_path(engine.state)
    wanted = [(jax.tree_util.keystr(place), *_kind(leaf)) for place, leaf in leaves]
    if given != wanted:
        one, other = next(
            (one, other)
            for one, other in zip([*given, None], [*wanted, None], strict=False)
            if one != other
        )
        raise InvalidArgumentError(
            f"BackupAndRestore.backup_dir, {path}",
            "nothing more" if one is None else " ".join(map(str, one)),
            f"where the trainer has {'nothing' if other is None else ' '.join(map(str, other))}"
            "; go on with the model and optimizer that were backed up, or give another"
            " directory",
        )
    state: TrainState = jax.tree.unflatten(tree, [leaf for _, leaf in found])
    return Restored(state, position, callbacks, history, waited)


def _kind(leaf: Any) -> tuple[str, tuple[int, ...]]:
    if is_key(leaf):
        leaf = jax.random.key_data(leaf)
    return str(leaf.dtype), tuple(leaf.shape)
