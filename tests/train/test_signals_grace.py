"""`stop_on_signals` and runs that don't end: what stands still is given up, what gets on isn't."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import fitbus
from fitbus.callbacks import BackupAndRestore
from fitbus.callbacks._backup_file import BackupFiles
from fitbus.errors import InvalidArgumentError, RunCancelledError, ThreadStuckError
from fitbus.testing import EventRecorder, Gate, toy_problem

PROBLEM = toy_problem(64, 4)
X, Y = PROBLEM.x, PROBLEM.y
GRACE_S = 0.3
LONGER_S = 0.6  # for what gets on, however slow the machine is

PROGRAM = """
import logging, signal, sys, threading, time
import anyio
import fitbus
from fitbus.testing import toy_problem

loop, what = sys.argv[1:]
problem = toy_problem(64, 4)
trainer = fitbus.Trainer(problem.task, problem.params)
never = threading.Event()

def stuck():
    print("stuck", flush=True)
    never.wait()

def batches():
    yield problem.x[:32], problem.y[:32]
    if what == "source":
        stuck()
    while True:
        yield problem.x[:32], problem.y[:32]

def hang(event: fitbus.BatchEnd) -> None:
    if what == "handler":
        stuck()

async def wait(event: fitbus.EpochBegin) -> None:
    if what == "async handler":
        print("stuck", flush=True)
        await anyio.sleep_forever()
    if what == "loop":
        stuck()

async def main():
    run = trainer.run(batches, steps_per_epoch=2, epochs=3, callbacks=[hang, wait], grace_s=0.3)
    async with fitbus.stop_on_signals(run, signal.SIGTERM, grace_s=0.3), run:
        await run.wait()

logging.basicConfig(format="%(message)s")
anyio.run(
    main,
    backend="trio" if loop == "trio" else "asyncio",
    backend_options={"use_uvloop": True} if loop == "uvloop" else {},
)
"""


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("handler", "it is in handler 'hang' of BatchEnd"),
        ("source", "it is waiting for a batch"),
        ("async handler", "it is "),
        ("loop", "the event loop doesn't get to SIGTERM: it takes its course now"),
    ],
)
def test_a_process_that_hangs_ends_by_the_signal_all_the_same(
    loop: str, what: str, says: str
) -> None:
    """And the log says what it was in."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM, loop, what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "stuck\n"
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM, error
    assert time.monotonic() - started < 20
    assert "has stood still for 0.3 s (grace_s)" in error or what == "loop"
    assert says in error


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """What a service's own handler hears; it is put back."""
    numbers: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGTERM, before)


def new_run(*callbacks: Any, x: Any = X, y: Any = Y, **options: Any) -> fitbus.Run[fitbus.History]:
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    options = {"batch_size": 32, "epochs": 10**6, "grace_s": GRACE_S, **options}
    return trainer.run(x, y, callbacks=callbacks, **options)


async def interrupted(
    run: fitbus.Run[Any], begin: Callable[[], Any], grace_s: float = GRACE_S
) -> None:
    """Sends a signal when something has begun, and waits for the run."""
    async with fitbus.stop_on_signals(run, signal.SIGTERM, grace_s=grace_s), run:
        await begin()
        signal.raise_signal(signal.SIGTERM)
        await run.wait()


