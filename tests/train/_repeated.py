"""Trainings that are steered and recorded, and others that repeat them, to be compared."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import msgspec
import numpy as np

import fitbus
from fitbus import ControlApplied, ControlRejected, Event, Pause, Resume, RunPaused, RunResumed
from fitbus.callbacks import Journal
from fitbus.testing import EventRecorder
from fitbus.train import is_key

__all__ = ["Repeats", "Went", "controls"]


@dataclasses.dataclass
class Went:
    """How a training went: what was told (of pauses and refusals nothing), and what came of it."""

    events: list[tuple[Any, ...]]
    history: dict[str, list[float]]
    state: list[bytes]
    recorded: list[Event] = dataclasses.field(compare=False)


class Repeats:
    """Trainings of one trainer, each from the state that it was made with.

    Args:
        problem: A toy problem, or what has its `task`, `params`, `x` and `y`.
        options: Of each `fit`, unless it has others.
    """

    def __init__(self, problem: Any, **options: Any) -> None:
        self.trainer = fitbus.Trainer(problem.task, problem.params, seed=3)
        self._begin = self.trainer.state
        self._data = (problem.x, problem.y)
        self._options = options

    def run(self, *callbacks: Any, **options: Any) -> tuple[fitbus.Run[Any], EventRecorder]:
        """A training from the beginning, and what it will have told."""
        self.trainer.keeper.take_back(fitbus.Trainer(self.trainer.steps.task, self._begin).state)
        recorder = EventRecorder()
        listener = fitbus.handler(Event, wait=False)(recorder)
        given = {**self._options, **options}
        data = given.pop("data", self._data)
        return self.trainer.run(*data, callbacks=[*callbacks, listener], **given), recorder

    async def went(self, *callbacks: Any, **options: Any) -> Went:
        """Trains, to the end."""
        run, recorder = self.run(*callbacks, **options)
        async with run:
            history = await run.wait()
        return self.told(recorder.events, history)

    def told(self, events: list[Event], history: fitbus.History) -> Went:
        """How it went, with the state as it is now."""
        leaves = jax.tree.leaves(self.trainer.state)
        keys = [jax.random.key_data(leaf) if is_key(leaf) else leaf for leaf in leaves]
        return Went(
            [_compared(event) for event in events if not _is_left_out(event)],
            history.history,
            [np.asarray(leaf).tobytes() for leaf in keys],
            events,
        )

    async def both(self, folder: Path, *callbacks: Any, **options: Any) -> tuple[Went, Went]:
        """A training with these callbacks, and one without any that repeats its journal."""
        first = await self.went(*callbacks, Journal(folder / "journal"), **options)
        return first, await self.went(controls=folder / "journal", **options)


def controls(events: list[Event]) -> list[tuple[int, str]]:
    """The controls that acted, each with its step and its sender."""
    return [(e.step, e.source) for e in events if isinstance(e, ControlApplied)]


def _compared(event: Event) -> tuple[Any, ...]:
    fields = msgspec.structs.asdict(event)
    for name in ("run", "time", "seq", "id"):
        fields.pop(name, None)
    return type(event).__name__, repr(fields)


def _is_left_out(event: Event) -> bool:
    paused = isinstance(event, ControlApplied) and isinstance(event.control, Pause | Resume)
    return paused or isinstance(event, ControlRejected | RunPaused | RunResumed)
