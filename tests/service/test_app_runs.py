"""Runs started and steered over HTTP, on a real server."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import httpx
import openapi_spec_validator
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

import fitbus
from fitbus import Control, service
from fitbus.service import Training

from ._server import CONTROL, PROBLEM, serving, toy

MADE, GATE = threading.Event(), threading.Event()


class Odd(Control):
    """One that no task knows."""


def held() -> Training:
    """Made when the gate opens."""
    MADE.set()
    assert GATE.wait(30)
    return toy(epochs=1)


def broken() -> Training:
    """Can't be made."""
    raise RuntimeError("the secret of the house")


def wrong() -> Any:
    """Is no training."""
    return 3


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    made: dict[str, Any] = {"toy": toy, "held": held, "broken": broken, "wrong": wrong}
    app = service.app(
        None, made, control_token=CONTROL, max_running=1, max_waiting=2, user_types=[Odd]
    )
    app.state.fitbus.rights._buckets._per_s = 1e9  # many requests come from here
    with serving(app) as client:
        yield client


def start(client: httpx.Client, factory: str, **parameters: Any) -> str:
    answer = client.post("/runs", json={"factory": factory, "parameters": parameters})
    assert answer.status_code == 201, answer.text
    found = answer.json()
    assert answer.headers["Location"] == f"/runs/{found['id']}"
    assert (found["factory"], found["status"]) == (factory, "queued")
    id: str = found["id"]
    return id


def events(client: httpx.Client, id: str, **query: Any) -> list[dict[str, Any]]:
    """All of a run's, when it has ended."""
    with client.stream("GET", f"/runs/{id}/events", params=query) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def send(client: httpx.Client, id: str, **control: Any) -> httpx.Response:
    return client.post(f"/runs/{id}/controls", json=control)


def test_a_run_is_started_with_checked_parameters(client: httpx.Client) -> None:
    id = start(client, "toy", epochs=3, learning_rate=0.03)
    told = events(client, id)
    assert [event["seq"] for event in told] == list(range(len(told)))
    assert {event["run"] for event in told} == {id}
    assert (told[0]["type"], told[0]["epochs"]) == ("TrainBegin", 3)
    assert (told[1]["type"], told[1]["control"]["value"]) == ("ControlApplied", 0.03)
    assert (told[-1]["type"], told[-1]["reason"]) == ("TrainEnd", "completed")
    found = client.get(f"/runs/{id}").json()
    assert found["parameters"] == {"epochs": 3, "learning_rate": 0.03}
    assert (found["status"], found["step"], found["epochs"]) == ("completed", 24, 3)
    listed = client.get("/runs").json()
    assert listed["runs"][0]["id"] == id
    assert listed["factories"] == ["broken", "held", "toy", "wrong"]


def test_controls_are_answered_when_they_acted(client: httpx.Client) -> None:
    id = start(client, "toy", epochs=100_000)
    begin = next(iter(read(client, id)))
    assert begin["type"] == "TrainBegin"
    applied = send(client, id, type="SetLearningRate", value=1e-3)
    assert applied.status_code == 200
    assert applied.json()["status"] == "applied"
    paused = send(client, id, type="Pause")
    assert client.get(f"/runs/{id}").json()["status"] == "paused"
    step = paused.json()["step"]
    assert step >= applied.json()["step"]
    rejected = send(client, id, type="Evaluate")
    assert rejected.status_code == 409
    assert "give fit `validation_data`" in rejected.json()["error"]
    odd = send(client, id, type=fitbus.events.Codec(Odd).types[-1].__struct_config__.tag)
    assert odd.status_code == 409
    stopped = send(client, id, type="StopTraining", reason="enough")
    assert (stopped.status_code, stopped.json()["step"]) == (200, step)
    end = events(client, id)[-1]
    assert (end["type"], end["reason"], end["detail"]) == ("TrainEnd", "stopped", "enough")
    assert end["source"].startswith("http 127.0.0.1")
    late = send(client, id, type="Pause")
    assert (late.status_code, "too late" in late.json()["error"]) == (409, True)


def read(client: httpx.Client, id: str, **headers: str) -> Iterator[dict[str, Any]]:
    with client.stream("GET", f"/runs/{id}/events", headers=headers) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


def test_runs_queue_and_one_that_waits_can_be_called_off(client: httpx.Client) -> None:
    GATE.clear()
    first = start(client, "held")
    assert MADE.wait(10)
    assert client.get(f"/runs/{first}").json()["status"] == "starting"
    second, third = start(client, "toy"), start(client, "toy")
    full = client.post("/runs", json={"factory": "toy"})
    assert (full.status_code, full.headers["Retry-After"]) == (503, "10")
    refused = send(client, second, type="Pause")
    assert (refused.status_code, "queued" in refused.json()["error"]) == (409, True)
    assert send(client, second, type="StopTraining").status_code == 200
    assert client.get(f"/runs/{second}").json()["status"] == "stopped"
    GATE.set()
    assert events(client, first)[-1]["reason"] == "completed"
    assert events(client, third)[-1]["reason"] == "completed"
    never = client.get(f"/runs/{second}/events")
    assert (never.status_code, "never began" in never.json()["error"]) == (409, True)


