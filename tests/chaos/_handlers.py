"""Controls and handlers at random: what they do is decided by a seed."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

import anyio
import anyio.lowlevel

import fitbus
from fitbus import (
    BatchBegin,
    BatchEnd,
    Control,
    EpochEnd,
    Event,
    HandlerFailed,
    Lagged,
    Receipt,
    TestBatchEnd,
    TrainBegin,
    TrainEnd,
)

KINDS: tuple[type[Event], ...] = (
    Event,
    BatchEnd,
    BatchBegin,
    EpochEnd,
    TrainBegin,
    TrainEnd,
    TestBatchEnd,
    HandlerFailed,
)


class Boom(Exception):
    """What handlers raise."""


class Own(Event):
    """What handlers publish."""

    value: int


def a_control(rng: random.Random) -> Control:
    return rng.choice(
        [
            fitbus.SetLearningRate(rng.uniform(0.01, 0.1)),
            fitbus.SetLearningRate(rng.uniform(0.01, 0.1)),
            fitbus.ScaleLearningRate(rng.uniform(0.9, 1.1)),
            fitbus.SetHyperparameter("momentum", 0.9),  # there is none: rejected
            fitbus.StopEpoch("chaos"),
            fitbus.Pause(),
            fitbus.Resume(),
            fitbus.Evaluate(),
            fitbus.UpdateState(lambda state: state),
            fitbus.StopTraining("chaos", validate=rng.random() < 0.5)
            if rng.random() < 0.2
            else fitbus.Evaluate(),
        ]
    )


class Handler:
    """A handler that does something else each time, and notes what it was called with."""

    def __init__(self, rng: random.Random, number: int, run: Callable[[], Any]) -> None:
        self._rng = rng
        self._run = run
        self._busy = False
        self.seqs: list[int] = []
        self.wrong: list[str] = []
        self.kinds = rng.sample(KINDS, rng.randint(1, 3))
        is_async = rng.random() < 0.6
        wait = rng.random() < 0.4
        options: dict[str, Any] = {"wait": wait, "name": f"handler {number}"}
        options["on_error"] = rng.choice(["log", "log", "log", "stop", "unsubscribe", "raise"])
        if not wait:
            options["overflow"] = rng.choice(["block", "drop_oldest", "drop_newest", "latest"])
            options["buffer_size"] = rng.choice([1, 2, 5, 64])
            options["batched"] = rng.random() < 0.2
        if is_async and rng.random() < 0.2:
            options["timeout"] = 0.003
        if rng.random() < 0.2:
            options["every"] = rng.randint(2, 4)
        self.options = options
        actions = ["nothing", "block", "fail", "publish", "control", "post"]
        if is_async:
            actions += ["sleep", "sleep", "yield", "cancel"]
        chosen = rng.sample(actions, rng.randint(1, 3))
        self.actions = ["nothing"] * rng.randint(2, 12) + chosen
        # A task that was cancelled natively has ended, and its handler with it.
        self.goes_on = options["on_error"] == "log" and "cancel" not in chosen
        self.is_async = is_async
        self.receipts: list[Receipt] = []

    def function(self) -> Any:
        """As `callbacks=[...]` takes it."""

        def handle(given: Any) -> Any:
            with self._noted(given) as events:
                return self._act(events, self._rng.choice(self.actions))

        async def ahandle(given: Any) -> Any:
            with self._noted(given) as events:
                action = self._rng.choice(self.actions)
                if action == "sleep":
                    await anyio.sleep(self._rng.uniform(0, 0.005))
                elif action == "yield":
                    await anyio.lowlevel.checkpoint()
                elif action == "cancel":
                    await cancel_itself()
                return self._act(events, action)

        return fitbus.handler(*self.kinds, **self.options)(ahandle if self.is_async else handle)

    @contextlib.contextmanager
    def _noted(self, given: Any) -> Generator[Sequence[Event]]:
        events: Sequence[Event] = given if self.options.get("batched") else [given]
        if self._busy:
            self.wrong.append("two calls at once")
        self._busy = True
        self.seqs += [event.seq for event in events if not isinstance(event, Lagged)]
        try:
            yield events
        finally:
            self._busy = False

    def _act(self, events: Sequence[Event], action: str) -> Any:
        run = self._run()
        if action == "block":
            time.sleep(0.001)
        elif action == "fail":
            raise Boom(self.options["name"])
        elif action == "publish" and any(isinstance(event, BatchEnd) for event in events):
            run.publish(Own(value=events[0].seq))
        elif action == "control" and any(isinstance(event, BatchEnd) for event in events):
            controls = [a_control(self._rng) for _ in range(self._rng.randint(1, 3))]
            return controls if len(controls) > 1 else controls[0]
        elif action == "post" and any(isinstance(event, BatchEnd) for event in events):
            self.receipts.append(run.post(a_control(self._rng), self.options["name"]))
        return None


async def cancel_itself() -> None:
    """Natively on asyncio; trio has no such thing, so a scope of its own."""
    native: Any = anyio.lowlevel.current_token().native_token
    if hasattr(native, "create_future"):
        import asyncio

        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await anyio.lowlevel.checkpoint()
    else:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anyio.lowlevel.checkpoint()