@pytest.mark.anyio
async def test_a_stuck_thread_is_named_and_left(
    heard: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """Subscribers in the loop get the end; the signal takes its course; the body gets the error."""
    gate = Gate()
    reasons: list[str] = []

    async def end(event: fitbus.TrainEnd) -> None:
        reasons.append(event.reason)

    def hang(event: fitbus.EpochEnd) -> None:
        gate.pass_sync()

    run = new_run(end, hang)
    with pytest.raises(ThreadStuckError, match=r"still in handler '.*hang' of EpochEnd"):
        await interrupted(run, gate.wait_arrived)
    assert heard == [signal.SIGTERM]
    assert "was to stop at SIGTERM, and has stood still for 0.3 s (grace_s)" in caplog.text
    assert reasons == ["cancelled"]
    gate.open()
    for thread in threading.enumerate():
        if thread.name.startswith("fitbus"):
            thread.join(10)
            assert not thread.is_alive()
    assert run.trainer.state.step == 2


@pytest.mark.anyio
async def test_a_handler_that_waits_without_end_is_cancelled(heard: list[int]) -> None:
    """No thread is left behind then."""
    arrived = anyio.Event()

    async def waits(event: fitbus.EpochEnd) -> None:
        arrived.set()
        await anyio.sleep_forever()

    run = new_run(waits)
    with pytest.raises(RunCancelledError):
        await interrupted(run, arrived.wait)
    assert (heard, run.status) == ([signal.SIGTERM], "cancelled")
    assert run.trainer.state.step == 2


@pytest.mark.slow
@pytest.mark.anyio
async def test_validation_that_gets_on_is_not_cut_short(heard: list[int]) -> None:
    """However long it takes in all, as long as each of its batches comes in time."""
    began = anyio.Event()

    def batches() -> Iterator[Any]:
        for _ in range(8):
            time.sleep(LONGER_S / 4)  # what a slow source is
            yield X[:32], Y[:32]

    @fitbus.handler(fitbus.TestBegin, wait=False)
    async def tell(event: fitbus.TestBegin) -> None:
        began.set()

    recorder = EventRecorder()
    run = new_run(tell, recorder, validation_data=batches)
    await run.trainer.evaluate(X, Y, batch_size=32)  # compiles
    await interrupted(run, began.wait, LONGER_S)
    assert (heard, run.status) == ([signal.SIGTERM], "stopped")
    assert len(recorder.of(fitbus.TestBatchEnd)) == 8


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_backup_that_takes_long_to_write_is_not_cut_short(
    heard: list[int], tmp_path: Path
) -> None:
    """It waits for a file that another callback is slow to write."""
    done = threading.Event()

    class Slow(fitbus.Callback):
        def pending_writes(self) -> Callable[[float], bool]:
            return done.wait

    run = new_run(Slow(), BackupAndRestore(tmp_path))
    timer = threading.Timer(2.5 * LONGER_S, done.set)  # from the signal on, or a little longer

    async def begin() -> None:
        await run.wait_for(fitbus.BatchEnd)
        timer.start()

    await interrupted(run, begin, LONGER_S)
    timer.join()
    assert (heard, run.status) == ([signal.SIGTERM], "stopped")
    assert BackupFiles(tmp_path, 2).newest_first()


@pytest.mark.anyio
async def test_without_a_limit_a_second_signal_is_what_ends_it(heard: list[int]) -> None:
    gate = Gate()

    def hang(event: fitbus.EpochEnd) -> None:
        gate.pass_sync()

    run = new_run(hang)
    async with fitbus.stop_on_signals(run, signal.SIGTERM, grace_s=None), run:
        await gate.wait_arrived()
        signal.raise_signal(signal.SIGTERM)
        await anyio.sleep(2 * GRACE_S)
        assert (heard, run.status) == ([], "running")
        signal.raise_signal(signal.SIGTERM)
        assert heard == [signal.SIGTERM]
        gate.open()
        await run.wait()
    assert run.status == "stopped"


@pytest.mark.anyio
@pytest.mark.parametrize("grace_s", [-1, float("nan"), True, "20"])
async def test_bad_seconds_are_refused(grace_s: Any) -> None:
    before = threading.active_count()
    with pytest.raises(InvalidArgumentError, match=r"^grace_s: found"):
        async with fitbus.stop_on_signals(new_run(), grace_s=grace_s):
            raise AssertionError("it was entered")
    assert threading.active_count() == before


@pytest.mark.anyio
async def test_a_source_that_blocks_is_left(heard: list[int]) -> None:
    gate = Gate()

    def batches() -> Iterator[Any]:
        yield from itertools.repeat((X[:32], Y[:32]), 3)
        gate.pass_sync()
        yield X[:32], Y[:32]

    run = new_run(x=batches, y=None, batch_size=None)
    with pytest.raises(ThreadStuckError, match="still waiting for a batch"):
        await interrupted(run, gate.wait_arrived)
    assert heard == [signal.SIGTERM]
    gate.open()
