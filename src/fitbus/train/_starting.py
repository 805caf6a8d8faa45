"""A new run of a trainer, and calls in an event loop of their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from fitbus.errors import InvalidArgumentError
from fitbus.train._arguments import seconds, verbosity
from fitbus.train._attaching import attach_all
from fitbus.train._run import Run

if TYPE_CHECKING:
    from fitbus.train._trainer import Trainer

__all__ = ["new_run"]

T = TypeVar("T")


def new_run(
    trainer: Trainer,
    job: Any,
    callbacks: Iterable[Any] | None,
    *,
    grace_s: float,
    drain_s: float,
    verbose: Any,
    run_id: str | None = None,
) -> Run[Any]:
    """Makes a pending run, with its callbacks attached.

    Raises:
        InvalidArgumentError: An argument is out of range, or a live run has that id.
    """
    seconds("grace_s", grace_s)
    seconds("drain_s", drain_s, zero=True)
    shown = verbosity(verbose)
    if run_id is not None and (not isinstance(run_id, str) or not run_id):
        raise InvalidArgumentError("run_id", run_id, "give a text")
    if run_id is not None and trainer.bus.runs.get(run_id) is not None:
        raise InvalidArgumentError(
            "run_id", run_id, "a run of this id is live on the bus; choose another"
        )
    id = trainer.bus.runs.new_id(job.kind) if run_id is None else run_id
    run: Run[Any] = Run(trainer, job, id, grace_s=grace_s, drain_s=drain_s)
    attach_all(run, callbacks, verbose=shown)
    return run
