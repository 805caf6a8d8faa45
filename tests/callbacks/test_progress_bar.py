"""The progress bar, in a terminal and in a file."""

from __future__ import annotations

import io
import re
import subprocess
import sys

import anyio
import pytest
from rich.console import Console

import fitbus
from fitbus import BatchEnd, EpochEnd, TestBegin
from fitbus.callbacks import ProgressBar
from fitbus.testing import ToyProblem, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(256)
SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


@pytest.fixture(scope="module")
def problem() -> ToyProblem:
    return PROBLEM


@pytest.fixture(scope="module")
def trainer() -> fitbus.Trainer:
    return fitbus.Trainer(PROBLEM.task, PROBLEM.params)


def terminal() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=True, width=160, color_system=None), file


def plain() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=160), file


def frames(text: str) -> list[str]:
    """What was drawn, line by line, without the terminal's own codes."""
    return [line.strip() for line in re.split(r"\r|\n", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text))]


async def test_without_a_terminal_it_prints_a_line_an_epoch(
    trainer: fitbus.Trainer, problem: ToyProblem
) -> None:
    console, file = plain()
    await trainer.fit(
        problem.x, problem.y, epochs=3, validation_split=0.25, callbacks=[ProgressBar(console)]
    )
    lines = file.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == ["Epoch 1/3", "Epoch 2/3", "Epoch 3/3"]
    assert all("val_loss=" in line and "loss=" in line for line in lines)


async def test_in_a_terminal_each_epoch_ends_with_a_full_bar_and_its_logs(
    trainer: fitbus.Trainer, problem: ToyProblem
) -> None:
    console, file = terminal()
    history = await trainer.fit(
        problem.x, problem.y, epochs=2, callbacks=[ProgressBar(console)]
    )
    drawn = [line for line in frames(file.getvalue()) if "8/8" in line]
    for epoch in (1, 2):
        mine = [line for line in drawn if line.startswith(f"Epoch {epoch}/2")]
        assert mine
        assert "steps/s" in mine[-1]
        assert "loss=" in mine[-1]
    assert len(history.epoch) == 2
    assert file.getvalue().count(HIDE_CURSOR) == file.getvalue().count(SHOW_CURSOR)


async def test_it_draws_at_most_twice_a_second(
    trainer: fitbus.Trainer, problem: ToyProblem
) -> None:
    console, file = terminal()
    await trainer.fit(
        problem.x, problem.y, batch_size=2, epochs=1, callbacks=[ProgressBar(console)]
    )
    partial = {line for line in frames(file.getvalue()) if re.search(r" [1-9]\d*/128 ", line)}
    seconds = 0.5 * len(partial)
    assert len(partial) <= 2 + 2 * seconds
    assert len(partial) < 20  # of 128 batches


async def test_an_unknown_number_of_batches_is_learned_from_the_first_epoch(
    trainer: fitbus.Trainer, problem: ToyProblem
) -> None:
    def batches() -> object:
        return iter([(problem.x[i : i + 32], problem.y[i : i + 32]) for i in range(0, 256, 32)])

    console, file = terminal()
    await trainer.fit(batches, epochs=2, callbacks=[ProgressBar(console)])
    begun = [line for line in frames(file.getvalue()) if line.startswith("Epoch 2/2")]
    assert "0/8" in begun[0]


async def test_validation_is_silent_and_evaluation_and_prediction_show(
    trainer: fitbus.Trainer, problem: ToyProblem
) -> None:
    console, file = plain()
    bar = ProgressBar(console)
    await trainer.fit(problem.x, problem.y, validation_split=0.5, callbacks=[bar])
    assert "Evaluating" not in file.getvalue()
    await trainer.evaluate(problem.x, problem.y, callbacks=[bar])
    await trainer.predict(problem.x, callbacks=[bar])
    evaluated, predicted = file.getvalue().splitlines()[-2:]
    assert evaluated.startswith("Evaluating")
    assert "loss=" in evaluated
    assert predicted.startswith("Predicting")
    assert "=" not in predicted


async def test_training_does_not_wait_for_its_batches(
    trainer: fitbus.Trainer, problem: ToyProblem
) -> None:
    bar = ProgressBar(plain()[0])
    run = trainer.run(problem.x, problem.y, callbacks=[bar])
    async with run:
        await run.wait()
    assert run.report is not None
    (entry,) = run.report.subscribers
    assert entry.name == "ProgressBar"
    assert entry.undelivered == 0


@pytest.mark.parametrize("ending", ["error", "cancelled"])
async def test_the_terminal_is_left_as_it_was_after(
    ending: str, trainer: fitbus.Trainer, problem: ToyProblem
) -> None:
    console, file = terminal()

    async def end(event: BatchEnd) -> None:
        if ending == "error":
            raise ValueError("an error of its own")
        scope.cancel()

    with anyio.CancelScope() as scope:
        try:
            await trainer.fit(
                problem.x, problem.y, epochs=10**6, callbacks=[ProgressBar(console), end]
            )
        except ValueError:
            assert ending == "error"
    assert scope.cancelled_caught == (ending == "cancelled")
    text = file.getvalue()
    assert text.count(HIDE_CURSOR) == text.count(SHOW_CURSOR) > 0


async def test_the_terminal_is_left_as_it_was_after_a_failed_evaluation(
    trainer: fitbus.Trainer, problem: ToyProblem
) -> None:
    console, file = terminal()

    def fail(event: TestBegin) -> None:
        raise ValueError("an error of its own")

    with pytest.raises(ValueError, match="its own"):
        await trainer.evaluate(problem.x, problem.y, callbacks=[ProgressBar(console), fail])
    text = file.getvalue()
    assert text.count(HIDE_CURSOR) == text.count(SHOW_CURSOR) > 0


async def test_verbose_adds_one(
    trainer: fitbus.Trainer, problem: ToyProblem, capsys: pytest.CaptureFixture[str]
) -> None:
    await trainer.fit(problem.x, problem.y, verbose=1)
    assert "Epoch 1/1" in capsys.readouterr().out


async def test_it_adds_no_name_to_the_logs(trainer: fitbus.Trainer, problem: ToyProblem) -> None:
    seen: list[list[str]] = []

    def look(event: EpochEnd) -> None:
        seen.append(list(event.logs))

    history = await trainer.fit(
        problem.x, problem.y, callbacks=[ProgressBar(plain()[0]), look]
    )
    assert seen == [list(history.history)]


@pytest.mark.slow
def test_without_rich_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['rich'] = None\n"
        "from fitbus.callbacks import ProgressBar\n"
        "ProgressBar()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert 'FitbusError: ProgressBar needs rich; install it with `pip install "fitbus[demo]"`' in (
        done.stderr
    )
