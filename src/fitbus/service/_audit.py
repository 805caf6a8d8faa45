"""Who asked for what, and what came of it: a line of JSON each, on the logger `fitbus.audit`."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, final

from fitbus.service._rights import Guarded, Refused

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection, Request
    from starlette.responses import Response

__all__ = ["Audit"]

_PER_S, _BURST = 5.0, 50
_logger = logging.getLogger("fitbus.audit")


@final
class Audit:
    """Writes the lines.

    All at level INFO. What was done is always told; what was refused, a few times a second at
    most, with how many weren't told before (`untold`).

    A line has `event` (`start`, `control`, `sign in`, `refused`), `address`, `who`
    where that is known, and what belongs to the event; never a token, nor a query or a body.
    """

    def __init__(self) -> None:
        self._left, self._then, self._untold = float(_BURST), time.monotonic(), 0

    def done(self, event: str, by: Guarded, **facts: Any) -> None:
        """Tells what somebody did."""
        _logger.info(
            "%s", json.dumps({"event": event, "address": by.address, "who": by.name, **facts})
        )

    def refusals_of(
        self, answer: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint of which it tells what it refuses."""

        async def endpoint(request: Request) -> Response:
            try:
                return await answer(request)
            except Refused as refused:
                self.refused(request, refused)
                raise

        return endpoint

    def refused(self, connection: HTTPConnection, error: Refused) -> None:
        """Tells that something wasn't let pass."""
        now = time.monotonic()
        self._left = min(float(_BURST), self._left + (now - self._then) * _PER_S)
        self._then = now
        if self._left < 1:
            self._untold += 1
            return
        self._left -= 1
        line: dict[str, Any] = {
            "event": "refused",
            "address": connection.client.host if connection.client else "?",
            "method": connection.scope.get("method", "WEBSOCKET"),
            "path": connection.scope["path"][:200],
            "status": error.status,
            "why": error.why[:200],
        }
        if self._untold:
            line["untold"], self._untold = self._untold, 0
        _logger.info("%s", json.dumps(line))
