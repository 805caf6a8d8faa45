"""`stop_on_signals`: what a signal does to a training, and what it does after that.

Scenario 28.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import fitbus
from fitbus.callbacks import BackupAndRestore
from fitbus.errors import FitbusError, InvalidArgumentError
from fitbus.testing import EventRecorder, toy_problem

PROBLEM = toy_problem(72, 5)

PROGRAM = """
import json, signal, sys
import anyio
import numpy as np
import fitbus
from fitbus.callbacks import BackupAndRestore, CSVLogger
from fitbus.testing import toy_problem

folder, loop = sys.argv[1:]
problem = toy_problem(72, 5)
trainer = fitbus.Trainer(problem.task, problem.params, seed=11)

def tell(event: fitbus.BatchEnd) -> None:
    print(f"step {event.step}", flush=True)

async def main():
    run = trainer.run(
        problem.x, problem.y, batch_size=8, epochs=400,
        callbacks=[BackupAndRestore(f"{folder}/backup"), CSVLogger(f"{folder}/log.csv"), tell],
    )
    async with fitbus.stop_on_signals(run), run:
        await run.wait()
        print("over", flush=True)
    print("left", flush=True)

signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started it may ignore it
anyio.run(
    main,
    backend="trio" if loop == "trio" else "asyncio",
    backend_options={"use_uvloop": True} if loop == "uvloop" else {},
)
params = trainer.state.params
print(json.dumps({
    "params": {name: np.asarray(params[name]).tobytes().hex() for name in sorted(params)},
    "step": int(trainer.state.step),
    "csv": open(f"{folder}/log.csv").read(),
}))
"""
STEPS = 9 * 400


def started(folder: Path, loop: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(folder), loop],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )


def finished(folder: Path, loop: str) -> tuple[list[str], Any]:
    """What a process that nobody disturbs prints."""
    with started(folder, loop) as process:
        out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    *lines, result = out.splitlines()
    return lines, json.loads(result)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return finished(tmp_path_factory.mktemp("undisturbed"), "asyncio")[1]


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_process_goes_on_where_it_was_bit_for_bit(
    tmp_path: Path, undisturbed: Any, loop: str, number: signal.Signals
) -> None:
    """After the step in which the signal came; and it ends as one that such a signal ends."""
    with started(tmp_path, loop) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line.strip())
            if line == "step 20\n":
                process.send_signal(number)
        error = process.stderr.read()
        assert process.wait(60) == -number, error
    assert lines[-1] == "over"
    assert ("KeyboardInterrupt" in error) is (number == signal.SIGINT)
    last = int(lines[-2].removeprefix("step "))
    assert 20 <= last < STEPS
    rest, result = finished(tmp_path, loop)
    assert rest == [*(f"step {step}" for step in range(last + 1, STEPS + 1)), "over", "left"]
    assert result == undisturbed


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """What a service's own handlers hear; they are put back."""
    numbers: list[int] = []
    chosen = (signal.SIGTERM, signal.SIGUSR1)
    before = {n: signal.signal(n, lambda number, _: numbers.append(number)) for n in chosen}
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


def new_run(*callbacks: Any, epochs: int = 10**6) -> fitbus.Run[fitbus.History]:
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    return trainer.run(PROBLEM.x, PROBLEM.y, batch_size=8, epochs=epochs, callbacks=callbacks)


@pytest.mark.anyio
async def test_the_signal_takes_its_course_when_the_run_has_ended(heard: list[int]) -> None:
    """By the handler of before, which is back; only the signals that were named are touched."""
    recorder = EventRecorder()
    run = new_run(recorder)
    others = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGUSR1)]
    mine = signal.getsignal(signal.SIGTERM)
    async with fitbus.stop_on_signals(run, signal.SIGTERM):
        assert signal.getsignal(signal.SIGTERM) is not mine
        async with run:
            await run.wait_for(fitbus.BatchEnd)
            signal.raise_signal(signal.SIGTERM)
            await run.wait()
        assert heard == []
    assert heard == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is mine
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGUSR1)] == others
    (end,) = recorder.of(fitbus.TrainEnd)
    assert (end.reason, end.detail, end.source) == ("stopped", "SIGTERM", "SIGTERM")


@pytest.mark.anyio
async def test_a_body_that_is_through_waits_for_the_run_first(heard: list[int]) -> None:
    async with new_run() as run:
        async with fitbus.stop_on_signals(run, signal.SIGUSR1):
            await run.wait_for(fitbus.BatchEnd)
            signal.raise_signal(signal.SIGUSR1)
            await anyio.lowlevel.checkpoint()
        assert run.status == "stopped"
    assert heard == [signal.SIGUSR1]


