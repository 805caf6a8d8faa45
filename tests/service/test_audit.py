"""Who did what, and who was refused: told on the logger `fitbus.audit`, and in the journal."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import HTTPConnection

import fitbus
from fitbus import ControlApplied, service
from fitbus.callbacks import Journal
from fitbus.service import Training

from ._server import CONTROL, PROBLEM, READ, bearer, serving

JOURNALS: list[Path] = []


def written() -> Training:
    """Writes a journal."""
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    options: Any = {"epochs": 100_000, "batch_size": 64, "callbacks": [Journal(JOURNALS[-1])]}
    return Training(trainer, PROBLEM.x, PROBLEM.y, **options)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    caplog.set_level(logging.INFO)

    def found() -> list[dict[str, Any]]:
        records = [record for record in caplog.records if record.name == "fitbus.audit"]
        return [json.loads(record.getMessage()) for record in records]

    yield found
    own = [r for r in caplog.get_records("call") if not r.name.startswith(("httpx", "httpcore"))]
    assert own
    said = "".join(record.getMessage() for record in own)
    assert not [token for token in (READ, CONTROL, "guessed") if token in said]


def sources(id: str) -> list[str]:
    events = fitbus.journal.read(JOURNALS[-1], run=id)
    return [event.source for event in events if isinstance(event, ControlApplied)]


def test_who_did_what_is_in_the_log_and_in_the_journal(lines: Any, tmp_path: Path) -> None:
    JOURNALS.append(tmp_path)
    app = service.app(None, {"written": written}, read_token=READ, control_token=CONTROL)
    with serving(app) as client:
        id = client.post("/runs", json={"factory": "written"}).json()["id"]
        with client.stream("GET", f"/runs/{id}/events") as answer:
            assert any("EpochEnd" in line for line in answer.iter_lines())
        for control, status in (("SetLearningRate", 200), ("Evaluate", 409), ("StopTraining", 200)):
            body = {"type": control} | ({"value": 0.01} if control == "SetLearningRate" else {})
            assert client.post(f"/runs/{id}/controls", json=body).status_code == status
        with client.stream("GET", f"/runs/{id}/events", params={"types": "TrainEnd"}) as answer:
            assert "StopTraining" not in answer.read().decode()
        assert client.post("/session", json={"token": READ}).status_code == 200
    by: dict[str, Any] = {"address": "127.0.0.1", "who": "control token"}
    told = lines()
    assert told[0] == {"event": "start", **by, "run": id, "factory": "written"}
    steps = [line.pop("step") for line in told if "step" in line]
    acted: dict[str, Any] = {"event": "control", **by, "run": id, "status": "applied"}
    assert told[1] == {**acted, "control": "SetLearningRate"}
    assert (told[2]["event"], told[2]["status"]) == ("refused", 409)
    assert told[2]["path"] == f"/runs/{id}/controls"
    assert told[3] == {**acted, "control": "StopTraining"}
    assert told[4] == {"event": "sign in", "address": "127.0.0.1", "who": "read token"}
    assert steps == sorted(steps)
    assert sources(id) == ["http 127.0.0.1 (control token)"] * 2


def test_the_application_says_who_it_was(lines: Any, tmp_path: Path) -> None:
    """By its own name for the user, which is told where the token otherwise is."""
    JOURNALS.append(tmp_path)

    def named(connection: HTTPConnection) -> tuple[service.Access, str]:
        return "control", connection.headers["x-user"]

    with serving(service.app(None, {"written": written}, authorize=named)) as client:
        client.headers["x-user"] = "ada"
        id = client.post("/runs", json={"factory": "written"}).json()["id"]
        with client.stream("GET", f"/runs/{id}/events") as answer:
            assert any("EpochEnd" in line for line in answer.iter_lines())
        assert client.post(f"/runs/{id}/controls", json={"type": "StopTraining"}).is_success
        with client.stream("GET", f"/runs/{id}/events", params={"types": "TrainEnd"}) as answer:
            answer.read()
    assert [line["who"] for line in lines()] == ["ada", "ada"]
    assert sources(id) == ["http 127.0.0.1 (ada)"]


def test_those_who_are_refused_are_told_but_cannot_flood_the_log(lines: Any) -> None:
    app = service.app(None, {}, read_token=READ, control_token=CONTROL)
    audit = app.state.fitbus.audit
    with (
        serving(app) as client,
        httpx.Client(base_url=client.base_url, trust_env=False) as other,
    ):
        other.get("/runs?token=guessed", headers=bearer("guessed"))
        other.post("/session", json={"token": "guessed"})
        other.get("/runs", headers={"Host": "evil.example"})
        other.get("/runs/none", headers=bearer(READ))
        assert [(line["path"], line["status"]) for line in lines()] == [
            ("/runs", 401),
            ("/session", 401),
            ("/runs", 421),
        ], "reading what isn't there is no attempt at anything"
        for _ in range(200):
            other.get("/runs")
        audit._left = 1.0
        other.get("/runs")
    told = lines()
    assert len(told) < 150
    assert len(told) + sum(line.get("untold", 0) for line in told) == 3 + 200 + 1
