"""The page on the demo's run: `python -m fitbus demo --serve`."""

from __future__ import annotations

import secrets
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import NamedTuple

import anyio

import fitbus

__all__ = ["Page", "page_of"]

_CUT_S = 5  # after which the server cuts what is open


class Page(NamedTuple):
    """Where runs can be watched, and what steers them.

    Attributes:
        url: The page's.
        token: What it asks for when one steers.
    """

    url: str
    token: str


@asynccontextmanager
async def page_of(runs: fitbus.Runs, port: int) -> AsyncGenerator[Page]:
    """Serves it beside what is done in the block, in the same event loop."""
    import uvicorn

    from fitbus import service

    token = secrets.token_urlsafe(12)
    app = service.app(runs, control_token=token)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_CUT_S)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", port)) as listener:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listener])
            yield Page(f"http://127.0.0.1:{listener.getsockname()[1]}/", token)
            server.should_exit = True
