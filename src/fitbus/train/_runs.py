"""Many runs, owned by one block: a service's lifespan, for one."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Coroutine, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, Unpack, final

import anyio
from anyio.abc import TaskGroup

from fitbus._history import History
from fitbus.bus import LiveRun
from fitbus.control import Receipt, StopTraining
from fitbus.errors import FitbusError, InvalidArgumentError, TrainerBusyError
from fitbus.train._arguments import RunOptions, positive
from fitbus.train._run import Run
from fitbus.train._trainer import Trainer

__all__ = ["Runs"]

_logger = logging.getLogger("fitbus")


@final
class Runs(Mapping[str, Run[History]]):
    """Owns runs by id, in the background of a service.

        async with fitbus.Runs() as runs:
            run = runs.start(trainer, x, y, epochs=5)
            await runs.stop(run.id)

    Leaving the block stops each run at a step boundary, so that it can go on from its backup
    (`StopTraining(resumable=True)`), and waits for it; one that hasn't ended after `grace_s` is
    cancelled. Leaving it by an exception or a cancellation cancels them all. A run that fails
    doesn't disturb the others: its error is logged, and kept: `await runs[id].wait()` raises it.

    Args:
        keep: How many runs that have ended it remembers; when there are more, it forgets those that
            were started first. Each holds its trainer, but not the data.
        grace_s: Seconds that leaving the block gives runs to stop by themselves.

    Raises:
        InvalidArgumentError: `keep` is no whole number of at least 0, or `grace_s` no number of at
            least 0.
    """

    def __init__(self, *, keep: int = 32, grace_s: float = 30.0) -> None:
        positive("keep", keep, zero=True)
        if isinstance(grace_s, bool) or not isinstance(grace_s, int | float) or not grace_s >= 0:
            raise InvalidArgumentError("grace_s", grace_s, "give seconds, a number of at least 0")
        self._keep = keep
        self._grace_s = grace_s
        self._runs: dict[str, Any] = {}  # of `Run[History]`, and what `own` was given
        self._tasks: TaskGroup | None = None
        self._interrupt: BaseException | None = None

    async def __aenter__(self) -> Self:
        """Opens it."""
        if self._tasks is not None:
            raise FitbusError("these Runs are open already")
        self._tasks = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops, or cancels, all runs, and waits for them."""
        tasks, self._tasks = self._tasks, None
        assert tasks is not None
        if error is not None:
            tasks.cancel_scope.cancel()
        else:
            for run in self._runs.values():
                stop = StopTraining("the service is shutting down", resumable=True)
                run.post(stop, "Runs")
            tasks.cancel_scope.deadline = anyio.current_time() + self._grace_s
        await tasks.__aexit__(None, None, None)
        if self._interrupt is not None:
            raise self._interrupt

    def start(
        self, trainer: Trainer, x: Any, y: Any = None, **options: Unpack[RunOptions]
    ) -> Run[History]:
        """Starts a run in the background.

        Args:
            trainer: Its trainer; one run at a time.
            x: As in `Trainer.run`.
            y: As in `Trainer.run`.
            options: As in `Trainer.run`. `run_id` is a random one unless given.

        Returns:
            The handle; it is pending until the event loop gets to it.

        Raises:
            FitbusError: The block isn't entered.
            InvalidArgumentError: An argument is wrong, or a run has that id already.
            TrainerBusyError: The trainer has a run that hasn't ended; one that was asked to stop
                hasn't before `wait` returns.
            ThreadStuckError: A cancelled run's thread hasn't ended yet.
        """
        run_id = options.get("run_id") or uuid.uuid4().hex[:12]
        self._check_free(run_id)
        self._trim()
        for known in self._runs.values():
            if getattr(known, "trainer", None) is trainer and not known.block.life.over:
                raise TrainerBusyError(
                    f"{known!r} of this trainer hasn't ended: one at a time; wait for it, or make a"
                    " second trainer"
                )
        trainer.keeper.check_free()
        options["run_id"] = run_id
        run = trainer.run(x, y, **options)
        self.own(run)
        return run

    def own(self, run: LiveRun[History]) -> None:
        """Starts a pending run in the background that was made elsewhere, such as a `ProcessRun`.

        `runs[id]` gives it, as what it is.

        Raises:
            FitbusError: The block isn't entered.
            InvalidArgumentError: A run has its id already.
        """
        self._check_free(run.id)
        assert self._tasks is not None
        self._runs[run.id] = run
        self._tasks.start_soon(self._drive, run, self._tasks, name=f"fitbus {run.id}")

    def _check_free(self, id: str) -> None:
        if self._tasks is None:
            raise FitbusError("enter it first: `async with fitbus.Runs() as runs:`")
        if id in self._runs:
            raise InvalidArgumentError("run_id", id, "a run has this id; choose another")

    @property
    def is_open(self) -> bool:
        """Whether its block is entered, and isn't being left."""
        return self._tasks is not None

    def spawn(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> None:
        """Runs an async function beside the runs, until it ends or the block is left.

        What it raises is logged, and ends nothing else.

        Raises:
            FitbusError: The block isn't entered.
        """
        if self._tasks is None:
            raise FitbusError("enter it first: `async with fitbus.Runs() as runs:`")
        self._tasks.start_soon(self._contained, function, *args)

    async def _contained(
        self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any
    ) -> None:
        try:
            await function(*args)
        except Exception:
            _logger.exception("%s failed beside the runs, which go on", function)

    def stop(self, id: str, reason: str = "asked to stop") -> Receipt:
        """Asks a run to stop at a step boundary, after which it still validates.

        Returns:
            A receipt: `await` it for the acknowledgement, and `runs[id].wait()` for the end.

        Raises:
            KeyError: There is no run of that id.
        """
        return self[id].post(StopTraining(reason), "Runs")

    def forget(self, id: str) -> None:
        """Forgets a run that has ended.

        Raises:
            KeyError: There is no run of that id.
            FitbusError: It hasn't ended.
        """
        run = self._runs[id]
        if not run.block.life.over:
            raise FitbusError(f"{run!r} hasn't ended; stop it, and wait for it first")
        del self._runs[id]

    def __getitem__(self, id: str) -> Run[History]:
        """The run of an id, ended ones included."""
        run: Run[History] = self._runs[id]
        return run

    def __iter__(self) -> Iterator[str]:
        """The ids, the oldest first."""
        return iter(tuple(self._runs))

    def __len__(self) -> int:
        """How many runs it has."""
        return len(self._runs)

    async def _drive(self, run: LiveRun[History], tasks: TaskGroup) -> None:
        try:
            async with run:
                await run.wait()
        except Exception as error:  # one run's failure isn't the service's
            run.block.life.keep_error(error)
            _logger.exception("run %r failed", run.id)
        except (KeyboardInterrupt, SystemExit) as error:  # ends all, and leaves as itself
            self._interrupt = self._interrupt or error
            tasks.cancel_scope.cancel()
        finally:
            self._trim()

    def _trim(self) -> None:
        ended = [id for id, run in self._runs.items() if run.block.life.over]
        for id in ended[: max(0, len(ended) - self._keep)]:
            del self._runs[id]

    def __repr__(self) -> str:
        """Shows the runs."""
        return f"<Runs: {', '.join(f'{run.id} {run.status}' for run in self._runs.values())}>"
