"""Where a run stands, and what came of it."""

from __future__ import annotations

from typing import Any, NamedTuple, final

import anyio

from fitbus.bus import RunStatus
from fitbus.control import StopTraining

__all__ = ["Life", "Stop"]


class Stop(NamedTuple):
    """A stop that was asked for."""

    control: StopTraining
    source: str

    @property
    def reason(self) -> str:
        """Why, in words."""
        return self.control.reason

    @property
    def validate(self) -> bool:
        """Whether the epoch that it cuts short is still validated."""
        return self.control.validate and not self.control.resumable


@final
class Life:
    """A run's status, and its result or error. Written in the loop, readable in any thread.

    Attributes:
        status: Where it stands; whether it is paused or finishing is known to its thread.
        final: Whether it has ended, and the status won't change any more.
        result: Of the job.
        error: What ended it, and wasn't asked for; raised by `wait`.
        error_seen: Whether somebody who waited got the error.
    """

    def __init__(self) -> None:
        self.status: RunStatus = "pending"
        self.final = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.error_seen = False
        self._over = anyio.Event()

    @property
    def over(self) -> bool:
        """Whether nobody has to wait any more."""
        return self._over.is_set()

    def end(self) -> None:
        """Lets those who wait go on."""
        self._over.set()

    async def until_over(self) -> None:
        """Waits for the end."""
        await self._over.wait()

    async def wait(self) -> Any:
        """Waits for the end; returns the result, or raises what ended it."""
        await self._over.wait()
        if self.error is not None:
            self.error_seen = True
            raise self.error
        return self.result

    def keep_error(self, error: BaseException) -> None:
        """Ends with an error that kept the run from starting, or that nobody has waited for."""
        if not self.final:
            self.error, self.status, self.final = error, "failed", True
        self._over.set()
