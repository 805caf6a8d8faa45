"""Checkpoints that are asked for while training goes on, and going back to one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from fitbus.control import RestoreCheckpoint, SaveCheckpoint
from fitbus.errors import ControlRejectedError

if TYPE_CHECKING:
    from fitbus.train._engine import Engine
    from fitbus.train._position import Restored

__all__ = ["Store", "checkpoint"]


class Store(Protocol):
    """Who keeps a run's checkpoints; called in its training thread, at a boundary."""

    def save(self, engine: Engine, tag: str) -> str:
        """Copies what the run is, to be written; returns the path where it will be."""
        ...

    def load(self, which: str) -> Restored:
        """Reads the checkpoint of a tag, or the `"last"` one."""
        ...


def checkpoint(engine: Engine, control: SaveCheckpoint | RestoreCheckpoint) -> str | None:
    """Saves one, or goes back to one.

    The state is taken back at once; the loop goes on from its place when it sees `engine.rewind`.

    Returns:
        The path of one that was saved.

    Raises:
        ControlRejectedError: Nobody keeps checkpoints, or the run can't go back.
    """
    store = engine.preparation.store
    if store is None:
        raise ControlRejectedError(
            control,
            "nobody keeps checkpoints of this run; give `fit` a BackupAndRestore among its"
            " callbacks, or copy the state with `await run.snapshot()`",
        )
    if isinstance(control, SaveCheckpoint):
        return store.save(engine, control.tag)
    if engine.ending:
        raise ControlRejectedError(control, "too late: the run is at its end")
    found = store.load(control.which)
    assert found.state is not None
    engine.restore(found.state)
    engine.rewind, engine.stop_evaluation = found, True
    return None