@pytest.mark.anyio
async def test_a_body_that_waits_for_something_else_is_not_waited_for() -> None:
    """A server that serves on: its own handler hears of the signal soon after the run's end."""
    heard, status = anyio.Event(), list[str]()

    def hear(number: int, frame: object) -> None:
        status.append(run.status)
        heard.set()

    mine = signal.signal(signal.SIGUSR1, hear)
    try:
        async with fitbus.Runs() as runs, fitbus.stop_on_signals(runs, signal.SIGUSR1):
            run = runs.start(new_run().trainer, PROBLEM.x, PROBLEM.y, epochs=10**6)
            await run.wait_for(fitbus.BatchEnd)
            signal.raise_signal(signal.SIGUSR1)
            with anyio.fail_after(20):
                await heard.wait()
    finally:
        signal.signal(signal.SIGUSR1, mine)
    assert status == ["stopped"]


@pytest.mark.anyio
async def test_what_the_run_failed_with_is_logged_before_the_signal_takes_its_course(
    heard: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """Since nobody may be left afterwards to tell."""

    def fails(event: fitbus.TrainEnd) -> None:
        raise OSError("the disk is full")

    run = new_run(fails)

    async def body() -> None:
        async with fitbus.stop_on_signals(run, signal.SIGTERM), run:
            await run.wait_for(fitbus.BatchEnd)
            signal.raise_signal(signal.SIGTERM)
            await run.wait()

    with pytest.raises(OSError, match="the disk is full"):
        await body()
    assert heard == [signal.SIGTERM]
    assert "was to stop at SIGTERM, and failed" in caplog.text
    assert "the disk is full" in caplog.text


@pytest.mark.anyio
async def test_a_second_signal_takes_its_course_at_once(heard: list[int]) -> None:
    async with new_run() as run, fitbus.stop_on_signals(run, signal.SIGTERM, signal.SIGUSR1):
        signal.raise_signal(signal.SIGTERM)
        assert heard == []
        signal.raise_signal(signal.SIGUSR1)
        assert heard == [signal.SIGUSR1]
    assert heard == [signal.SIGUSR1, signal.SIGTERM]


@pytest.mark.anyio
async def test_without_a_signal_nothing_happens(heard: list[int]) -> None:
    mine = signal.getsignal(signal.SIGTERM)
    run = new_run(epochs=1)

    async def fails() -> None:
        async with fitbus.stop_on_signals(run), run:
            await run.wait()
            raise RuntimeError("the body's own")

    with pytest.raises(RuntimeError, match="the body's own"):
        await fails()
    assert (run.status, heard) == ("completed", [])
    assert signal.getsignal(signal.SIGTERM) is mine


@pytest.mark.anyio
async def test_all_runs_of_a_service_are_interrupted(heard: list[int], tmp_path: Path) -> None:
    """And can go on: their backups are kept."""
    async with fitbus.Runs() as runs:
        async with fitbus.stop_on_signals(runs, signal.SIGTERM):
            started = [
                runs.start(
                    fitbus.Trainer(PROBLEM.task, PROBLEM.params),
                    *(PROBLEM.x, PROBLEM.y),
                    batch_size=8,
                    epochs=10**6,
                    callbacks=[BackupAndRestore(tmp_path / name)],
                )
                for name in "ab"
            ]
            for run in started:
                await run.wait_for(fitbus.BatchEnd)
            signal.raise_signal(signal.SIGTERM)
            await anyio.lowlevel.checkpoint()
        assert [run.status for run in started] == ["stopped", "stopped"]
    assert heard == [signal.SIGTERM]
    assert all(list((tmp_path / name).glob("backup-*")) for name in "ab")


@pytest.mark.anyio
async def test_bad_arguments_are_refused_and_leave_no_handler(heard: list[int]) -> None:
    mine = signal.getsignal(signal.SIGTERM)
    run = new_run(epochs=1)
    wrong: list[tuple[tuple[Any, ...], str]] = [
        ((None,), r"^run: found None"),
        ((run, signal.SIGTERM, "SIGTERM"), r"^signals: found 'SIGTERM'"),
        ((run, signal.SIGTERM, signal.SIGKILL), r"^signals: found "),
    ]
    for given, says in wrong:
        with pytest.raises(InvalidArgumentError, match=says):
            async with fitbus.stop_on_signals(*given):
                raise AssertionError("it was entered")
    assert signal.getsignal(signal.SIGTERM) is mine
    assert heard == []


def test_outside_the_main_thread_it_says_what_to_do() -> None:
    errors: list[BaseException] = []

    async def main() -> None:
        try:
            async with fitbus.stop_on_signals(new_run(epochs=1)):
                pass
        except FitbusError as error:
            errors.append(error)

    thread = threading.Thread(target=anyio.run, args=(main,))
    thread.start()
    thread.join(30)
    (error,) = errors
    assert "main thread" in str(error)
    assert "StopTraining(resumable=True)" in str(error)
