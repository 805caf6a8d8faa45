"""The command line and the demo, as a newcomer runs them: in a process of their own."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest


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
    assert "1,437 images to train on, 360 to test on" in out
    epochs = [int(found) for found in re.findall(r"reporter: epoch (\d+)", out)]
    assert epochs == list(range(1, len(epochs) + 1))
    bars = [int(found) for found in re.findall(r"^Epoch (\d+)/30: ", out, re.MULTILINE)]
    assert bars == epochs
    acknowledged = re.search(r"controller: learning rate set to 5e-4, .* at step (\d+)", out)
    assert acknowledged is not None
    assert 9 * 39 <= int(acknowledged[1]) < len(epochs) * 39
    assert "Training stopped: held-out accuracy is" in out
    accuracy = re.search(r"test accuracy +│ ([\d.]+)", out)
    assert accuracy is not None
    assert float(accuracy[1]) >= 0.95
    for row in ("steps a second", "event loop's lag", "reporter", "observer", "referee"):
        assert row in out
    observed = re.search(r"│ observer +│ +([\d,]+) +│ +0 ", out)
    assert observed is not None
    assert int(observed[1].replace(",", "")) == 39 * len(epochs)


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["rich", "sklearn"])
def test_without_the_extra_one_sentence_says_what_to_install(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None\nfrom fitbus.__main__ import main\nsys.exit(main(['demo']))"
    done = run(code=code)
    assert done.returncode == 1
    assert done.stdout == ""
    assert 'pip install "fitbus[demo]"' in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
