"""A state that came from another process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

if TYPE_CHECKING:
    from fitbus.train import TrainState

__all__ = ["Snapshot", "read_and_removed"]


@final
class Snapshot(Mapping[str, "np.ndarray[Any, Any]"]):
    """The arrays of a `TrainState`, by their paths in it: `"params/w"`, `"step"`.

    NumPy's own, random keys as their data; of what NumPy has no type for (bfloat16) as float32. It
    needs no JAX; `restore` makes the state of it that a `Trainer` goes on with.

    Args:
        path: The file that the child wrote; read at once.
    """

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as file:
            self._arrays: dict[str, np.ndarray[Any, Any]] = dict(file.items())

    @property
    def step(self) -> int:
        """Completed optimizer updates."""
        return int(self["step"])

    def restore(self, like: TrainState) -> TrainState:
        """The state, of host arrays, in the structure of another one. Loads JAX.

        Args:
            like: A state of the same task, such as that of a new trainer.

        Raises:
            InvalidArgumentError: That one has other leaves.
        """
        from fitbus.train import restored_arrays

        return restored_arrays(self, like)

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        """The array of a path."""
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        """The paths."""
        return iter(self._arrays)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._arrays)

    def __repr__(self) -> str:
        """Shows the step and the number of arrays."""
        return f"<Snapshot of step {self.step}: {len(self)} arrays>"


def read_and_removed(path: str) -> Snapshot:
    """Reads a file that a child wrote for this process alone."""
    snapshot = Snapshot(Path(path))
    Path(path).unlink()
    return snapshot
