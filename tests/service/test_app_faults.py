"""Factories that never end or exit, clients that are slow or odd: the service goes on."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import websockets.sync.client
from starlette.applications import Starlette
from starlette.routing import Mount

import fitbus
from fitbus import service
from fitbus.service import Training, _streams

from ._server import CONTROL, PROBLEM, serving, toy

MADE, GATE, LEFT = threading.Event(), threading.Event(), threading.Event()
RUNS = fitbus.Runs(grace_s=0.1)
ID = "läuf/#?1"


class Big(fitbus.Event):
    """One of half a mebibyte."""

    text: str = "x" * (512 << 10)


def held() -> Training:
    """Isn't made before the gate opens."""
    MADE.set()
    GATE.wait(10)
    LEFT.set()
    return toy(epochs=1)


def _shut() -> None:
    for each in (MADE, GATE, LEFT):
        each.clear()


def quits() -> Training:
    """Ends the process, it thinks."""
    sys.exit("the secret of the house")


def big() -> Training:
    """Tells 7.5 MiB in its first epoch."""
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)

    @fitbus.handler(fitbus.EpochBegin)
    def tell(event: fitbus.EpochBegin) -> None:
        for _ in range(15):
            RUNS[event.run].publish(Big())

    return Training(trainer, PROBLEM.x, PROBLEM.y, epochs=1, batch_size=64, callbacks=[tell])


@pytest.fixture(scope="module")
def app() -> Starlette:
    made: dict[str, Any] = {"toy": toy, "held": held, "quits": quits, "big": big}
    app = service.app(RUNS, made, control_token=CONTROL, heartbeat_s=0.05, user_types=[Big])
    app.state.fitbus.rights._buckets._per_s = 1e9  # many requests come from here
    return app


@pytest.fixture(scope="module")
def client(app: Starlette) -> Iterator[httpx.Client]:
    with serving(app, send_buffer=512 << 10) as client:
        yield client


def start(client: httpx.Client, factory: str, **parameters: Any) -> str:
    answer = client.post("/runs", json={"factory": factory, "parameters": parameters})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def events(client: httpx.Client, id: str, **options: Any) -> list[dict[str, Any]]:
    """All of a run's, when it has ended."""
    with client.stream("GET", f"/runs/{quote(id, safe='')}/events", **options) as answer:
        assert answer.status_code == 200
        text = b"".join(answer.iter_bytes()).decode()
    lines = [line for line in text.split("\n") if line.startswith("data: ")]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def stop(client: httpx.Client, id: str) -> None:
    answer = client.post(f"/runs/{quote(id, safe='')}/controls", json={"type": "StopTraining"})
    assert answer.status_code == 200, answer.text


def web(client: httpx.Client, id: str) -> str:
    return str(client.base_url.join(f"/runs/{id}/events")).replace("http", "ws")


def test_a_factory_that_exits_ends_nothing_else(client: httpx.Client) -> None:
    id = start(client, "quits")
    client.get(f"/runs/{id}/events")  # until it is over
    assert client.get(f"/runs/{id}/events").status_code == 409
    found = client.get(f"/runs/{id}").json()
    assert (found["status"], found["error"]) == ("failed", "SystemExit")
    assert events(client, start(client, "toy"))[-1]["reason"] == "completed"


def test_one_called_off_while_it_is_made_gives_its_place_free(client: httpx.Client) -> None:
    _shut()
    id = start(client, "held")
    try:
        assert MADE.wait(10)
        next_one = start(client, "toy")
        stop(client, id)
        assert events(client, next_one)[-1]["reason"] == "completed"
        assert client.get(f"/runs/{id}").json()["status"] == "stopped"
        assert not LEFT.is_set()
    finally:
        GATE.set()
        assert LEFT.wait(10)


def test_a_factory_that_works_on_does_not_hold_up_the_end() -> None:
    _shut()
    app = service.app(fitbus.Runs(grace_s=0.05), {"held": held}, control_token=CONTROL)
    try:
        with serving(app) as client:
            start(client, "held")
            assert MADE.wait(10)
        assert not LEFT.is_set()
    finally:
        GATE.set()
        assert LEFT.wait(10)


