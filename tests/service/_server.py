"""A service on a real server, for tests; and the trainings that it offers."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Generator
from typing import Annotated, Any

import httpx
import msgspec
import uvicorn

import fitbus
from fitbus.service import Training
from fitbus.testing import toy_problem

__all__ = ["CONTROL", "PROBLEM", "READ", "bearer", "serving", "toy"]

READ, CONTROL = "the-token-to-read", "the-token-to-steer"
PROBLEM = toy_problem(512)


def toy(
    epochs: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 2,
    learning_rate: Annotated[float, msgspec.Meta(gt=0)] = 0.1,
) -> Training:
    """A regression, of as many epochs as one likes."""
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    return Training(
        trainer,
        PROBLEM.x,
        PROBLEM.y,
        epochs=epochs,
        batch_size=64,
        callbacks=[_rate(learning_rate)],
    )


def _rate(value: float) -> Any:
    @fitbus.handler(fitbus.TrainBegin)
    def begin(event: fitbus.TrainBegin) -> fitbus.Control:
        return fitbus.SetLearningRate(value)

    return begin


def bearer(token: str) -> dict[str, str]:
    """The header that carries a token."""
    return {"Authorization": f"Bearer {token}"}


@contextlib.contextmanager
def serving(app: Any, send_buffer: int = 0) -> Generator[httpx.Client]:
    """Serves an application on a free loopback port; gives a client that may steer."""
    listener = socket.create_server(("127.0.0.1", 0))
    if send_buffer:  # that of the system, in bytes, for what a client hasn't taken
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, headers=bearer(CONTROL), timeout=30) as client:
            while True:  # the socket listens: the first request waits until it is served
                with contextlib.suppress(httpx.ReadError):
                    client.get("/healthz").raise_for_status()
                    break
            yield client
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