def test_what_cannot_start_says_so_without_the_houses_secrets(client: httpx.Client) -> None:
    for factory, error in (("broken", "RuntimeError"), ("wrong", "InvalidArgumentError")):
        id = start(client, factory)
        client.get(f"/runs/{id}/events")  # until it is over
        assert client.get(f"/runs/{id}/events").status_code == 409
        found = client.get(f"/runs/{id}")
        assert (found.json()["status"], found.json()["error"]) == ("failed", error)
        assert "secret" not in found.text + client.get(f"/runs/{id}/events").text


BAD_STARTS: list[tuple[Any, int, str]] = [
    ({}, 400, "factory: known are broken, held, toy, wrong"),
    ({"factory": 3}, 400, "factory: known are"),
    ({"factory": "nothing"}, 404, "factory: known are"),
    ({"factory": "toy", "parameters": {"epochs": 0}}, 422, "Expected `int` >= 1 - at `$.epochs`"),
    ({"factory": "toy", "parameters": {"epochs": "3"}}, 422, "Expected `int`, got `str`"),
    ({"factory": "toy", "parameters": {"code": "x"}}, 422, "unknown field `code`"),
    ({"factory": "toy", "parameters": []}, 422, "Expected `object`"),
    ({"factory": "toy", "code": "x"}, 400, "'code': allowed are"),
    ([], 400, "send a JSON object"),
]


@pytest.mark.parametrize(("body", "status", "why"), BAD_STARTS)
def test_a_start_that_is_wrong_starts_nothing(
    client: httpx.Client, body: Any, status: int, why: str
) -> None:
    before = len(client.get("/runs").json()["runs"])
    answer = client.post("/runs", json=body)
    assert answer.status_code == status
    assert why in answer.json()["error"]
    assert len(client.get("/runs").json()["runs"]) == before


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"type": "UpdateState", "fn": "os.system"}', 422),
        (b'{"type": "SetLearningRate", "value": -1}', 422),
        (b'{"type": "SetLearningRate", "value": "NaN"}', 422),
        (b'{"type": "SetLearningRate"}', 422),
        (b'{"type": "EpochEnd", "logs": {}}', 422),
        (b'{"type": "Nothing"}', 422),
        (b'{"type": 3}', 422),
        (b"{}", 422),
        (b"[]", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[" * 60_000, 400),
        (b'{"type": "StopEpoch", "reason": "' + b"x" * 70_000 + b'"}', 413),
    ],
)
def test_a_control_that_is_wrong_changes_nothing(
    client: httpx.Client, body: bytes, status: int
) -> None:
    id = start(client, "toy", epochs=100_000)
    next(iter(read(client, id)))
    headers = {"Content-Type": "application/json"}
    answer = client.post(f"/runs/{id}/controls", content=body, headers=headers)
    assert (answer.status_code, bool(answer.json()["error"])) == (status, True)
    unknown = client.post(f"/runs/{id}/controls", content=body, headers={"Content-Type": "text/x"})
    assert unknown.status_code == 415
    assert send(client, id, type="StopTraining").status_code == 200
    assert [event["type"] for event in events(client, id, types="ControlApplied")] == [
        "ControlApplied",
        "ControlApplied",
    ]


def test_what_prometheus_reads(client: httpx.Client) -> None:
    id = start(client, "toy", epochs=2)
    events(client, id)
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    steps = {s.labels["run"]: s.value for s in families["fitbus_steps"].samples}
    assert steps[id] == 16
    states = {s.labels["status"]: s.value for s in families["fitbus_runs"].samples}
    assert states["completed"] >= 1
    logs = [s for s in families["fitbus_log"].samples if s.labels == {"run": id, "name": "loss"}]
    assert len(logs) == 1


def test_it_describes_itself(client: httpx.Client) -> None:
    """Validly, and all of it."""
    found = client.get("/openapi.json").json()
    openapi_spec_validator.validate(found)
    routes = [route for route in service.app().routes if isinstance(route, Route)]
    answered = {
        (route.path.replace(":path", ""), method.lower())
        for route in routes
        for method in (route.methods or set()) - {"HEAD"}
    }
    described = {
        (path, method)
        for path, methods in found["paths"].items()
        for method in methods
        if method != "parameters"
    }
    assert answered == described
    schemas = found["components"]["schemas"]
    assert schemas["toy"]["properties"]["epochs"]["minimum"] == 1
    assert "SetLearningRate" in schemas
    assert "UpdateState" not in schemas


def test_runs_of_the_application_are_shown_and_end_with_it() -> None:
    """Mounted in an application of one's own, which opens the runs."""
    runs = fitbus.Runs()
    begun = threading.Event()
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)

    @fitbus.handler(fitbus.EpochEnd)
    def begins(event: fitbus.EpochEnd) -> None:
        begun.set()

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with runs:
            yield

    async def train(_: Request) -> JSONResponse:
        run = runs.start(trainer, PROBLEM.x, PROBLEM.y, epochs=100_000, callbacks=[begins])
        return JSONResponse(run.id)

    app = service.app(runs, control_token=CONTROL)
    routes = [Route("/healthz", train), Mount("/training", app)]
    with serving(Starlette(routes=routes, lifespan=lifespan)) as client:
        (id,) = runs
        assert begun.wait(10)
        client.base_url = client.base_url.join("/training/")
        found = client.get(f"runs/{id}").json()
        assert (found["status"], found["factory"]) == ("running", "")
        assert send(client, id, type="SetLearningRate", value=0.01).status_code == 200
    assert runs[id].status == "stopped"
