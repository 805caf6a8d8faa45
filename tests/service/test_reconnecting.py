"""A client whose connections break: it goes on where it was, or says that it can't."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest

import fitbus
from fitbus import client, service
from fitbus.errors import ControlRejectedError, ServiceError

from ._server import CONTROL, serving, toy

pytestmark = pytest.mark.anyio

LONG = 100_000


class Proxy:
    """Hands on what comes between clients and a server, and breaks off when it is told to."""

    def __init__(self, port: int) -> None:
        self.target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                self._open += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._hand_on, args=pair, daemon=True).start()

    def _hand_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)

    def cut(self) -> None:
        """Breaks all connections."""
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._open.clear()

    def close(self) -> None:
        """And takes no new ones."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()


@pytest.fixture(scope="module")
def server() -> Iterator[httpx.Client]:
    app = service.app(None, {"toy": toy}, control_token=CONTROL, max_running=8)
    app.state.fitbus.rights._buckets._per_s = 1e9
    with serving(app) as client:
        yield client


@pytest.fixture
def path(server: httpx.Client) -> Iterator[str]:
    """Of a long run."""
    body = {"factory": "toy", "parameters": {"epochs": LONG}}
    id = server.post("/runs", json=body).json()["id"]
    with server.stream("GET", f"/runs/{id}/events") as events:  # once it runs
        next(line for line in events.iter_lines() if line.startswith("data"))
    yield f"/runs/{id}"
    server.post(f"/runs/{id}/controls", json={"type": "StopTraining", "reason": "over"})


@pytest.fixture
def proxy(server: httpx.Client) -> Iterator[Proxy]:
    assert server.base_url.port is not None
    proxy = Proxy(server.base_url.port)
    yield proxy
    proxy.close()


async def test_it_goes_on_without_a_gap_again_and_again(path: str, proxy: Proxy) -> None:
    steps: list[int] = []
    async with client.connect(f"http://127.0.0.1:{proxy.port}{path}", token=CONTROL) as run:
        async with run.subscribe(fitbus.BatchEnd, overflow="block") as events:
            for count in (1, 40, 80, 120):
                while len(steps) < count:
                    steps.append((await anext(events)).step)
                proxy.cut()
            await run.wait_for(fitbus.EpochEnd, timeout=30)  # it is there again
            with contextlib.suppress(ControlRejectedError):  # said that it may have acted
                await run.send(fitbus.StopTraining("enough"), 30)
            steps += [event.step async for event in events]
        assert run.status == "stopped"
    assert steps == list(range(steps[0], steps[0] + len(steps)))


async def test_it_says_that_nobody_answers_any_more(path: str, proxy: Proxy) -> None:
    """Whoever waits is cancelled, and the block raises it; nothing hangs."""
    url = f"http://127.0.0.1:{proxy.port}{path}"
    waited = False

    async def wait() -> None:
        nonlocal waited
        async with client.connect(url, token=CONTROL, reconnect_s=0.2) as run:
            await run.wait_for(fitbus.EpochEnd, timeout=30)
            await anyio.to_thread.run_sync(proxy.close)
            receipt = run.post(fitbus.Pause())
            waited = True
            with pytest.raises(ControlRejectedError):
                await receipt
            await anyio.sleep_forever()

    with anyio.fail_after(30), pytest.raises(ServiceError, match=r"can't be reached|cut") as raised:
        await wait()
    assert waited
    assert "it was tried for 0.2 s" in raised.value.__notes__[0]


async def test_another_task_that_ends_the_block_ends_all(path: str, proxy: Proxy) -> None:
    """A cancellation from without, in the midst of a stream."""
    url = f"http://127.0.0.1:{proxy.port}{path}"
    with anyio.move_on_after(1) as scope:
        async with client.connect(url, token=CONTROL) as run, run.subscribe(fitbus.Event) as events:
            async for event in events:
                if isinstance(event, fitbus.EpochEnd):
                    scope.cancel()
    assert scope.cancelled_caught


def one_run() -> Any:
    """An application that trains one long run, always of the same id."""
    runs = fitbus.Runs()
    app = service.app(runs, control_token=CONTROL)

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncGenerator[None]:
        async with runs:
            made = toy(LONG)
            runs.start(made.trainer, made.x, made.y, run_id="one", **made.options)
            yield

    app.router.lifespan_context = lifespan
    return app


async def test_a_run_that_was_begun_anew_is_not_taken_for_the_one_before() -> None:
    """Its events have numbers that were there before, and are others."""
    last = -1

    async def follow(proxy: Proxy, port: int) -> None:
        nonlocal last
        url = f"http://127.0.0.1:{proxy.port}/runs/one"
        async with (
            client.connect(url, token=CONTROL) as run,
            run.subscribe(fitbus.Event, overflow="block") as events,
        ):
            async for event in events:
                if isinstance(event, fitbus.EpochEnd) and last < 0:
                    last = event.seq
                    proxy.target = port
                    proxy.cut()

    with serving(one_run()) as first, serving(one_run()) as second:
        ports = [http.base_url.port or 0 for http in (first, second)]
        proxy = Proxy(ports[0])
        try:
            with anyio.fail_after(30), pytest.raises(ServiceError, match="was begun anew"):
                await follow(proxy, ports[1])
        finally:
            proxy.close()
    assert last > 0
