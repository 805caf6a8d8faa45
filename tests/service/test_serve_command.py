"""`python -m fitbus serve`, in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import websockets.exceptions
import websockets.sync.client

from fitbus import TrainEnd, journal

from ._children import child, started, until

EVERYWHERE = "0.0.0.0"  # noqa: S104  # which is refused
MODULE = """
import fitbus
from fitbus.callbacks import Journal
from fitbus.service import Training
from fitbus.testing import toy_problem

problem = toy_problem(512)

def toy(epochs: int = 100_000) -> Training:
    trainer = fitbus.Trainer(problem.task, problem.params)
    options = {"batch_size": 64, "epochs": epochs, "callbacks": [Journal("journal")]}
    return Training(trainer, problem.x, problem.y, **options)

factories = {"toy": toy, "another": toy}
nothing = 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MODULE)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_seconds_though_a_run_trains_and_is_streamed(
    folder: Path, number: signal.Signals
) -> None:
    """Streams are let go of in good order, then the run is stopped; who waits is answered."""
    words = ("fitbus", "serve", "mine:factories", "--port", "0")
    with (
        child(*words, marks=["made for this start"], cwd=folder) as served,
        served.client() as client,
    ):
        assert "serving another, toy at http://127.0.0.1:" in served.said
        run, waiting = started(client, "toy"), started(client, "toy")
        waits = socket.create_connection((client.base_url.host, client.base_url.port or 80))
        waits.sendall(f"GET /runs/{waiting}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        with client.stream("GET", f"runs/{run}/events", params={"types": "EpochEnd"}) as answer:
            lines = answer.iter_lines()
            until(lines, "EpochEnd")
            address = f"{served.url}/runs/{run}/events?types=TrainEnd".replace("http", "ws")
            with (
                websockets.sync.client.connect(address) as web,
                client.stream("GET", f"runs/{run}/events", params={"types": "TrainEnd"}) as other,
            ):
                silent = other.iter_lines()
                until(silent, "retry")
                assert served.end(number) < 5
                with pytest.raises(websockets.exceptions.ConnectionClosedError, match="1012"):
                    web.recv()
                assert until(silent, "")[-2:] == [": the server ends", ""]
            assert until(lines, "")[-2:] == [": the server ends", ""]
        assert served.process.returncode == 0
        assert b": the server ends" in waits.makefile("rb").read()
        waits.close()
    end = list(journal.read(folder / "journal"))[-1]
    assert isinstance(end, TrainEnd)
    assert (end.run, end.reason, end.source) == (run, "stopped", "Runs")
    assert end.detail == "the service is shutting down"


def refused(folder: Path, *words: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "fitbus", "serve", *words],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.slow
def test_what_cannot_be_served_is_refused_with_the_remedy(folder: Path) -> None:
    assert "say who may read and who may steer" in refused(folder, "mine:toy", "--host", EVERYWHERE)
    tokens = {"FITBUS_READ_TOKEN": "to read at all", "FITBUS_CONTROL_TOKEN": "to steer as well"}
    why = refused(folder, "mine:toy", "--host", EVERYWHERE, **tokens)
    assert "--name runs.example.org" in why
    assert "is int; name a function" in refused(folder, "mine:nothing", "--port", "0")
    assert "mine has no 'toys'; it has toy" in refused(folder, "mine:toys", "--port", "0")


@pytest.mark.slow
def test_tokens_come_from_the_environment_and_are_told_nobody(folder: Path) -> None:
    tokens = {"FITBUS_READ_TOKEN": "to read at all", "FITBUS_CONTROL_TOKEN": "to steer as well"}
    words = ("fitbus", "serve", "mine.py:toy", "--port", "0")
    with child(
        *words, marks=["serving toy at"], cwd=folder, env={**os.environ, **tokens}
    ) as served:
        url = f"{served.url}/runs"
        assert httpx.get(url, trust_env=False).status_code == 401
        for token in (*tokens.values(), "a wrong one"):
            headers = {"Authorization": f"Bearer {token}", "X-Forwarded-For": "203.0.113.9"}
            found = httpx.get(url, headers=headers, trust_env=False)
            assert found.status_code == (401 if "wrong" in token else 200)
        served.end()
        assert '"status": 401' in served.said
        assert "203.0.113.9" not in served.said  # nobody says where he comes from
        secrets = (*tokens.values(), "wrong one")
        assert not [token for token in secrets if token in served.said]
