"""Weights in a file of NumPy's, without any extra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from fitbus.errors import InvalidArgumentError

__all__ = ["save_npz"]

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


def _plain(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An array of a type that NumPy itself knows."""
    return array.astype(np.float32) if array.dtype.kind == "V" else array
