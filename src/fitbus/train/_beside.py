"""What others do with the state of a live run: at a boundary, or beside it in a thread."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, final

import anyio

from fitbus._lists import flattened
from fitbus._loops import LoopHandle, run_in_daemon_thread
from fitbus.bus import stands_in, stood_for
from fitbus.errors import RunEndedError, WrongThreadError
from fitbus.train._engine import Engine
from fitbus.train._request import Request
from fitbus.train._state import TrainState, copied

if TYPE_CHECKING:
    from fitbus.train._driver import Driver
    from fitbus.train._nested import Nested
    from fitbus.train._run import Run
    from fitbus.train._trainer import Trainer

__all__ = ["Beside"]


@final
class Beside:
    """Asks the training thread for the state, and works on copies of it."""

    def __init__(self, run: Run[Any], trainer: Trainer, driver: Driver) -> None:
        self._run = run
        self._trainer = trainer
        self._driver = driver

    def engine(self) -> Engine:
        """The training thread's, for a waiting handler of the run."""
        engine = self._driver.engine
        if engine is None or stood_for() is not engine.publisher:
            raise WrongThreadError(
                "run.state is there for waiting handlers of the run only; elsewhere use"
                " `await run.snapshot()`, and `trainer.state` after the run"
            )
        return engine

    async def at_boundary(self, work: Callable[[TrainState], Any]) -> Any:
        """Lets the training thread do something with the state at its next boundary.

        Before the run and after it, the trainer's state is used.
        """
        engine = self._driver.engine
        if engine is None or self._driver.life.final:
            return work(self._trainer.state)
        if stands_in(engine.publisher):
            return work(engine.state)  # its thread stands in the `def` handler that asks
        done = anyio.Event()
        loop = LoopHandle()
        request = Request(work, lambda: loop.call_soon(done.set))
        engine.requests.add(request)
        await done.wait()
        if isinstance(request.error, RunEndedError):
            return work(self._trainer.state)
        if request.error is not None:
            raise request.error
        return request.value

    async def in_thread(self, nested: Nested, callbacks: Sequence[Any]) -> Any:
        """Evaluates or predicts with a copy of the state, under the run's JAX settings."""
        state = await self.at_boundary(copied)
        settings = self._driver.settings
        attached = list(flattened(callbacks))
        bus = self._run.bus

        def main() -> Any:
            with settings.applied():
                return work()

        async with contextlib.AsyncExitStack() as stack:
            if attached and not bus.hosting.hosts:  # before the run, or after it
                await stack.enter_async_context(bus.hosted())
            work = nested.prepared(state, attached)
            try:
                return await run_in_daemon_thread(main, f"fitbus {self._run.id}, nested")
            finally:
                nested.close()
