"""`python -m fitbus watch` and `send`: a run of a real service, from a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

import fitbus
from fitbus import service
from fitbus.__main__ import main
from fitbus._remote_commands import View, sparkline

from ._server import CONTROL, READ, serving, toy


@pytest.fixture(scope="module")
def server() -> Iterator[httpx.Client]:
    app = service.app(None, {"toy": toy}, read_token=READ, control_token=CONTROL, max_running=8)
    app.state.fitbus.rights._buckets._per_s = 1e9
    with serving(app) as client:
        yield client


@pytest.fixture
def url(server: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of a long run; the token is in the environment."""
    monkeypatch.setenv("FITBUS_TOKEN", CONTROL)
    body = {"factory": "toy", "parameters": {"epochs": 100_000}}
    id = server.post("/runs", json=body).json()["id"]
    with server.stream("GET", f"/runs/{id}/events") as events:  # once it runs
        next(line for line in events.iter_lines() if line.startswith("data"))
    yield str(server.base_url.join(f"/runs/{id}"))
    server.post(f"/runs/{id}/controls", json={"type": "StopTraining", "reason": "over"})


def test_a_run_is_steered(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The step is told, what was rejected says why, and the status tells which it was."""
    assert main(["send", url, "set-learning-rate", "0.01"]) == 0
    assert capsys.readouterr().out.startswith("SetLearningRate acted at step ")
    assert main(["send", url, "resume"]) == 1
    assert capsys.readouterr().err == "fitbus: Resume was rejected: the run isn't paused\n"
    assert main(["send", url, "pause"]) == 0
    assert main(["send", url, "resume"]) == 0
    assert main(["send", url, "scale-learning-rate", "0.5"]) == 0
    assert main(["send", url, "evaluate"]) == 1
    assert main(["send", url, "stop", "enough"]) == 0
    assert main(["watch", url, "--json", "--types", "TrainEnd"]) == 0
    end = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (end["reason"], end["detail"]) == ("stopped", "enough")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["set-learning-rate"], "found 0 arguments; give VALUE"),
        (["set-learning-rate", "-1"], "give a finite number of at least 0"),
        (["set-learning-rate", "much"], "could not convert string to float: 'much'"),
        (["pause", "now"], "found 1 arguments; give none"),
        (["dance"], "invalid choice: 'dance'"),
    ],
)
def test_what_makes_no_sense_is_not_sent(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["send", "http://127.0.0.1:1/runs/none", *arguments])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_who_cannot_steer_or_be_reached(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["send", url, "pause", "--token", READ]) == 1
    assert "this token may only read" in capsys.readouterr().err
    assert main(["watch", url, "--json", "--token", "not-the-token"]) == 2
    assert "401" in capsys.readouterr().err
    assert main(["watch", f"{url}x", "--json"]) == 2
    assert "there is no run" in capsys.readouterr().err
    assert main(["watch", "http://127.0.0.1:1/runs/none", "--json"]) == 2
    assert "can't be reached" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_is_watched_to_its_end(url: str) -> None:
    """As a table, by a process of its own; by a pipe, of which nobody reads all."""
    command = [sys.executable, "-m", "fitbus", "watch", url]
    environment = {**os.environ, "FITBUS_TOKEN": CONTROL}
    piped = subprocess.Popen(
        [*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert piped.stdout is not None
    assert json.loads(piped.stdout.readline())["type"] == "TrainBegin"
    piped.stdout.close()  # as `| head -1` does
    watching = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, encoding="utf-8")
    assert piped.wait(30) == 0
    assert piped.stderr is not None
    assert piped.stderr.read() == b""
    piped.stderr.close()
    assert main(["send", url, "stop", "seen enough"]) == 0
    shown, _ = watching.communicate(timeout=30)
    assert watching.returncode == 0
    for told in ("stopped seen enough", "StopTraining(", "loss  ", "epoch "):
        assert told in shown


def test_what_is_shown_of_a_run_that_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    """The view takes any handle; what isn't finite has no place in the curve."""
    from rich.console import Console

    from fitbus.testing import toy_problem

    problem = toy_problem(64)
    trainer = fitbus.Trainer(problem.task, problem.params)
    run = trainer.run(problem.x, problem.y, batch_size=16, epochs=2)
    view = View(run)
    for event in (
        fitbus.TrainBegin(epochs=2, steps_per_epoch=4, initial_epoch=0),
        fitbus.BatchEnd(batch=1, logs={"loss": 2.0}, batch_logs={"loss": 2.0}),
        fitbus.BatchEnd(batch=2, logs={"loss": 1.5}, batch_logs={"loss": float("inf")}),
        fitbus.Lagged(subscriber="s", count=3, first_seq=4, last_seq=6),
    ):
        view.take(event)
    Console(width=80).print(view.drawn())
    shown = capsys.readouterr().out
    for told in (f"{run.id}, pending", "0 of 2", "batch 3 of 4", "3 events are missing", "▁"):
        assert told in shown


def test_a_curve_has_a_place_for_each_mean() -> None:
    assert sparkline([1.0] * 5, 3) == "▁▁▁"
    assert sparkline([4, 3, 2, 1], 4) == "█▆▃▁"
    assert sparkline([float("nan")], 4) == ""
    assert len(sparkline(range(1000), 60)) <= 60
