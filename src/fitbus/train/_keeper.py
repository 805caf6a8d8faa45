"""Who has the state: the trainer, or one of its runs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, final

import jax
import jax.numpy as jnp

from fitbus.errors import (
    InvalidArgumentError,
    StateLostError,
    ThreadStuckError,
    TrainerBusyError,
)
from fitbus.train._state import TrainState, copied, placed

if TYPE_CHECKING:
    from fitbus.train._run import Run

__all__ = ["StateKeeper"]


@final
class StateKeeper:
    """Keeps a trainer's state between its runs, and lends it to one at a time.

    Args:
        task: The task.
        params: The parameters, copied here; or a whole `TrainState`; None: the task has them.
        seed: Of the random key.
    """

    def __init__(self, task: Any, params: Any, seed: int) -> None:
        self._lock = threading.Lock()
        self._state: TrainState | None = _initial(task, params, seed)
        self._is_kept = hasattr(task, "keep")  # by the task, too
        self._shown = False  # somebody may keep the state: the next run works on a copy
        self._stuck: ThreadStuckError | None = None
        self.live: Run[Any] | None = None

    @property
    def updates(self) -> int:
        """Completed optimizer updates; 0 while a run is live."""
        return 0 if self._state is None or self.live is not None else int(self._state.step)

    def show(self) -> TrainState:
        """The state, to be kept by whoever asks; refused while a run has it."""
        if self._stuck is not None:
            raise _again(self._stuck)
        if self.live is not None:
            raise TrainerBusyError(
                f"{self.live!r} is live and its state donated; use `await run.snapshot()`"
            )
        self._shown = True
        return self._kept()

    def check_free(self) -> None:
        """Refuses another run while one is live, or its thread is stuck."""
        if self._stuck is not None:
            raise _again(self._stuck)
        if self.live is not None:
            raise TrainerBusyError(
                f"{self.live!r} is live: one call at a time for each trainer; wait for it, or"
                " make a second trainer"
            )

    def lend(self, run: Run[Any]) -> TrainState:
        """Gives the state to a run, which may donate it."""
        with self._lock:
            self.check_free()
            state = self._kept()
            self.live = run
        return copied(state, "state") if self._shown else state

    def take_back(self, state: TrainState | None) -> None:
        """Takes the state from a run that has ended; None if it was lost."""
        with self._lock:
            self._state = state
            self.live = None
            self._shown = self._is_kept

    def stuck(self, run: Run[Any], error: ThreadStuckError) -> None:
        """Notes that a run's thread was left behind, with the state; unless it has just ended."""
        with self._lock:
            if self.live is run:
                self._stuck = error

    def unstuck(self) -> None:
        """Notes that it has ended."""
        live = self.live
        if live is not None:
            self.take_back(live.driver.left_state())
        self._stuck = None  # last: until the state is back, it is what keeps it from being had

    def _kept(self) -> TrainState:
        if self._state is None:
            raise StateLostError(
                "a step failed after its state was donated, and there is no snapshot; take one now"
                " and then with `await run.snapshot()`, and make a new trainer"
            )
        return self._state


def _again(error: ThreadStuckError) -> ThreadStuckError:
    """The same for somebody else, whose traceback it isn't yet."""
    return ThreadStuckError(error.activity, error.grace_s)


def _initial(task: Any, params: Any, seed: int) -> TrainState:
    if isinstance(params, TrainState):
        return placed(copied(params, "params"))
    key = jax.random.key(seed)
    has_init = callable(getattr(task, "init", None))
    if not (params is None and has_init) and not jax.tree.leaves(params):
        raise InvalidArgumentError("params", params, "give a pytree with at least one array")
    params = copied(params)
    if has_init:
        state = task.init(params, key)
        if not isinstance(state, TrainState):
            raise InvalidArgumentError("task", state, "its `init` must return a TrainState")
        return placed(copied(state, "the state from task.init"))
    optimizer = getattr(task, "optimizer", None)
    opt_state = () if optimizer is None else optimizer.init(params)
    return placed(
        TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=copied(opt_state, "opt_state"),
            key=key,
        )
    )
