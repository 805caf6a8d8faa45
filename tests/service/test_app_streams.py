"""Events streamed by a real server: server-sent events and WebSocket, complete and resumed."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx_sse
import pytest
import websockets.sync.client

import fitbus
from fitbus import service
from fitbus.callbacks import Journal
from fitbus.service import Training

from ._server import CONTROL, PROBLEM, bearer, serving

GOES_ON = threading.Event()
FOLDERS: list[Path] = []
EPOCHS = 6


def stepwise() -> Training:
    """Stands at the end of its third epoch until it may go on."""

    @fitbus.handler(fitbus.EpochEnd)
    def stand(event: fitbus.EpochEnd) -> None:
        if event.epoch == 2:
            assert GOES_ON.wait(30)

    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    callbacks = [stand, *(Journal(folder / "journal", append=True) for folder in FOLDERS)]
    return Training(
        trainer, PROBLEM.x, PROBLEM.y, epochs=EPOCHS, batch_size=32, callbacks=callbacks
    )


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    app = service.app(None, {"stepwise": stepwise}, control_token=CONTROL, max_running=4)
    app.state.fitbus.rights._buckets._per_s = 1e9
    with serving(app) as client:
        yield client


@pytest.fixture
def run(client: httpx.Client) -> Iterator[str]:
    GOES_ON.clear()
    answer = client.post("/runs", json={"factory": "stepwise"})
    yield answer.json()["id"]
    GOES_ON.set()


def read(client: httpx.Client, run: str, until: int = 10**9, **options: Any) -> list[Any]:
    """What comes, until a `seq` or the end; the ids and the events."""
    found: list[Any] = []
    with httpx_sse.connect_sse(client, "GET", f"/runs/{run}/events", **options) as source:
        for sse in source.iter_sse():
            if sse.event == "end":
                break
            event = json.loads(sse.data)
            if event["seq"] >= 0:
                assert sse.id == f"{run}:{event['seq']}"
            found.append(event)
            if event["seq"] >= until:
                break
    return found


def test_a_stream_that_breaks_off_is_resumed_without_gap_or_double(
    client: httpx.Client, run: str
) -> None:
    """Again and again, by the last id; and it ends with the run."""
    seen: list[Any] = []
    for until in (0, 5, 40):
        headers = {"Last-Event-ID": f"{run}:{seen[-1]['seq']}"} if seen else {}
        seen += read(client, run, until, headers=headers)
    GOES_ON.set()
    seen += read(client, run, params={"last_event_id": f"{run}:{seen[-1]['seq']}"})
    assert [event["seq"] for event in seen] == list(range(len(seen)))
    assert seen[-1]["type"] == "TrainEnd"
    assert read(client, run) == seen
    assert read(client, run, headers={"Last-Event-ID": f"{run}:{seen[-1]['seq']}"}) == []
    assert read(client, run, headers={"Last-Event-ID": "another:3"}) == seen


def test_a_stream_has_what_was_asked_for(client: httpx.Client, run: str) -> None:
    """Types, with those that extend them; each n-th; at most so many in a time."""
    GOES_ON.set()
    whole = read(client, run)
    ends = [event for event in whole if event["type"] == "BatchEnd"]
    assert read(client, run, params={"types": "BatchEnd"}) == ends
    assert read(client, run, params={"types": "BatchEnd", "every": "7"}) == ends[6::7]
    assert read(client, run, params={"types": "Event"}) == whole
    assert read(client, run, params={"types": "Nothing"}) == []
    epochs = [event for event in whole if event["type"] == "EpochEnd"]
    rare = read(client, run, params={"types": "BatchEnd,EpochEnd", "every_s": "3600"})
    assert rare == [ends[0], *epochs]


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ({"every": "0"}, "every: found '0'; give a whole number from 1 to 1e+09"),
        ({"every": "x"}, "every: found 'x'"),
        ({"every": "9" * 400}, "every: found '999"),
        ({"every_s": "-1"}, "every_s: found '-1'"),
        ({"every_s": "nan"}, "every_s: found 'nan'"),
        ({"last_event_id": "x"}, "Last-Event-ID: found 'x'; give one that was sent"),
        ({"last_event_id": "x:" + "9" * 40}, "Last-Event-ID: found"),
        ({"last_event_id": "x:--5"}, "Last-Event-ID: found"),
        ({"last_event_id": "x:²"}, "Last-Event-ID: found"),
    ],
)
def test_bad_queries_are_refused(
    client: httpx.Client, run: str, query: dict[str, str], why: str
) -> None:
    answer = client.get(f"/runs/{run}/events", params=query)
    assert (answer.status_code, why in answer.json()["error"]) == (400, True)


def test_over_a_websocket_come_the_same(client: httpx.Client, run: str) -> None:
    GOES_ON.set()
    whole = read(client, run)
    url = str(client.base_url.join(f"/runs/{run}/events")).replace("http", "ws")

    def over(query: str) -> list[Any]:
        with websockets.sync.client.connect(url + query) as socket:
            return [json.loads(line) for text in socket for line in str(text).splitlines()]

    assert over("") == whole
    assert over(f"?last_event_id={run}:20") == whole[21:]
    assert over("?types=EpochEnd") == [event for event in whole if event["type"] == "EpochEnd"]
    for refused, why in ((url[:-7] + "x/events", "there is no run"), (url + "?every=0", "every")):
        with (
            websockets.sync.client.connect(refused) as socket,
            pytest.raises(websockets.exceptions.ConnectionClosedError) as caught,
        ):
            socket.recv()
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, why in caught.value.rcvd.reason) == (1008, True)


def test_one_that_takes_nothing_disturbs_nobody(client: httpx.Client, run: str) -> None:
    """It gets what is kept when it goes on; the others, and training, go on meanwhile."""
    stuck = socket.create_connection((client.base_url.host, client.base_url.port or 80))
    stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stuck.sendall(f"GET /runs/{run}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    GOES_ON.set()
    whole = read(client, run)
    assert whole[-1]["reason"] == "completed"
    received = b""
    while b"event: end" not in received:
        received += stuck.recv(65536)
    stuck.close()
    assert received.count(b"\nid: ") == len(whole)


def test_what_is_not_kept_any_more_comes_from_the_journal(
    client: httpx.Client, tmp_path: Path
) -> None:
    """Or is told as lost, where there is none."""
    app = service.app(None, {"stepwise": stepwise}, control_token=CONTROL)
    app.state.fitbus.launches._retain = 50
    with serving(app) as small:
        GOES_ON.set()
        FOLDERS.append(tmp_path)
        first = small.post("/runs", json={"factory": "stepwise"}).json()["id"]
        read(small, first, params={"types": "TrainEnd"})
        FOLDERS.clear()
        whole = read(small, first)
        assert [event["seq"] for event in whole] == list(range(len(whole)))
        assert len(whole) > 100
        assert read(small, first, headers={"Last-Event-ID": f"{first}:9"}) == whole[10:]
        second = small.post("/runs", json={"factory": "stepwise"}).json()["id"]
        read(small, second, params={"types": "TrainEnd"})
        lagged, *rest = read(small, second, headers={"Last-Event-ID": f"{second}:9"})
        assert lagged["type"] == "Lagged"
        assert (lagged["first_seq"], lagged["count"]) == (10, len(whole) - 60)
        assert [event["seq"] for event in rest] == list(range(len(whole) - 50, len(whole)))


def test_more_streams_than_may_be_are_refused() -> None:
    """Of whichever run."""
    app = service.app(
        None, {"stepwise": stepwise}, control_token=CONTROL, max_streams=1, max_running=2
    )
    GOES_ON.clear()
    with serving(app) as small:
        own, other = (
            small.post("/runs", json={"factory": "stepwise"}).json()["id"] for _ in range(2)
        )
        with httpx_sse.connect_sse(small, "GET", f"/runs/{own}/events") as source:
            events = source.iter_sse()
            assert json.loads(next(events).data)["type"] == "TrainBegin"
            for run in (own, other):
                refused = small.get(f"/runs/{run}/events", params={"types": "TrainEnd"})
                assert (refused.status_code, refused.headers["Retry-After"]) == (503, "10")
            GOES_ON.set()
            assert [sse.event for sse in events][-1] == "end"
        assert read(small, own)[-1]["type"] == "TrainEnd"


def test_a_silent_run_sends_heartbeats(client: httpx.Client, run: str) -> None:
    """Comments, by which a client sees that the line is alive."""
    app = service.app(None, {"stepwise": stepwise}, control_token=CONTROL, heartbeat_s=0.05)
    GOES_ON.clear()
    with serving(app) as quick:
        own = quick.post("/runs", json={"factory": "stepwise"}).json()["id"]
        with quick.stream("GET", f"/runs/{own}/events", headers=bearer(CONTROL)) as answer:
            beats = 0
            for line in answer.iter_lines():
                beats += line == ":"
                if beats == 3:
                    GOES_ON.set()
                if line == "event: end":
                    break
        assert beats >= 3
