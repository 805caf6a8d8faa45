"""What tests of the page need: a service at a port, a wire that can be cut, and trainings."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import AsyncGenerator, Generator
from typing import Annotated, Any, final

import anyio
import httpx
import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

import fitbus
from fitbus import service
from fitbus.service import Training
from fitbus.testing import Gate, toy_problem

__all__ = ["CONTROL", "GATES", "READ", "Wire", "made", "mounted", "serving"]

READ, CONTROL = "the-token-to-read", "the-token-to-steer"
PROBLEM = toy_problem(512, learning_rate=0.01)
GATES: dict[int, Gate] = {}  # of `gated`, by the epoch at whose begin they are


def paced(
    epochs: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 3,
    pace_s: Annotated[float, msgspec.Meta(ge=0)] = 0.05,
    title: str = "",
    shuffle: bool = True,
) -> Training:
    """A training that takes its time, so that one can look at it."""

    @fitbus.handler(fitbus.EpochBegin)
    async def pace(event: fitbus.EpochBegin) -> None:
        await anyio.sleep(pace_s)

    return _training(pace, epochs=epochs, shuffle=shuffle)


def gated(epochs: int = 30) -> Training:
    """A training that waits at `GATES`."""

    @fitbus.handler(fitbus.EpochBegin)
    async def wait(event: fitbus.EpochBegin) -> None:
        if event.epoch in GATES:
            await GATES[event.epoch].pass_async()

    return _training(wait, epochs=epochs)


def _training(handler: Any, **options: Any) -> Training:
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    data = {"batch_size": 64, "validation_split": 0.25, "callbacks": [handler]}
    return Training(trainer, PROBLEM.x, PROBLEM.y, **data, **options)


def mounted(app: Starlette, path: str = "/training") -> Starlette:
    """An application that has the service under a path."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None, None]:
        async with app.router.lifespan_context(app):
            yield

    return Starlette(routes=[Mount(path, app)], lifespan=lifespan)


@contextlib.contextmanager
def serving(app: Starlette) -> Generator[int, None, None]:
    """Serves an application on a free loopback port, which is given."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    port: int = listener.getsockname()[1]
    try:
        # The socket listens already: the first request waits until it is served.
        httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=30, trust_env=False)
        yield port
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@final
class Wire:
    """Carries bytes between a port of its own and a server's, until it is cut."""

    def __init__(self, target: int) -> None:
        self.target = target
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._dead: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._start(self._accept, self._listener)

    def cut(self) -> None:
        """Breaks all connections, and refuses new ones."""
        self._break(self._listener)
        with self._lock:
            cut, self._open = self._open, set()
        for each in cut:
            self._break(each)

    def deaden(self) -> None:
        """Lets nothing through the connections that are open, and tells neither end."""
        with self._lock:
            self._dead |= self._open

    def mend(self) -> None:
        """Takes new ones."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._start(self._accept, self._listener)

    def close(self) -> None:
        """Ends it."""
        self.cut()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def _start(self, function: Any, *args: Any) -> None:
        thread = threading.Thread(target=function, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with listener:
            while True:
                try:
                    near, _ = listener.accept()
                except OSError:
                    return
                far = socket.create_connection(("127.0.0.1", self.target))
                with self._lock:
                    self._open |= {near, far}
                self._start(self._carry, near, far)
                self._start(self._carry, far, near)

    def _carry(self, source: socket.socket, to: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if to not in self._dead:
                    to.sendall(data)
        with self._lock:
            self._open.discard(source)
            self._dead.discard(source)
        self._break(to)
        source.close()

    @staticmethod
    def _break(each: socket.socket) -> None:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def made(**options: Any) -> Starlette:
    """The service with these trainings."""
    return service.app(None, {"paced": paced, "gated": gated}, control_token=CONTROL, **options)
