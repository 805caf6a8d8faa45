"""What drives a run: its thread, its task, and every way out."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, final

import anyio

from fitbus._loops import run_in_daemon_thread
from fitbus.bus import Block, RunStatistics, RunStatus
from fitbus.control import Rejected
from fitbus.errors import (
    FitbusError,
    RunCancelledError,
    RunEndedError,
    ThreadStuckError,
)
from fitbus.events import TrainEnd
from fitbus.train._context import JaxSettings
from fitbus.train._engine import Engine
from fitbus.train._job import Job, statistics_of
from fitbus.train._state import TrainState, from_host, is_lost
from fitbus.train._thread import carried_out, how_it_ended, kept_by_task

if TYPE_CHECKING:
    from fitbus.train._run import Run
    from fitbus.train._trainer import Trainer

__all__ = ["Driver"]

_logger = logging.getLogger("fitbus")


@final
class Driver(Block):
    """Starts a run's thread, waits for it, cancels it, and sees to it that nothing is left.

    Attributes:
        engine: What runs in the thread; None before the start.
        verbose: For `params`.
        snapshot: The newest one that somebody took.
        waited: How often a callback has waited a moment for its files, in time that it bounds.
    """

    def __init__(
        self, run: Run[Any], trainer: Trainer, job: Job, *, grace_s: float, drain_s: float
    ) -> None:
        super().__init__(grace_s=grace_s, drain_s=drain_s)
        self._run = run
        self._trainer = trainer
        self._job: Job | None = job  # has the data: let go when it is done
        self._kind = job.kind
        self.record: Any = getattr(job, "history", None)  # of a fit, as far as it has come
        self._params = {"epochs": getattr(job, "epochs", 1), "steps": getattr(job, "steps", None)}
        self._thread_error: BaseException | None = None
        self._thread_scope: anyio.CancelScope | None = None
        self.settings = JaxSettings()
        self.engine: Engine | None = None
        self.verbose = 0
        self.snapshot: TrainState | None = None
        self.waited = 0

    @property
    def status(self) -> RunStatus:
        """Where the run stands."""
        if self.life.status == "running" and self.engine is not None:
            engine = self.engine
            return "finishing" if engine.ending else "paused" if engine.paused else "running"
        return self.life.status

    def statistics(self) -> RunStatistics:
        """The run's counters."""
        return statistics_of(self._run.subscribers(), self._trainer.flight, self.engine)

    @property
    def params(self) -> dict[str, Any]:
        """What Keras gives callbacks as `params`."""
        return {"verbose": self.verbose, **self._params}

    # A run beside another one, which has the thread and the loop of that one's making.

    def lead(self, engine: Engine) -> None:
        """Notes what runs it."""
        self.engine, self.life.status = engine, "running"

    def let_go(self) -> None:
        """Notes that it has ended, or that nobody waits for it any more. Any thread."""
        if self.engine is not None:
            self.engine.publisher.cancel(0.0)
            self.engine.requests.close(RunEndedError(self._run.id, "it reached another boundary"))
            self.life.status = "stopped" if self.engine.stops else "completed"
        self.life.final = True
        self._run.end_streams()

    # From the task that entered the run's block.

    async def start(self) -> None:
        """Starts the thread."""
        if self.life.status != "pending":
            raise FitbusError(f"{self._run!r} was started before; make a new one")
        try:
            await self._start()
        except BaseException as error:
            self._end_unstarted(error)
            raise

    async def _start(self) -> None:
        trainer = self._trainer
        state = trainer.keeper.lend(self._run)
        try:
            self.settings = JaxSettings()
            self.engine = Engine(
                self._run.bus,
                self._run.id,
                trainer.steps,
                state,
                flight=trainer.flight,
                flush_s=trainer.flush_s,
                inbox=self._run.inbox,
                preparation=self._run.preparation,
            )
            self._host = await self._run.bus.hosted().__aenter__()
        except BaseException:
            trainer.keeper.take_back(state)
            raise
        self.life.status = "running"
        trainer.puller.connect(self.engine, self._host.tasks)
        self._host.tasks.start_soon(self._drive, name=f"fitbus {self._run.id}")

    def _end_unstarted(self, error: BaseException) -> None:
        """Lets nobody wait for a run that couldn't start."""
        run, engine = self._run, self.engine
        self.life.keep_error(error)
        why = f"too late: the run couldn't start ({type(error).__name__}: {error})"
        for receipt in run.inbox.close(why):
            receipt.settle(Rejected(why))
        run.end_streams()
        if engine is not None:
            engine.publisher.abandon()
        if engine is not None or run.bus.runs.get(run.id) is None:
            run.bus.finish_run(run.id)

    async def _cancel(self) -> BaseException | None:
        assert self.engine is not None
        self._drain_s = min(self._drain_s, self.grace_s)
        self.engine.publisher.cancel(self.grace_s / 2)
        again: BaseException | None = None
        with anyio.CancelScope(shield=True):
            again = await self._end_by(anyio.current_time() + self.grace_s)
            for scope in filter(None, (self._thread_scope, self._drain_scope)):
                scope.cancel()
            again = await self._end_by(math.inf) or again
        return again  # noqa: RET504  # for type checkers a scope may end early

    # The run's own task.

    async def _drive(self) -> None:
        engine = self.engine
        assert engine is not None
        with anyio.CancelScope(shield=True):
            error: BaseException | None = None
            ended = False
            with anyio.CancelScope() as self._thread_scope:
                self.life.result, error = await run_in_daemon_thread(
                    lambda: self._in_thread(engine),
                    f"fitbus {self._run.id}",
                    self._ended_late,
                )
                ended = True
            await self._trainer.puller.disconnect()
            if ended:
                self._trainer.keeper.take_back(self._state_after(engine, error))
            else:
                error = self._abandon(engine)
            await self._finish(engine, error)
        self.life.end()

    async def _finish(self, engine: Engine, error: BaseException | None) -> None:
        engine.requests.close(RunEndedError(self._run.id, "it reached another boundary"))
        await self._drain(self._run.bus, self._run.id)
        self._run.end_streams()
        self.life.error = engine.publisher.failures.lead(error)
        self.life.status, _ = how_it_ended(engine, self.life.error)
        self._tell_end()

    def _abandon(self, engine: Engine) -> BaseException:
        """Leaves a thread behind that doesn't end; says what it is in."""
        activity = engine.publisher.thread_calls.calling or engine.activity
        error = ThreadStuckError(activity, self.grace_s)
        self._trainer.keeper.stuck(self._run, error)
        if self._kind == "fit":
            engine.publisher.publish(TrainEnd(reason="cancelled", detail=str(error)))
        engine.publisher.abandon()
        return error

    def _state_after(self, engine: Engine, error: BaseException | None) -> TrainState | None:
        """The state to go on with; None if a failed step took it along."""
        if error is None or not is_lost(engine.state):
            return engine.state
        return None if self.snapshot is None else from_host(self.snapshot)

    def left_state(self) -> TrainState | None:
        """The state that an abandoned thread left."""
        assert self.engine is not None
        return self._state_after(self.engine, self._thread_error)

    # The training thread.

    def _in_thread(self, engine: Engine) -> tuple[Any, BaseException | None]:
        job, self._job = self._job, None
        assert job is not None
        result, error = carried_out(job, engine, self.settings)
        engine.evaluate = engine.validation = engine.preparation.data = None  # they have the data
        state = self._state_after(engine, error)
        self._thread_error = kept_by_task(engine, state, self.settings, error)
        return result, self._thread_error

    def _ended_late(self) -> None:
        """Called when a thread that was left behind has ended; in it, or in the loop."""
        error = self._thread_error
        if error is not None and not isinstance(error, RunCancelledError):
            _logger.error(
                "run %r failed after its thread was left behind", self._run.id, exc_info=error
            )
        self._trainer.keeper.unstuck()
