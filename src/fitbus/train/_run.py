"""The live handle of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar, final

from fitbus.bus import Block, LiveRun, Publisher, RunStatistics, RunStatus
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
class Run(RunFacts, LiveRun[ResultT]):
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
        super().__init__(id, trainer.bus)
        self.open_logs = False
        self.preparation = Preparation()
        self.trainer = trainer
        self.driver = Driver(self, trainer, job, grace_s=grace_s, drain_s=drain_s)
        self._beside = Beside(self, trainer, self.driver)

    # Its life.

    @property
    def publisher(self) -> Publisher | None:
        """Its end of the bus; None before the start."""
        return None if self.driver.engine is None else self.driver.engine.publisher

    @property
    def block(self) -> Block:
        """Where it lives."""
        return self.driver

    @property
    def status(self) -> RunStatus:
        """Where it stands; the last four of `RunStatus` are final."""
        return self.driver.status

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

    def model(self, source: str) -> ModelView:
        """The Keras-shaped view that a callback has as `self.model`.

        Args:
            source: The name under which its writes count as sent.
        """
        return ModelView(self.trainer, self, source)
