"""The trainer: what holds a task's state, and starts its runs."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal, final

import anyio
import jax
import jax.numpy as jnp

from fitbus._loops import in_event_loop
from fitbus.bus import Bus
from fitbus.errors import (
    FitbusError,
    InvalidArgumentError,
    StateLostError,
    ThreadStuckError,
    TrainerBusyError,
)
from fitbus.train._arguments import (
    FitArguments,
    checked_flags,
    flattened,
    positive,
    seconds,
)
from fitbus.train._data import source
from fitbus.train._evaluate import EvaluateJob
from fitbus.train._feed import Feed
from fitbus.train._history import History
from fitbus.train._pipeline import Flight
from fitbus.train._predict import PredictJob
from fitbus.train._pull import Puller
from fitbus.train._run import Run
from fitbus.train._state import TrainState, copied, placed
from fitbus.train._steps import Steps
from fitbus.train._task import Task

__all__ = ["Trainer"]


@final
class Trainer:
    """Trains a task's state, and lets everybody watch and steer.

    `params` are copied once, with their sharding: the caller's arrays are never donated. One call
    at a time: `fit`, `evaluate`, `predict` or a live `run`.

    Args:
        task: A `Task`: `Supervised`, or one of your own.
        params: A pytree of arrays; or a whole `TrainState`.
        bus: Where events go; one of its own unless given. Subscribers there see every run.
        seed: Of `state.key` and of the order of shuffled data.
        max_in_flight: How many steps may run ahead of the events: a number, or `"auto"` for as
            many as take `flush_s` (2 to 64). A control acts so many steps late at the most.
        flush_s: Seconds for which events of fast steps gather before the event loop is woken.

    Raises:
        InvalidArgumentError: An argument is of the wrong kind or out of range.
    """

    def __init__(
        self,
        task: Task,
        params: Any,
        *,
        bus: Bus | None = None,
        seed: int = 0,
        max_in_flight: int | Literal["auto"] = "auto",
        flush_s: float = 0.002,
    ) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise InvalidArgumentError("seed", seed, "give a whole number of at least 0")
        if max_in_flight != "auto":
            positive("max_in_flight", max_in_flight, also="'auto'")
        seconds("flush_s", flush_s, zero=True)
        if bus is not None and not isinstance(bus, Bus):
            raise InvalidArgumentError("bus", bus, "give a fitbus.Bus, or leave it out")
        self.steps = Steps(task)
        self.bus = Bus() if bus is None else bus
        self.seed = seed
        self.flush_s = flush_s
        self.flight = Flight(max_in_flight, flush_s)
        self.puller = Puller()
        self._lock = threading.Lock()
        self._state: TrainState | None = _initial(task, params, seed)
        self._lent = False
        self._live: Run[Any] | None = None
        self._stuck: ThreadStuckError | None = None

    @property
    def state(self) -> TrainState:
        """The state on the device after the last completed step. What it returns may be kept.

        Raises:
            TrainerBusyError: A run is live: use `await run.snapshot()`.
            ThreadStuckError: A cancelled run's thread hasn't ended yet.
            StateLostError: A step failed after its state was donated.
        """
        if self._stuck is not None:
            raise self._stuck
        if self._live is not None:
            raise TrainerBusyError(
                f"{self._live!r} is live and its state donated; use `await run.snapshot()`"
            )
        return self.last_state()

    async def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        batch_size: int = 32,
        epochs: int = 1,
        verbose: int = 0,
        callbacks: Iterable[Any] | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_freq: int | Collection[int] = 1,
        steps_per_execution: int = 1,
        grace_s: float = 5.0,
        drain_s: float = 30.0,
    ) -> History:
        """Trains; the same as `run`, awaited to its end. See there for the arguments.

        Cancelling it stops training at the next step boundary, delivers `TrainEnd("cancelled")`,
        and leaves `trainer.state` at the last completed step.

        Returns:
            The logs of each epoch.

        Raises:
            BaseException: What a step, the data or a handler raised, as itself.
            ThreadStuckError: The training thread did not end within `grace_s`.
        """
        run = self.run(
            x,
            y,
            batch_size=batch_size,
            epochs=epochs,
            verbose=verbose,
            callbacks=callbacks,
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=shuffle,
            class_weight=class_weight,
            sample_weight=sample_weight,
            initial_epoch=initial_epoch,
            steps_per_epoch=steps_per_epoch,
            validation_steps=validation_steps,
            validation_freq=validation_freq,
            steps_per_execution=steps_per_execution,
            grace_s=grace_s,
            drain_s=drain_s,
        )
        async with run:
            return await run.wait()

    def run(
        self,
        x: Any,
        y: Any = None,
        *,
        batch_size: int = 32,
        epochs: int = 1,
        verbose: int = 0,
        callbacks: Iterable[Any] | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_freq: int | Collection[int] = 1,
        steps_per_execution: int = 1,
        grace_s: float = 5.0,
        drain_s: float = 30.0,
        run_id: str | None = None,
    ) -> Run[History]:
        """A live handle of a training: `async with trainer.run(...) as run:`.

        Args:
            x: Arrays, or dicts and tuples of arrays, with a common first dimension; or, with `y`
                left out, a list, an iterable or an async iterable of batches (`x`, `(x, y)` or
                `(x, y, sample_weight)`), or a function that returns one.
            y: Targets, of the same first dimension.
            batch_size: Examples in a batch, for arrays. A short last batch is filled up with rows
                of weight 0, so that nothing is compiled twice.
            epochs: The number of the last epoch, counted from 1.
            verbose: 0: nothing is printed; 1: a progress bar (extra `demo`).
            callbacks: Callback objects and handlers, nested lists allowed; for this call only.
            validation_split: The fraction of the arrays, at their end, that is held out.
            validation_data: Arrays `(x, y)` or `(x, y, sample_weight)`, or what `x` may be.
            shuffle: Whether arrays are shuffled anew for each pass; depends on `seed` alone.
            class_weight: A weight for each class; multiplies into the sample weights.
            sample_weight: A weight for each example, of shape (examples,).
            initial_epoch: The first epoch, from 0.
            steps_per_epoch: Batches in an epoch; the next one goes on where it stopped.
            validation_steps: Batches in a validation.
            validation_freq: Every how many epochs it validates; or the numbers of the epochs,
                counted from 1.
            steps_per_execution: Accepted as in Keras; every step is run, and reported, by itself.
            grace_s: Seconds that the thread gets to end after a cancellation.
            drain_s: Seconds that handlers get to finish after the last event.
            run_id: The run's id; default `"fit-1"`, `"fit-2"`, ... by bus.

        Raises:
            InvalidArgumentError: An argument is out of range, or doesn't go with another.
            DataError: The data are empty, or of different lengths.
        """
        arguments = FitArguments(
            batch_size=batch_size,
            epochs=epochs,
            verbose=verbose,
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=shuffle,
            class_weight=class_weight,
            sample_weight=sample_weight,
            initial_epoch=initial_epoch,
            steps_per_epoch=steps_per_epoch,
            validation_steps=validation_steps,
            validation_freq=validation_freq,
            steps_per_execution=steps_per_execution,
        )
        job = arguments.job(
            x, y, seed=(self.seed, self._updates()), pad=self.steps.pad, pull=self.puller
        )
        run: Run[History] = self._new_run(job, callbacks, grace_s, drain_s, run_id, verbose)
        return run

    async def evaluate(
        self,
        x: Any,
        y: Any = None,
        *,
        batch_size: int = 32,
        verbose: int = 0,
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Iterable[Any] | None = None,
        grace_s: float = 5.0,
        drain_s: float = 30.0,
    ) -> dict[str, float]:
        """Evaluates the state on data, with the events of a test.

        Args:
            x: As in `run`.
            y: As in `run`.
            batch_size: As in `run`.
            verbose: As in `run`.
            sample_weight: As in `run`.
            steps: At most so many batches.
            callbacks: As in `run`.
            grace_s: As in `run`.
            drain_s: As in `run`.

        Returns:
            The means over all examples, by name.
        """
        feed = self._feed(x, y, batch_size, sample_weight, steps)
        run: Run[dict[str, float]] = self._new_run(
            EvaluateJob(feed), callbacks, grace_s, drain_s, None, verbose
        )
        async with run:
            return await run.wait()

    async def predict(
        self,
        x: Any,
        *,
        batch_size: int = 32,
        verbose: int = 0,
        steps: int | None = None,
        callbacks: Iterable[Any] | None = None,
        grace_s: float = 5.0,
        drain_s: float = 30.0,
    ) -> Any:
        """Predicts, with the events of a prediction.

        Args:
            x: As in `run`, without targets.
            batch_size: As in `run`.
            verbose: As in `run`.
            steps: At most so many batches.
            callbacks: As in `run`.
            grace_s: As in `run`.
            drain_s: As in `run`.

        Returns:
            NumPy arrays of shape (examples, ...), or a pytree of them.
        """
        feed = self._feed(x, None, batch_size, None, steps)
        run: Run[Any] = self._new_run(PredictJob(feed), callbacks, grace_s, drain_s, None, verbose)
        async with run:
            return await run.wait()

    def fit_sync(self, x: Any, y: Any = None, **arguments: Any) -> History:
        """`fit` for scripts, in an event loop of its own (asyncio).

        Raises:
            FitbusError: Called inside a running event loop: write `await trainer.fit(...)` there.
        """
        if in_event_loop():
            raise FitbusError(
                "fit_sync would block the running event loop; write `await trainer.fit(...)`"
            )

        async def main() -> History:
            return await self.fit(x, y, **arguments)

        return anyio.run(main)

    # For its runs.

    def begin(self, run: Run[Any]) -> TrainState:
        """Gives a run the state, which the trainer then no longer has."""
        with self._lock:
            if self._stuck is not None:
                raise self._stuck
            if self._live is not None:
                raise TrainerBusyError(
                    f"{self._live!r} is live: one call at a time for each trainer; wait for it, or"
                    " make a second trainer"
                )
            state = self.last_state(lend=False)
            self._live = run
        return copied(state, "state") if self._lent else state

    def end(self, state: TrainState | None) -> None:
        """Takes the state back; None if it was lost."""
        with self._lock:
            self._state = state
            self._live = None
            self._lent = False

    def stuck(self, error: ThreadStuckError) -> None:
        """Notes that a run's thread was left behind."""
        with self._lock:
            self._stuck = error

    def unstuck(self) -> None:
        """Notes that it has ended."""
        with self._lock:
            live, self._live, self._stuck = self._live, None, None
            self._lent = False
            if live is not None:
                self._state = live.left_state()

    def last_state(self, *, lend: bool = True) -> TrainState:
        """The state after the last run, whether or not one is ending."""
        if self._state is None:
            raise StateLostError(
                "a step failed after its state was donated, and there is no snapshot; take one now"
                " and then with `await run.snapshot()`, and make a new trainer"
            )
        self._lent = self._lent or lend
        return self._state

    def _updates(self) -> int:
        return 0 if self._state is None or self._live is not None else int(self._state.step)

    def _feed(self, x: Any, y: Any, batch_size: int, sample_weight: Any, steps: int | None) -> Feed:
        positive("batch_size", batch_size)
        positive("steps", steps, none=True)
        data = source(
            x,
            y,
            sample_weight,
            None,
            argument="x",
            batch_size=batch_size,
            shuffle=False,
            seed=(),
            pad=self.steps.pad,
            pull=self.puller,
        )
        return Feed("x", data, steps, anew=True)

    def _new_run(
        self,
        job: Any,
        callbacks: Iterable[Any] | None,
        grace_s: float,
        drain_s: float,
        run_id: str | None,
        verbose: int,
    ) -> Run[Any]:
        seconds("grace_s", grace_s)
        seconds("drain_s", drain_s)
        checked_flags(verbose)
        id = self.bus.new_run_id(job.kind) if run_id is None else run_id
        run: Run[Any] = Run(self, job, id, grace_s=grace_s, drain_s=drain_s)
        for callback in flattened(callbacks):
            run.attach(callback)
        if verbose:
            import fitbus  # the front door knows where the progress bar is

            run.attach(fitbus.callbacks.ProgressBar())
        return run

    def __repr__(self) -> str:
        """Shows its task and whether it is busy."""
        busy = "busy" if self._live is not None else "idle"
        return f"<Trainer of {type(self.steps.task).__name__}: {busy}>"


def _initial(task: Any, params: Any, seed: int) -> TrainState:
    if isinstance(params, TrainState):
        return placed(copied(params, "params"))
    key = jax.random.key(seed)
    if not jax.tree.leaves(params):
        raise InvalidArgumentError("params", params, "give a pytree with at least one array")
    params = copied(params)
    if callable(getattr(task, "init", None)):
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
