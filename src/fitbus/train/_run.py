"""The live handle of a run."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, final

from fitbus._checks import check_timeout
from fitbus.bus import (
    Bus,
    DeliveryReport,
    Hook,
    Options,
    Publisher,
    RunStatistics,
    RunStatus,
    Subscribable,
    Subscription,
    stands_in,
)
from fitbus.control import Applied, Control, Inbox, Receipt
from fitbus.errors import RunEndedError, WouldDeadlockError
from fitbus.events import Event
from fitbus.train._applying import numbers
from fitbus.train._beside import Beside
from fitbus.train._driver import Driver
from fitbus.train._facts import RunFacts
from fitbus.train._job import Job
from fitbus.train._model import ModelView
from fitbus.train._nested import Nested
from fitbus.train._position import Position
from fitbus.train._preparation import Preparation
from fitbus.train._state import TrainState, on_host

if TYPE_CHECKING:
    from fitbus.train._trainer import Trainer

__all__ = ["Run"]

ResultT = TypeVar("ResultT")


@final
class Run(RunFacts, Subscribable, Generic[ResultT]):
    """A run: watch it, steer it, wait for it. Made by `trainer.run`.

    It is pending until its block is entered: handlers, streams and controls can be attached before,
    and miss nothing. Leaving the block normally waits for the run and drains its subscribers;
    leaving it by an exception cancels the run, and that exception leads.

        async with trainer.run(x, y, epochs=5) as run:
            await run.send(SetLearningRate(1e-4))
            history = await run.wait()

    Attributes:
        id: Its id, in the envelope of each of its events.
        trainer: What it trains.
        bus: The bus that carries them.
        inbox: The controls that wait; for the trainer and its parts
        driver: What drives it; for the trainer and its parts.
        preparation: What callbacks settle with it before its first step.
        open_logs: Whether a callback may add names to the logs of an epoch; set by callbacks.
    """

    def __init__(
        self, trainer: Trainer, job: Job, id: str, *, grace_s: float, drain_s: float
    ) -> None:
        self.id = id
        self.bus: Bus = trainer.bus
        self.inbox = Inbox()
        self.open_logs = False
        self.preparation = Preparation()
        self.trainer = trainer
        self.driver = Driver(self, trainer, job, grace_s=grace_s, drain_s=drain_s)
        self._beside = Beside(self, trainer, self.driver)
        self._streams: weakref.WeakSet[Subscription[Any]] = weakref.WeakSet()

    # Its life.

    @property
    def status(self) -> RunStatus:
        """Where it stands; the last four of `RunStatus` are final."""
        return self.driver.status

    @property
    def report(self) -> DeliveryReport | None:
        """What each subscriber got; None until the run has ended."""
        return self.driver.report

    def statistics(self) -> RunStatistics:
        """Its counters at this moment. Any thread."""
        return self.driver.statistics()

    async def __aenter__(self) -> Self:
        """Starts it.

        Raises:
            TrainerBusyError: Another run of the trainer is live.
            ThreadStuckError: A cancelled run's thread hasn't ended yet.
        """
        await self.driver.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Waits for it, or cancels it."""
        await self.driver.leave(error)

    async def wait(self) -> ResultT:
        """Waits until it has ended and its subscribers are drained.

        A pending run starts only when its block is entered: before, this waits for that too.

        Returns:
            The `History` of a fit, the logs of an evaluation, the outputs of a prediction.

        Raises:
            BaseException: The error that ended it, as itself; the others are in its notes.
            WouldDeadlockError: Called by a waiting handler of the run.
        """
        self.check_not_standing("wait")
        result: ResultT = await self.driver.life.wait()
        return result

    # Control.

    def post(self, control: Control, source: str = "") -> Receipt:
        """Sends a control, from any thread; never blocks. After the end: rejected, "too late".

        Args:
            control: The control; anything else raises `InvalidArgumentError`.
            source: Who sends it, for `ControlApplied.source`; a text, or that error is raised.
        """
        engine = self.driver.engine
        return (self.inbox if engine is None else engine.publisher).post(control, source)

    async def send(
        self, control: Control, timeout: float | None = None, *, source: str = ""
    ) -> Applied:
        """Sends a control, and waits until it acted; on a pending run, until its block is entered.

        Args:
            control: The control.
            timeout: Seconds; None waits as long as it takes.
            source: Who sends it.

        Raises:
            InvalidArgumentError: As of `post`, or of `timeout`; nothing was sent.
            ControlRejectedError: It was rejected or superseded; says why, and what to do.
            TimeoutError: Not acknowledged in time; it may still be applied.
            WouldDeadlockError: Called, through the loop, by a `def` handler in the training thread.
        """
        engine = self.driver.engine
        if engine is not None and stands_in(engine.publisher):
            raise WouldDeadlockError(
                "run.send inside a `def` handler waits for the thread that it blocks; use run.post"
            )
        check_timeout(timeout)
        return await self.post(control, source).wait(timeout)

    def publish(self, event: Event) -> None:
        """Publishes an event of your own in this run. Any thread; never blocks.

        It is stamped, and delivered, like those of training. Before the start and after the end it
        is lost: nobody is there to number it.
        """
        if self.driver.engine is not None:
            self.driver.engine.publisher.publish(event)

    # The state.

    @property
    def state(self) -> TrainState:
        """The state on the device, for a waiting handler: valid until it returns.

        Raises:
            WrongThreadError: Asked for elsewhere, where it may be donated at any moment.
        """
        return self._beside.engine().state

    def position(self) -> Position:
        """Where the boundary lies, for a waiting handler; elsewhere raises `WrongThreadError`."""
        return self._beside.engine().position()

    def start_at(self, position: Position) -> None:
        """Begins there; for a waiting handler of `TrainBegin`, later it changes nothing."""
        self._beside.engine().start = position

    async def snapshot(self) -> TrainState:
        """A copy of the state at a step boundary: NumPy arrays; random keys as their data."""
        state: TrainState = await self._beside.at_boundary(on_host)
        self.driver.snapshot = state
        return state

    async def hyperparameters(self) -> dict[str, float]:
        """The optimizer's hyperparameters at a step boundary, such as `"learning_rate"`."""
        found: dict[str, float] = await self._beside.at_boundary(numbers)
        return found

    async def predict(
        self,
        x: Any,
        *,
        batch_size: int | None = 32,
        steps: int | None = None,
        callbacks: Sequence[Any] = (),
    ) -> Any:
        """Predicts with the state of a boundary, in a thread, while training goes on.

        Publishes nothing, unless given callbacks: then as a run of its own on the same bus.
        """
        nested = Nested.predict(self.trainer, x, batch_size, steps)
        return await self._beside.in_thread(nested, callbacks)

    async def evaluate(
        self,
        x: Any,
        y: Any = None,
        *,
        batch_size: int | None = 32,
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Sequence[Any] = (),
    ) -> dict[str, float]:
        """Evaluates the state of a boundary, in a thread, while training goes on.

        Publishes nothing, unless given callbacks: then as a run of its own on the same bus.
        """
        nested = Nested.evaluate(self.trainer, x, y, batch_size, sample_weight, steps)
        logs: dict[str, float] = await self._beside.in_thread(nested, callbacks)
        return logs

    def attach_subscription(
        self,
        kinds: Sequence[type[Event]],
        options: Options,
        *,
        name: str,
        hook: Hook | None = None,
        hooks: dict[type[Event], Hook] | None = None,
    ) -> Subscription[Any]:
        """For callbacks: attaches hooks to this run's events; a handler is attached by `add`."""
        self._check_alive()
        return self.bus.attach_subscription(
            kinds, options, name=name, hook=hook, hooks=hooks, run=self.id
        )

    def make_stream(
        self, kinds: Sequence[type[Event]], options: Options, *, after: int | None
    ) -> Subscription[Any]:
        """For `subscribe`: a stream of this run's events; after its end, of those kept."""
        engine = self.driver.engine
        ended = engine.publisher if engine is not None and self.driver.life.final else None
        if ended is None or after is None:
            self._check_alive()
        stream = self.bus.make_stream(kinds, options, after=after, run=self.id, ended=ended)
        self._streams.add(stream)
        return stream

    def end_streams(self) -> None:
        """For the trainer: closes all streams, unopened ones too; what they have is handed out."""
        for stream in tuple(self._streams):
            stream.close()

    def carries(self, publisher: Publisher) -> bool:
        """For the bus: whether it is this run's publisher."""
        engine = self.driver.engine
        return engine is not None and publisher is engine.publisher

    def ended_id(self) -> str | None:
        """For `wait_for`: the run's id."""
        return self.id

    def model(self, source: str) -> ModelView:
        """The Keras-shaped view that a callback has as `self.model`.

        Args:
            source: The name under which its writes count as sent.
        """
        return ModelView(self.trainer, self, source)

    def at_end(self, function: Callable[[], object]) -> None:
        """Calls a function in the event loop when the run has ended, whatever ended it."""
        self.driver.at_end.append(function)

    def _check_alive(self) -> None:
        if self.driver.life.final:
            raise RunEndedError(self.id, "it could be subscribed to")

    def __repr__(self) -> str:
        """Shows where it stands."""
        return f"<Run {self.id!r}: {self.status}>"