def test_messages_over_a_websocket_are_small_and_it_may_be_talked_to(client: httpx.Client) -> None:
    """Those of several events; none is empty, however long nothing comes."""
    id = start(client, "toy", epochs=100_000)
    told: list[Any] = []
    address = f"/runs/{id}/controls"
    with websockets.sync.client.connect(web(client, id)) as line:
        line.send("ping")
        told.append(line.recv(10))
        assert client.post(address, json={"type": "Pause"}).status_code == 200
        with contextlib.suppress(TimeoutError):
            while True:
                told.append(line.recv(0.3))
        stop(client, id)
        told += line
    seen = [json.loads(text) for message in told for text in str(message).split("\n")]
    assert [event["seq"] for event in seen] == list(range(len(seen)))
    assert seen[-1]["type"] == "TrainEnd"
    id = start(client, "toy", epochs=100)
    whole = events(client, id)
    with websockets.sync.client.connect(web(client, id)) as line:
        messages = [str(message) for message in line]
    assert [json.loads(text) for each in messages for text in each.split("\n")] == whole
    assert max(len(each) for each in messages) <= 64 << 10
    assert len(messages) < len(whole) / 10


def test_one_event_larger_than_a_message_comes_whole(client: httpx.Client) -> None:
    id = start(client, "big")
    whole = events(client, id)
    with websockets.sync.client.connect(web(client, id)) as line:
        seen = [json.loads(text) for message in line for text in str(message).split("\n")]
    assert seen == whole
    assert sum(event["type"].endswith("Big") for event in seen) == 15


@pytest.mark.slow
def test_who_takes_slowly_is_kept_and_who_takes_nothing_is_not(
    client: httpx.Client, app: Starlette, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = start(client, "big")
    size = len(json.dumps(events(client, id)))
    monkeypatch.setattr(_streams, "SEND_TIMEOUT_S", 0.5)
    monkeypatch.setattr(_streams, "_CLOSE_S", 0.1, raising=False)
    host, port = client.base_url.host, client.base_url.port or 80
    hub = app.state.fitbus.launches[id].hub
    with socket.create_connection((host, port)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 << 10)
        slow.sendall(f"GET /runs/{id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        taken = b""
        while part := slow.recv(64 << 10):
            taken += part
            if b"event: end" in taken[-100:]:
                break
            time.sleep(len(part) / 8e6)  # its pace
        assert len(taken) > size
        assert b"event: end" in taken[-100:]
    with websockets.sync.client.connect(web(client, id), max_queue=1, close_timeout=0.1):
        while not hub.clients:
            pass
        until = time.monotonic() + 5
        while hub.clients:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_an_id_may_be_any_text() -> None:
    runs = fitbus.Runs()

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with runs:
            made = toy(epochs=3)
            runs.start(made.trainer, made.x, made.y, run_id=ID, **made.options)
            yield

    app = service.app(runs, control_token=CONTROL)
    with serving(Starlette(routes=[Mount("/", app)], lifespan=lifespan)) as client:
        whole = events(client, ID)
        assert client.get(f"/runs/{quote(ID, safe='')}").json()["id"] == ID
        last = f"{ID}:{whole[4]['seq']}"
        assert events(client, ID, headers={"Last-Event-ID": last.encode()}) == whole[5:]
        assert events(client, ID, params={"last_event_id": last}) == whole[5:]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_cannot_start_leaves_nothing_in_the_queue() -> None:
    transport = httpx.ASGITransport(service.app(None, {"toy": toy}, control_token=CONTROL))
    headers = {"Authorization": f"Bearer {CONTROL}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        client.headers.update(headers)
        refused = await client.post("/runs", json={"factory": "toy"})
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "10")
        assert "isn't open" in refused.json()["error"]
        assert (await client.get("/runs")).json()["runs"] == []


@pytest.mark.anyio
async def test_trainers_are_made_beside_any_loop() -> None:
    runs = fitbus.Runs()
    transport = httpx.ASGITransport(service.app(runs, {"toy": toy}, control_token=CONTROL))
    async with runs, httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        headers = {"Authorization": f"Bearer {CONTROL}"}
        made = await client.post("/runs", json={"factory": "toy"}, headers=headers)
        told = await client.get(f"{made.headers['Location']}/events")
        assert (told.status_code, '"completed"' in told.text) == (200, True)
