"""What a task may do with the state at both ends of a run."""

from __future__ import annotations

from typing import Any

from fitbus.errors import InvalidArgumentError
from fitbus.train._engine import Engine
from fitbus.train._feed import Feed
from fitbus.train._state import TrainState, alike, is_lost

__all__ = ["finish", "prepare"]


def prepare(engine: Engine, feed: Feed) -> None:
    """Lets a task that wants to see the first batch get ready for a call."""
    hook = getattr(engine.steps.task, "prepare", None)
    if hook is None:
        return
    engine.activity = "waiting for the first batch"
    first = feed.peek()
    if first is not None:
        engine.activity = "in the task's `prepare`"
        new = _a_state("prepare", hook(engine.state, first.batch))
        if new is not engine.state:
            engine.take(new)


def finish(engine: Engine) -> None:
    """Lets a task put the last hand to the state of a training, before its end is told."""
    hook = getattr(engine.steps.task, "finish", None)
    if hook is not None and not is_lost(engine.state):
        engine.activity = "in the task's `finish`"
        found = _a_state("finish", hook(engine.state))
        engine.state = alike("the task's `finish`", engine.state, found)


def _a_state(hook: str, found: Any) -> TrainState:
    if not isinstance(found, TrainState):
        raise InvalidArgumentError(f"task.{hook}", found, "it must return a TrainState")
    return found
