"""The trainer: what holds a task's state, and starts its runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal, Unpack, final

from fitbus._history import History
from fitbus._loops import in_own_loop
from fitbus.bus import Bus
from fitbus.errors import InvalidArgumentError
from fitbus.train._arguments import (
    FIT_OPTIONS,
    Controls,
    FitArguments,
    FitOptions,
    RunOptions,
    Verbose,
    positive,
    seconds,
)
from fitbus.train._arrays import Shuffle
from fitbus.train._data import lists_told
from fitbus.train._evaluate import EvaluateJob
from fitbus.train._feed import Feed
from fitbus.train._flight import Flight
from fitbus.train._keeper import StateKeeper
from fitbus.train._plain import EvaluateOptions, PredictOptions, plain_feed
from fitbus.train._predict import PredictJob
from fitbus.train._pull import Puller
from fitbus.train._run import Run
from fitbus.train._starting import new_run
from fitbus.train._state import TrainState
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
        params: A pytree of arrays; or a whole `TrainState`. Left out for a task that has its own.
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
        params: Any = None,
        *,
        bus: Bus | None = None,
        seed: int = 0,
        max_in_flight: int | Literal["auto"] = "auto",
        flush_s: float = 0.002,
    ) -> None:
        positive("seed", seed, zero=True)
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
        self.keeper = StateKeeper(task, params, seed)

    @property
    def state(self) -> TrainState:
        """The state on the device after the last completed step. What it returns may be kept.

        Raises:
            TrainerBusyError: A run is live: use `await run.snapshot()`.
            ThreadStuckError: A cancelled run's thread hasn't ended yet.
            StateLostError: A step failed after its state was donated.
        """
        return self.keeper.show()

    async def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        batch_size: int | None = 32,
        epochs: int = 1,
        verbose: Verbose = 0,
        callbacks: Iterable[Any] | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: Shuffle = True,
        class_weight: Mapping[int, float] | Mapping[str, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | Collection[int] = 1,
        steps_per_execution: int | Literal["auto"] = 1,
        controls: Controls = None,
        grace_s: float = 5.0,
        drain_s: float = 30.0,
    ) -> History:
        """Trains, and returns when all is done and delivered.

        Cancelling it stops training at the next step boundary, delivers `TrainEnd("cancelled")`,
        and leaves `trainer.state` at the last completed step.

        Args:
            x: Arrays, or dicts, tuples and lists of arrays, with a common first dimension; or, with
                `y` left out, a list, an iterable or an async iterable of batches (`x`, `(x, y)` or
                `(x, y, sample_weight)`), or a function that returns one.
            y: Targets, of the same first dimension. A list of arrays, here and in all that follows,
                is a tuple of them; a list of numbers, or of lists of them, is an array.
            batch_size: Examples in a batch, for arrays; None means 32. A short last batch is filled
                up with rows of weight 0, so that nothing is compiled twice.
            epochs: The number of the last epoch, counted from 1.
            verbose: 0: nothing is printed; 1 or `"auto"`: a progress bar (notebooks: and a curve);
                2: a line an epoch (but for the notebook's, they need the extra `demo`).
            callbacks: Callback objects and handlers, nested lists allowed; for this call only.
            validation_split: The fraction of the arrays, at their end, that is held out.
            validation_data: Arrays `(x, y)` or `(x, y, sample_weight)`, or what `x` may be.
            shuffle: Whether arrays, and a `keras.utils.PyDataset`'s batches, are shuffled anew for
                each pass, as `seed` and the step say; `"batch"`: within each batch only.
            class_weight: A weight for each class; multiplies into the sample weights.
            sample_weight: A weight for each example, of shape (examples,).
            initial_epoch: The first epoch, from 0.
            steps_per_epoch: Batches in an epoch; the next one goes on where it stopped.
            validation_steps: Batches in a validation.
            validation_batch_size: Examples in a batch of it; `batch_size` unless given.
            validation_freq: Every how many epochs it validates, or their numbers, from 1.
            steps_per_execution: How many steps are fused into one call of the device, each with its
                own events, and controls between two calls. `"auto"`: measures whether it pays.
            controls: A journal, or all events of a run: the controls that steered it act again, at
                the same places, and only these: with the same data, seed and task it ends the same.
            grace_s: Seconds that the thread gets to end after a cancellation.
            drain_s: Seconds that handlers get to finish after the last event.

        Returns:
            The logs of each epoch.

        Raises:
            InvalidArgumentError: An argument is out of range, or doesn't go with another.
            DataError: The data are empty, or of different lengths.
            BaseException: What a step, the data or a handler raised, as itself.
            ThreadStuckError: The training thread did not end within `grace_s`.
        """
        options: Any = {name: given for name, given in locals().items() if name in FIT_OPTIONS}
        with lists_told(x, y):
            async with self.run(x, y, **options) as run:
                return await run.wait()

    def run(self, x: Any, y: Any = None, **options: Unpack[RunOptions]) -> Run[History]:
        """A live handle of a training: `async with trainer.run(...) as run:`.

        Args:
            x: As in `fit`.
            y: As in `fit`.
            options: As in `fit`; and `run_id`, the run's id (default `"fit-1"`, ... by bus).

        Raises:
            InvalidArgumentError: An argument is out of range, or doesn't go with another.
            DataError: The data are empty, or of different lengths.
        """
        given: dict[str, Any] = {**options}
        callbacks, run_id = given.pop("callbacks", None), given.pop("run_id", None)
        times = {"grace_s": given.pop("grace_s", 5.0), "drain_s": given.pop("drain_s", 30.0)}
        arguments = FitArguments.of(given)
        job = arguments.job(
            *(x, y),
            seed=(self.seed, self.keeper.updates),
            task=self.steps,
            pull=self.puller,
        )
        return new_run(self, job, callbacks, **times, verbose=arguments.verbose, run_id=run_id)

    async def evaluate(
        self,
        x: Any,
        y: Any = None,
        *,
        batch_size: int | None = 32,
        verbose: Verbose = 0,
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Iterable[Any] | None = None,
        grace_s: float = 5.0,
        drain_s: float = 30.0,
    ) -> dict[str, float]:
        """Evaluates the state on data, with the events of a test.

        Args:
            x: Arrays with a common first dimension; or, with `y` left out, batches: as in `fit`.
            y: Targets, of the same first dimension.
            batch_size: Examples in a batch, for arrays; None means 32.
            verbose: 0: nothing is printed; 1 or `"auto"`: a progress bar; 2: one line.
            sample_weight: A weight for each example, of shape (examples,).
            steps: At most so many batches.
            callbacks: Callback objects and handlers, nested lists allowed; for this call only.
            grace_s: Seconds that the thread gets to end after a cancellation.
            drain_s: Seconds that handlers get to finish after the last event.

        Returns:
            The means over all examples, by name.
        """
        feed = self._feed(x, y, batch_size, sample_weight, steps)
        run: Run[dict[str, float]] = new_run(
            self, EvaluateJob(feed), callbacks, grace_s=grace_s, drain_s=drain_s, verbose=verbose
        )
        with lists_told(x, y):
            async with run:
                return await run.wait()

    async def predict(
        self,
        x: Any,
        *,
        batch_size: int | None = 32,
        verbose: Verbose = 0,
        steps: int | None = None,
        callbacks: Iterable[Any] | None = None,
        grace_s: float = 5.0,
        drain_s: float = 30.0,
    ) -> Any:
        """Predicts, with the events of a prediction.

        Args:
            x: Arrays with a common first dimension, or batches: as in `fit`, without targets. A
                list is one of batches: several inputs are a tuple, `predict((a, b))`.
            batch_size: Examples in a batch, for arrays; None means 32.
            verbose: 0: nothing is printed; 1 or `"auto"`: a progress bar; 2: one line.
            steps: At most so many batches.
            callbacks: Callback objects and handlers, nested lists allowed; for this call only.
            grace_s: Seconds that the thread gets to end after a cancellation.
            drain_s: Seconds that handlers get to finish after the last event.

        Returns:
            NumPy arrays of shape (examples, ...), or a pytree of them.
        """
        feed = self._feed(x, None, batch_size, None, steps)
        run: Run[Any] = new_run(
            self, PredictJob(feed), callbacks, grace_s=grace_s, drain_s=drain_s, verbose=verbose
        )
        with lists_told(x):
            async with run:
                return await run.wait()

    def fit_sync(self, x: Any, y: Any = None, **options: Unpack[FitOptions]) -> History:
        """`fit` for scripts, in an event loop of its own (asyncio).

        Raises:
            FitbusError: Called inside a running event loop: write `await trainer.fit(...)` there.
        """
        return in_own_loop("trainer.fit", lambda: self.fit(x, y, **options))

    def evaluate_sync(
        self, x: Any, y: Any = None, **options: Unpack[EvaluateOptions]
    ) -> dict[str, float]:
        """`evaluate` for scripts, in an event loop of its own (asyncio).

        Raises:
            FitbusError: Called inside a running event loop: write `await trainer.evaluate(...)`.
        """
        return in_own_loop("trainer.evaluate", lambda: self.evaluate(x, y, **options))

    def predict_sync(self, x: Any, **options: Unpack[PredictOptions]) -> Any:
        """`predict` for scripts, in an event loop of its own (asyncio).

        Raises:
            FitbusError: Called inside a running event loop: write `await trainer.predict(...)`.
        """
        return in_own_loop("trainer.predict", lambda: self.predict(x, **options))

    def _feed(
        self, x: Any, y: Any, batch_size: int | None, sample_weight: Any, steps: int | None
    ) -> Feed:
        return plain_feed(
            *(x, y, batch_size, sample_weight, steps), task=self.steps, pull=self.puller
        )

    def __repr__(self) -> str:
        """Shows its task and whether it is busy."""
        busy = "idle" if self.keeper.live is None else "busy"
        return f"<Trainer of {type(self.steps.task).__name__}: {busy}>"
