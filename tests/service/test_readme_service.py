"""The README's commands for a service, as they stand, against the one that they are for."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import anyio
import pytest

import fitbus
from fitbus import service

from ._children import child, until
from ._server import CONTROL, serving, toy

PAGE = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
MARKS = ["made for this start", "Uvicorn running on"]


@pytest.mark.slow
def test_the_commands_start_follow_steer_and_stop_a_run() -> None:
    (block,) = [b for b in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) if "curl" in b]
    serve, *commands = block.splitlines()
    module = serve.removeprefix("python -m ")
    with child(module, "0", marks=MARKS) as served:
        served.url = served.url.removeprefix("http://")
        settings = {**os.environ, "TOKEN": served.token, "NO_PROXY": "*"}

        def begun(command: str) -> subprocess.Popen[str]:
            assert command.startswith("curl -s"), "nobody runs the others"
            line = command.replace("localhost:8000", served.url)
            return subprocess.Popen(
                ["/bin/bash", "-c", f"exec {line}"], env=settings, stdout=subprocess.PIPE, text=True
            )

        def told(command: str) -> str:
            process = begun(command)
            out, _ = process.communicate(timeout=60)
            assert process.returncode == 0
            return out

        start, list_, follow, steer, stop, metrics = commands
        run = settings["RUN"] = json.loads(told(start))["id"]
        (listed,) = json.loads(told(list_))["runs"]
        assert (listed["id"], listed["factory"]) == (run, "digits")
        following = begun(follow)
        until(following.stdout, '"EpochEnd"')
        assert json.loads(told(steer))["status"] == "applied"
        assert json.loads(told(stop))["status"] == "applied"
        rest = following.communicate(timeout=60)[0]
        assert rest.endswith("event: end\ndata: {}\n\n")
        assert f'fitbus_steps_total{{run="{run}"}}' in told(metrics)


def test_the_program_of_a_client_steers_a_run_from_elsewhere() -> None:
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "client.c" in b]
    program: dict[str, Any] = {"fitbus": fitbus}
    exec(block, program)  # noqa: S102  # the README's own program
    app = service.app(None, {"toy": toy}, control_token=CONTROL)
    with serving(app) as http:
        body = {"factory": "toy", "parameters": {"epochs": 100_000}}
        run = http.post("/runs", json=body).json()["id"]
        url = str(http.base_url.join(f"/runs/{run}"))
        assert anyio.run(program["halve_at"], url, CONTROL, 1.0) > 0
        http.post(f"/runs/{run}/controls", json={"type": "StopTraining", "reason": "over"})
