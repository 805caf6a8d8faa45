"""The example services, in processes of their own, as a browser and an operator meet them."""

from __future__ import annotations

import signal

import httpx
import pytest

from ._children import child, started, until

# What the server says, and how a process ends whose server raises the signal again.
SERVERS = {
    "service_fastapi": ("Uvicorn running on", -signal.SIGTERM),
    "service_starlette": ("Running on", 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVERS)
def test_a_service_trains_on_request_answers_others_and_ends_in_seconds(name: str) -> None:
    mark, status = SERVERS[name]
    words = (f"fitbus.examples.{name}", "0")
    with child(*words, marks=["made for this start", mark]) as served, served.client() as client:
        assert client.get("training/healthz").json() == {"status": "ok"}
        training = client.base_url.join("/training/")
        with httpx.Client(base_url=training, headers=client.headers, timeout=60) as steering:
            run = started(steering, "digits", epochs=100_000)
            query = {"types": "EpochEnd"}
            with steering.stream("GET", f"runs/{run}/events", params=query) as answer:
                until(answer.iter_lines(), "EpochEnd")
            assert client.get("steps").json()[run] > 0
            stop = {"type": "StopTraining", "reason": "seen enough"}
            assert steering.post(f"runs/{run}/controls", json=stop).json()["status"] == "applied"
            with steering.stream(
                "GET", f"runs/{run}/events", params={"types": "TrainEnd"}
            ) as answer:
                assert "seen enough" in until(answer.iter_lines(), "TrainEnd")[-1]
            again = started(steering, "digits", epochs=100_000)
            with steering.stream("GET", f"runs/{again}/events", params=query) as answer:
                lines = answer.iter_lines()
                until(lines, "EpochEnd")
                assert served.end() < 5
                assert until(lines, "")[-2:] == [": the server ends", ""]
        assert served.process.returncode == status, served.said
        assert "Traceback" not in served.said
