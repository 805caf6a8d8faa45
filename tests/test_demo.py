"""The command line and the demo, as a newcomer runs them: in a process of their own."""

from __future__ import annotations

import re
import subprocess
import sys

import httpx
import pytest

from fitbus.examples import demo

from .service._children import child, until


def run(*arguments: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
    command = ["-m", "fitbus"] if code is None else ["-c", code]
    return subprocess.run(
        [sys.executable, *command, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
def test_without_arguments_it_says_what_there_is() -> None:
    done = run()
    assert done.returncode == 0
    for name in ("demo", "keras_guide", "loop_by_hand", "two_optimizers"):
        assert re.search(rf"^  {name} +\S", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.slow
def test_a_wrong_command_names_those_there_are() -> None:
    done = run("dmeo")
    assert done.returncode == 2
    assert "demo" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
def test_the_demo_shows_all_that_it_promises(loop: str) -> None:
    done = run("demo", "--quick", "--loop", loop)
    out = done.stdout
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "1,200 images to train, 237 held out,\n360 for a test at the end" in out
    reports = re.findall(r"^report +step +([\d,]+)  epoch +(\d+)  loss", out, re.MULTILINE)
    epochs = [int(epoch) for _, epoch in reports]
    assert epochs == list(range(1, len(epochs) + 1))
    steps = [int(step.replace(",", "")) for step, _ in reports]
    assert steps == [150 * epoch for epoch in epochs]
    asked = re.search(r"(?m)^controller +step +([\d,]+)  asks to lower .* to 2e-05$", out)
    applied = re.search(r"(?m)^controller +step +([\d,]+)  acknowledged", out)
    assert asked is not None
    assert applied is not None
    assert 0 < int(asked[1].replace(",", "")) <= int(applied[1].replace(",", "")) <= steps[-1]
    assert "training stopped: no better on held-out images for 5 epochs." in out
    accuracy = re.search(r"test accuracy +│ +([\d.]+)", out)
    assert accuracy is not None
    assert float(accuracy[1]) >= 0.95
    for row in ("steps a second", "event loop's lag", "│ report ", "│ watcher ", "│ referee "):
        assert row in out
    watched = re.search(r"│ watcher +│ +([\d,]+) +│ +0 ", out)
    assert watched is not None
    assert int(watched[1].replace(",", "")) == steps[-1]


@pytest.mark.slow
def test_the_demo_shows_its_run_on_a_page_and_ends_by_itself() -> None:
    words = ("fitbus", "demo", "--quick", "--serve")
    with child(*words, marks=["steer it with the token"]) as served:
        (token,) = re.findall(r"steer it with the token (\S+)", served.said)
        (run,) = re.findall(r"#run=(\w+)", served.said)
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=served.url, headers=headers, trust_env=False) as client:
            assert client.get("/").text.startswith("<!doctype html>")
            with client.stream("GET", f"/runs/{run}/events", timeout=60) as answer:
                lines = answer.iter_lines()
                until(lines, "EpochEnd")
                rate = {"type": "SetLearningRate", "value": 1e-4}
                applied = client.post(f"/runs/{run}/controls", json=rate)
                assert applied.json()["status"] == "applied"
                until(lines, "TrainEnd")
        served.wait()
        assert served.process.returncode == 0
        assert "test accuracy" in served.said


def test_the_page_of_the_demo_needs_the_loop_of_its_server() -> None:
    with pytest.raises(SystemExit):
        demo.main(["--serve", "--loop", "trio"])


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["rich", "sklearn"])
def test_without_the_extra_one_sentence_says_what_to_install(missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from fitbus.__main__ import main\nsys.exit(main(['demo']))"
    )
    done = run(code=code)
    assert done.returncode == 1
    assert done.stdout == ""
    assert 'pip install "fitbus[demo]"' in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
