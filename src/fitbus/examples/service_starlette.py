"""Shows a Starlette service on trio, served by Anycorn, that trains on request.

uvicorn needs asyncio; Anycorn serves on whatever AnyIO runs on. No server tells an application that
it begins to end, so the event streams are let go here, when the signal comes.

    python -m fitbus.examples.service_starlette 8000
"""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anycorn
import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

import fitbus
from fitbus import service
from fitbus.examples._digits import digits, digits_trainer

runs = fitbus.Runs()


def train(epochs: int = 20, learning_rate: float = 1e-4) -> service.Training:
    """What clients may start, with these parameters."""
    (x, y), held_out, _ = digits()
    trainer = digits_trainer(learning_rate)
    return service.Training(trainer, x, y, epochs=epochs, validation_data=held_out)


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncGenerator[None]:
    """Stops the runs when the service ends."""
    async with runs:
        yield


async def steps(_: Request) -> JSONResponse:
    """A request of the application's own."""
    return JSONResponse({id: run.statistics().step for id, run in runs.items()})


training = service.app(runs, {"digits": train})
api = Starlette(routes=[Route("/steps", steps), Mount("/training", training)], lifespan=lifespan)


async def told_to_end() -> None:
    """Waits for a signal; then the streams end, and with them the connections."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            service.close_streams(training)
            return


async def serve(port: int) -> None:
    """Serves until then."""
    config = anycorn.Config()
    config.bind = [f"127.0.0.1:{port}"]
    served: Any = api  # ASGI for both, in types of their own
    await anycorn.serve(served, config, shutdown_trigger=told_to_end)


if __name__ == "__main__":
    anyio.run(serve, int(sys.argv[1] if sys.argv[1:] else 8000), backend="trio")
