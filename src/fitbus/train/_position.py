"""Where in a training a boundary lies, and what is found to go on with."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, final

from fitbus.train._state import TrainState

__all__ = ["Position", "Restored"]


@final
@dataclasses.dataclass(frozen=True)
class Position:
    """Where in a training a step boundary lies.

    Attributes:
        epoch: The epoch, from 0.
        batch: The batches of it that are done.
        order: What the order of shuffled data was made from.
        running: The running values of its metrics, on the host (a list of their leaves will do);
            None at its beginning.
        logs: The logs that they stand for.
        place: The pass of the data, from 0, and the batches of it that are done; None counts them
            from `epoch` and `batch`, as if no epoch had ended early.
        validated: The batches that validation has had of data that come once, such as an iterator.
        facts: What is plain to see of the data, to be compared when a training goes on.
        seq: The `seq` of the next event, with which a training that goes on goes on; None begins at
            0, as a backup of an earlier version does.
        began: Whether the epoch's `EpochBegin` was before it.
        sent: How many controls were sent before it.
        data: What puts data that can say where they are back to their place, by the names of the
            arguments; empty where nobody keeps checkpoints of the run.
    """

    epoch: int
    batch: int = 0
    order: tuple[int, ...] = ()
    running: Any = None
    logs: Mapping[str, float] = dataclasses.field(default_factory=dict[str, float])
    place: tuple[int, int] | None = None
    validated: int | None = None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    seq: int | None = None
    began: bool = False
    sent: int = 0
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])

    def compare(self, facts: Mapping[str, Any]) -> None:
        """Warns if the place is within an epoch, or a pass, of data or batches that were others."""
        within = self.batch or (self.facts.get("steps_per_epoch") and self.place and self.place[1])
        changed = [
            f"{name} was {self.facts.get(name)!r}, and is {facts.get(name)!r}"
            for name in {**self.facts, **facts}
            if self.facts and self.facts.get(name) != facts.get(name)
        ]
        if within and changed:
            warnings.warn(
                f"a training goes on at batch {self.batch} of epoch {self.epoch}"
                f" with other data or arguments: {'; '.join(changed)}. It won't end as it would"
                " have; some examples may be left out, or come twice",
                RuntimeWarning,
                stacklevel=2,
            )


@final
@dataclasses.dataclass(frozen=True)
class Restored:
    """What a callback's `restore` found.

    Attributes:
        state: The state to go on with: arrays, or those of `run.snapshot()`; None keeps the run's.
        position: Where to go on.
        callbacks: The states of the run's callbacks, as `Preparation.callback_states` gave them;
            loaded when all `on_train_begin` hooks have been called.
        history: The history so far: its epochs, and its values by name.
        controls: Those that waited then, each as MessagePack, and who had sent it.
    """

    state: TrainState | None
    position: Position
    callbacks: Sequence[tuple[str, Mapping[str, Any]]] = ()
    history: tuple[Sequence[int], Mapping[str, Sequence[float]]] = ((), {})
    controls: Sequence[tuple[bytes, str]] = ()
