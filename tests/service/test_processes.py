"""A service whose runs train in processes of their own."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from fitbus import service
from fitbus.errors import InvalidArgumentError

from ._server import CONTROL, serving, toy

pytestmark = pytest.mark.slow


def broken() -> service.Training:
    """Can't be made."""
    raise RuntimeError("the secret of the house")


def test_runs_train_in_processes_and_are_steered_as_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Started, streamed, steered, counted and stopped; one that fails, and one at the shutdown."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parents[2])])
    app = service.app(
        None, {"toy": toy, "broken": broken}, control_token=CONTROL, max_running=2, processes=True
    )
    launches = app.state.fitbus.launches
    with serving(app) as client:

        def start(factory: str, **parameters: Any) -> str:
            asked = {"factory": factory, "parameters": parameters}
            id: str = client.post("/runs", json=asked).json()["id"]
            return id

        id = start("toy", epochs=100_000)
        seqs: list[int] = []
        kinds: list[str] = []
        with client.stream("GET", f"/runs/{id}/events") as answer:
            for line in answer.iter_lines():
                if not line.startswith("data: "):
                    continue
                event = json.loads(line.removeprefix("data: "))
                seqs.append(event.get("seq", -1))
                kinds.append(event.get("type", ""))
                if kinds.count("BatchEnd") == 1 and kinds[-1] == "BatchEnd":
                    run = launches[id].run
                    assert run.pid != os.getpid()
                    control = {"type": "SetLearningRate", "value": 0.25}
                    steered = client.post(f"/runs/{id}/controls", json=control)
                    assert steered.status_code == 200, steered.text
                    assert steered.json()["step"] >= 1
                    stop = client.post(f"/runs/{id}/controls", json={"type": "StopTraining"})
                    assert stop.status_code == 200
                if kinds[-1] == "TrainEnd":
                    break
        assert seqs == list(range(len(seqs)))
        assert kinds.count("ControlApplied") == 3  # with the one of the factory's own handler
        shown = client.get(f"/runs/{id}").json()
        assert shown["epochs"] == 100_000
        assert shown["step"] > 0
        assert f'fitbus_log{{name="loss",run="{id}"}}' in client.get("/metrics").text

        failed = start("broken")
        with client.stream("GET", f"/runs/{failed}/events") as answer:
            assert any("TrainEnd" in line for line in answer.iter_lines())
        told = client.get(f"/runs/{failed}").json()
        assert (told["status"], told["error"]) == ("failed", "ChildError")
        assert "secret" not in json.dumps(told)

        last = start("toy", epochs=100_000)
        with client.stream("GET", f"/runs/{last}/events") as answer:
            assert any("BatchEnd" in line for line in answer.iter_lines())
        run = launches[last].run
    assert run.status == "stopped"
    with pytest.raises(ProcessLookupError):
        os.kill(run.pid, 0)


def test_a_factory_that_no_process_could_import_is_refused() -> None:
    def local() -> service.Training:
        return toy()

    with pytest.raises(InvalidArgumentError, match=r"^factory: .*module"):
        service.app(None, {"toy": local}, processes=True)
