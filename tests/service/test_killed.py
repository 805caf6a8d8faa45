"""A service that is killed in the midst of streams: its clients go on where they were."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import httpx_sse
import pytest

import fitbus
from fitbus import client
from fitbus.errors import ControlRejectedError

from . import _killed
from ._server import bearer

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


class Service:
    """The service, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        arguments = [sys.executable, _killed.__file__, str(self.port), str(self._folder)]
        self._process = subprocess.Popen(arguments)

    def kill(self) -> None:
        """Kills it, with kill -9."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        assert self._process.wait(30) == -signal.SIGKILL

    def wait(self) -> None:
        """Until it answers."""
        with httpx.Client(transport=httpx.HTTPTransport(retries=10)) as http:
            while True:
                assert self._process is not None
                assert self._process.poll() is None
                with contextlib.suppress(httpx.HTTPError):
                    if http.get(f"{self.url}/runs/the-run").status_code == 200:
                        return


@pytest.fixture
def service(tmp_path: Path) -> Generator[Service]:
    service = Service(tmp_path)
    service.start()
    service.wait()
    yield service
    service.kill()


@pytest.mark.parametrize("anyio_backend", [("asyncio", {}), ("trio", {})], ids=["asyncio", "trio"])
async def test_a_client_goes_on_after_the_last_event_it_had(service: Service) -> None:
    """Killed twice; no event is lost or comes twice, and a control acts afterwards."""
    seqs: list[int] = []
    epochs: list[int] = []
    kills = [20, 60]
    async with client.connect(f"{service.url}/runs/the-run", token=_killed.TOKEN, after=-1) as run:
        async with run.subscribe(fitbus.Event, fitbus.Lagged, after=-1, buffer_size=100_000) as all:
            async for event in all:
                assert not isinstance(event, fitbus.Lagged)
                seqs.append(event.seq)
                if isinstance(event, fitbus.EpochEnd):
                    epochs.append(event.epoch)
                    if kills and event.epoch >= kills[0]:
                        del kills[0]
                        await anyio.to_thread.run_sync(service.kill)
                        service.start()
                if isinstance(event, fitbus.RunPaused):
                    assert not kills
                    with contextlib.suppress(ControlRejectedError):  # it paused before the kill
                        assert (await run.send(fitbus.Resume(), 30)).epoch >= _killed.PAUSED
        assert run.status == "completed"
    assert seqs == list(range(len(seqs)))
    assert epochs == list(range(_killed.EPOCHS))


def test_so_does_any_client_of_server_sent_events(service: Service) -> None:
    """One that knows nothing but `Last-Event-ID`."""
    seqs: list[int] = []
    last: str | None = None
    killed = False
    while True:
        with contextlib.suppress(httpx.TransportError):
            for event in _events(service.url, last):
                if event.event == "end":
                    assert killed
                    assert seqs == list(range(len(seqs)))
                    return
                last = event.id
                found: Any = json.loads(event.data)
                seqs.append(found["seq"])
                if found["type"] == "RunPaused":
                    resume = {"type": "Resume"}
                    answer = httpx.post(
                        f"{service.url}/runs/the-run/controls",
                        json=resume,
                        headers=bearer(_killed.TOKEN),
                    )
                    # Not paused any more, if it paused just before it was killed.
                    assert answer.status_code in (200, 409)
                if not killed and found["type"] == "EpochEnd" and found["epoch"] == 40:
                    killed = True
                    service.kill()
                    service.start()
                    service.wait()


def _events(url: str, last: str | None) -> Iterator[httpx_sse.ServerSentEvent]:
    headers = {} if last is None else {"Last-Event-ID": last}
    address = f"{url}/runs/the-run/events"
    with (
        httpx.Client(timeout=30) as http,
        httpx_sse.connect_sse(http, "GET", address, headers=headers) as source,
    ):
        yield from source.iter_sse()
