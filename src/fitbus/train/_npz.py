"""Weights in a file of NumPy's, without any extra."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fitbus.errors import InvalidArgumentError
from fitbus.train._state import TrainState, on_host

__all__ = ["restored_arrays", "save_npz", "save_state_arrays"]

_OF_KERAS = (".h5", ".hdf5", ".keras")


def save_npz(filepath: str | Path, weights: Any, *, overwrite: bool) -> None:
    """Writes a pytree of arrays, under the paths of its leaves.

    Raises:
        InvalidArgumentError: The file exists, and isn't to be overwritten; or its name is that of
            a file of Keras, which could not read it.
    """
    path = Path(filepath)
    if path.suffix in _OF_KERAS:
        raise InvalidArgumentError(
            "filepath",
            str(filepath),
            f"the file will be NumPy's, not Keras'; give {path.with_suffix('.npz').name!r}",
        )
    if not overwrite and path.exists():
        raise InvalidArgumentError(
            "filepath", str(filepath), "it exists; give another one, or overwrite=True"
        )
    named: dict[str, Any] = {
        jax.tree_util.keystr(place): _plain(np.asarray(leaf))
        for place, leaf in jax.tree_util.tree_leaves_with_path(weights)
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez(file, **named)


def save_state_arrays(path: Path, state: TrainState) -> None:
    """Writes a snapshot for another process: its leaves under their paths, such as `params/w`."""
    named = {
        _name(place): _plain(np.asarray(leaf))
        for place, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
    beside = path.with_suffix(".part")
    with beside.open("wb") as file:
        np.savez(file, **named)  # type: ignore[arg-type]  # names of arrays, none an option's
    beside.rename(path)


def restored_arrays(named: Mapping[str, Any], like: TrainState) -> TrainState:
    """A state on the host of the structure of another one, from what was written.

    Raises:
        InvalidArgumentError: A leaf isn't there, or has another shape.
    """

    def found(place: Any, leaf: Any) -> Any:
        name = _name(place)
        if name not in named:
            raise InvalidArgumentError("like", name, f"the state has {sorted(named)}")
        if named[name].shape != leaf.shape:
            raise InvalidArgumentError(
                "like", f"{name} of shape {leaf.shape}", f"it has {named[name].shape} there"
            )
        return named[name].astype(leaf.dtype)

    state: TrainState = jax.tree_util.tree_map_with_path(found, on_host(like))
    return state


def _name(place: Any) -> str:
    return jax.tree_util.keystr(place, simple=True, separator="/")


def _plain(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An array of a type that NumPy itself knows."""
    return array.astype(np.float32) if array.dtype.kind == "V" else array
