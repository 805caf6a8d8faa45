"""Fits of one trainer, each from the same state, to be compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import msgspec
import numpy as np

import fitbus
from fitbus import Event, TrainState
from fitbus.testing import EventRecorder
from fitbus.train import is_key

__all__ = ["Fits", "Told", "bits"]


@dataclasses.dataclass
class Told:
    """What a fit told: all events but for the run's name and time, the history, and the state."""

    events: list[dict[str, Any]]
    history: dict[str, list[float]]
    state: list[bytes]

    def of(self, name: str) -> list[dict[str, Any]]:
        """The events of a type."""
        return [event for event in self.events if event["type"] == name]


class Fits:
    """Fits of one task, so that what is compiled is compiled once.

    Args:
        task: The task.
        params: Its parameters, or its state.
        options: Of each fit, unless it has others.
    """

    def __init__(self, task: Any, params: Any, **options: Any) -> None:
        self._task = task
        self.trainer = fitbus.Trainer(task, params, seed=5)
        self._options = options
        self._begin = self.trainer.state

    def anew(self) -> fitbus.Trainer:
        """The trainer, with the state that it began with."""
        self.trainer.keeper.take_back(fitbus.Trainer(self._task, self._begin).state)
        return self.trainer

    def told(
        self, data: Callable[[], tuple[Any, ...]], steps: Any = 1, *, wait: bool = True, **more: Any
    ) -> Told:
        """Fits, and tells of it.

        Args:
            data: Makes what `fit` is given.
            steps: `steps_per_execution`.
            wait: Whether training waits for who records; else steps run ahead.
            more: Options of this fit.
        """
        recorder = EventRecorder()

        def record(event: Event) -> None:
            recorder(event)

        listening = fitbus.handler(Event, wait=wait)(record)
        callbacks = [listening, *more.pop("callbacks", [])]
        options = {**self._options, **more}
        trainer = self.anew()
        history = trainer.fit_sync(
            *data(), steps_per_execution=steps, callbacks=callbacks, **options
        )
        return Told(
            [
                {"type": type(event).__name__}
                | {k: v for k, v in msgspec.structs.asdict(event).items() if k not in _OWN}
                for event in recorder.events
            ],
            history.history,
            bits(trainer.state),
        )


_OWN = ("run", "time")


def bits(state: TrainState) -> list[bytes]:
    """A whole state, bit for bit."""
    leaves = jax.tree.leaves(state)
    return [
        np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf).tobytes() for leaf in leaves
    ]
