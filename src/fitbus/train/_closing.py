"""Closes the data of a run, at its end."""

from __future__ import annotations

import logging
import sys

from fitbus.bus import Publisher
from fitbus.train._engine import Engine
from fitbus.train._job import Job

__all__ = ["close_data", "closing_failed"]

_logger = logging.getLogger("fitbus")


def close_data(job: Job, engine: Engine, error: BaseException | None) -> BaseException | None:
    """Closes what a job reads from; in the training thread.

    Args:
        job: It has done its work.
        engine: The live run.
        error: What ended the work.

    Returns:
        What ends the run: `error`, else a handler's error, else what closing raised.
    """
    engine.activity = "closing the data"
    raised: list[BaseException] = []
    for feed in job.feeds:
        try:
            feed.close()
        except BaseException as late:  # noqa: BLE001  # leaves from `Run.wait`, or as a note
            closing_failed(engine.publisher, late)
            raised.append(late)
    if error is None:
        try:
            engine.publisher.failures.check()
        except BaseException as first:  # noqa: BLE001  # leaves from `Run.wait`
            error = first
    for other in raised:
        if other is not error:  # where a cancellation leads, nobody sees its notes
            _logger.error("closing the data of run %r failed", engine.publisher.run, exc_info=other)
    return error


def closing_failed(publisher: Publisher, error: BaseException) -> None:
    """Notes what closing raised: it leaves from the run, unless anything else does."""
    note = f"closing the data raised {type(error).__name__}: {error}"
    publisher.failures.add(sys.maxsize, sys.maxsize, error, note, fatal=True)
