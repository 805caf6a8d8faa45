"""What a run's thread does: the job, and then its end, on every way out."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from fitbus.errors import RunCancelledError, ThreadStuckError
from fitbus.events import EndReason
from fitbus.train._closing import close_data
from fitbus.train._context import JaxSettings
from fitbus.train._engine import Engine
from fitbus.train._job import Job
from fitbus.train._state import TrainState, is_lost
from fitbus.train._task_hooks import finish, prepare

__all__ = ["carried_out", "how_it_ended", "kept_by_task"]

_logger = logging.getLogger("fitbus")


def carried_out(
    job: Job, engine: Engine, settings: JaxSettings
) -> tuple[Any, BaseException | None]:
    """Does a job under JAX settings, and publishes its end. Returns its result, or its error."""
    result: Any = None
    error: BaseException | None = None
    try:
        with settings.applied():
            try:
                prepare(engine, job.feeds[0])
                result = job.main(engine)
                engine.settle()
            except BaseException as raised:  # noqa: BLE001  # leaves from `Run.wait`
                error = raised
                # What was computed before is still told; a failed step ends it.
                with contextlib.suppress(Exception):
                    engine.settle()
                engine.pipeline = None
            engine.ending = True
            error = _unwound(engine, close_data(job, engine, error))
            if job.kind == "fit" and error is None:
                try:
                    finish(engine)
                except BaseException as raised:  # noqa: BLE001  # leaves from `Run.wait`
                    error = raised
            reason, detail = how_it_ended(engine, error)
            engine.end_reason = reason
            job.end(engine, reason, detail)
            engine.publisher.close()
            if error is None:
                engine.publisher.failures.check()
                for function in engine.preparation.endings:
                    function()
    except BaseException as raised:  # noqa: BLE001  # leaves from `Run.wait`
        error = error or raised
        if not engine.publisher.closed:
            engine.publisher.abandon()
    return result, error


def kept_by_task(
    engine: Engine, state: TrainState | None, settings: JaxSettings, error: BaseException | None
) -> BaseException | None:
    """Lets a task keep the state that its run leaves. Returns the run's error, or what it raised.

    In the training thread, after all waiting handlers of the end: what they changed is in it.
    """
    hook, given = ("lost", ()) if state is None else ("keep", (state,))
    keep = getattr(engine.steps.task, hook, None)
    if keep is None:
        return error
    engine.activity = f"in the task's `{hook}`"
    try:
        with settings.applied():
            keep(*given)
    except BaseException as raised:  # noqa: BLE001  # leaves from `Run.wait`
        return _with_later(error, raised, hook, engine)
    return error


def _unwound(engine: Engine, error: BaseException | None) -> BaseException | None:
    """Lets callbacks put back what they have lent out. Returns what ends the run."""
    if error is None or not is_lost(engine.state):
        for function in engine.preparation.unwinding:
            try:
                function(engine, error)
            except BaseException as raised:  # noqa: BLE001  # leaves from `Run.wait`
                error = error or raised
    return error


def _with_later(
    error: BaseException | None, raised: BaseException, hook: str, engine: Engine
) -> BaseException:
    """The error that leads, with a note on what a task's hook raised."""
    if error is None:
        return raised
    error.add_note(f"the task's `{hook}` raised {type(raised).__name__}: {raised}")
    if isinstance(error, RunCancelledError):  # nobody sees its notes
        run = engine.publisher.run
        _logger.error("the task's `%s` failed after run %r", hook, run, exc_info=raised)
    return error


def how_it_ended(engine: Engine, error: BaseException | None) -> tuple[EndReason, str]:
    """The reason of an end, and its detail."""
    if error is None:
        return ("stopped" if engine.stops else "completed"), ""
    if isinstance(error, RunCancelledError):
        return "cancelled", ""
    if isinstance(error, ThreadStuckError) or not isinstance(error, Exception):
        return "cancelled", repr(error)
    return "failed", f"{type(error).__name__}: {error}"
