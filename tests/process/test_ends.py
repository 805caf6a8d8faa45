"""Every way out of a run in a child process: who hears of it, and that no process is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import fitbus
from fitbus import BatchEnd, EpochEnd, Evaluate, Event, StopTraining, TrainEnd
from fitbus.control import Rejected
from fitbus.errors import (
    ChildError,
    InvalidArgumentError,
    ProcessDiedError,
    RunCancelledError,
    RunEndedError,
)
from fitbus.testing import EventRecorder

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

FOREVER = 10**6
LOOPS = [
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
]


def is_gone(run: fitbus.ProcessRun) -> bool:
    """Whether nothing is left of the process, no zombie either."""
    assert run.pid is not None
    try:
        os.kill(run.pid, 0)
    except ProcessLookupError:
        return True
    return False


def open_files() -> int:
    """How many file descriptors this process has."""
    return len(list(Path("/dev/fd").iterdir()))


def is_running(path: Path) -> bool:
    """Whether the process runs whose id is in a file; one that waits to be collected doesn't."""
    try:
        stat = Path(f"/proc/{path.read_text('utf-8')}/stat").read_text("utf-8")
    except OSError:
        return False
    return stat.rpartition(") ")[2][0] != "Z"


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [
        ("killed", -signal.SIGKILL, "was killed by SIGKILL"),
        ("exited", 7, "ended with exit status 7 before its training did"),
        ("crashed", -signal.SIGABRT, "was killed by SIGABRT"),
    ],
)
async def test_a_child_that_dies_is_a_failed_run(how: str, status: int, said: str) -> None:
    """Its last lines are in the error and in the event; nobody waits for it any more."""
    run = fitbus.ProcessRun("tests.process._factories:dies", how)
    recorder = EventRecorder()
    run.add(recorder, TrainEnd)
    receipts = [run.post(Evaluate())]

    async def ask(event: BatchEnd) -> None:
        receipts.append(run.post(Evaluate()))

    run.add(ask, wait=False)
    with anyio.fail_after(30):
        async with run.subscribe(Event) as stream:
            with pytest.raises(
                ProcessDiedError, match=f"child process {run.pid or '[0-9]+'} {said}"
            ) as caught:
                async with run:
                    await run.wait()
            names = [type(event).__name__ async for event in stream]
    assert caught.value.status == status
    assert "the last words" in caught.value.lines or how == "crashed"
    assert names[0] == "TrainBegin"
    assert names[-1] == "TrainEnd"
    (end,) = recorder.of(TrainEnd)
    assert end.reason == run.status == run.end_reason == "failed"
    assert end.detail == f"ProcessDiedError: {caught.value}"
    assert all(receipt.outcome is not None for receipt in receipts)
    assert run.post(Evaluate()).outcome == Rejected("too late: the child process has gone")
    with pytest.raises(RunEndedError):
        await run.wait_for(BatchEnd)
    assert is_gone(run)


async def test_a_handler_that_waits_for_a_dead_child_is_told_so() -> None:
    run = fitbus.ProcessRun("tests.process._factories:toy", FOREVER)
    said: list[str] = []

    async def wait(event: EpochEnd) -> None:
        if said:
            return
        assert run.pid is not None
        os.kill(run.pid, signal.SIGKILL)
        for waits in (lambda: run.send(Evaluate()), run.snapshot):
            with pytest.raises(fitbus.FitbusError) as caught:
                await waits()
            said.append(str(caught.value))

    run.add(wait, wait=True)
    with anyio.fail_after(30), pytest.raises(ProcessDiedError):
        async with run:
            await run.wait()
    assert said == [
        "Evaluate was rejected: too late: the child process has gone",
        f"run {run.id!r} ended before it reached another boundary",
    ]


async def test_what_a_child_leaves_running_holds_nobody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A thread and a process that never end are ended with it; stderr needn't go anywhere."""
    monkeypatch.setattr("fitbus.process._block._EXIT_S", 0.1)
    monkeypatch.setattr(sys, "stderr", None)
    path = tmp_path / "pid"
    run = fitbus.ProcessRun("tests.process._factories:lingers", str(path))
    with anyio.fail_after(30):
        async with run:
            await run.wait()
        while is_running(path):  # noqa: ASYNC110  # it is no child of this process
            await anyio.sleep(0.01)
    assert run.status == "completed"
    assert (await run.snapshot()).step == 2
    assert is_gone(run)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("dies", "ValueError", "not today"),
        ("broken", "LookupError", "no such data"),
        ("no_training", "fitbus.errors.InvalidArgumentError", "found 3; return a fitbus Training"),
        ("absent", "AttributeError", "'absent'"),
        ("mute", "tests.process._factories.Mute", r"(its text can't be had: LookupError)"),
    ],
)
async def test_what_a_child_raises_is_raised_here(name: str, kind: str, message: str) -> None:
    """Under its name, with the traceback there as a note."""
    run = fitbus.ProcessRun(
        f"tests.process._factories:{name}", *(["raised"] if name == "dies" else [])
    )
    recorder = EventRecorder()
    run.add(recorder, TrainEnd)
    with pytest.raises(ChildError, match=f"^{kind}: .*{re.escape(message)}") as caught:
        async with run:
            await run.wait()
    assert caught.value.kind == kind
    assert "Traceback" in caught.value.__notes__[0]
    (end,) = recorder.of(TrainEnd)
    assert (end.reason, run.status) == ("failed", "failed")
    assert f"{kind}: {caught.value.message}" in end.detail
    assert is_gone(run)


@pytest.mark.parametrize("on_error", ["raise", "log", "stop", "unsubscribe"])
async def test_what_a_handler_here_raises_is_dealt_with_as_here(on_error: Any) -> None:
    run = fitbus.ProcessRun("tests.process._factories:toy", 3)
    recorder = EventRecorder()
    run.add(recorder, EpochEnd, fitbus.HandlerFailed, TrainEnd)
    calls: list[int] = []

    def fail(event: EpochEnd) -> None:
        calls.append(event.epoch)
        raise OSError("of the handler")

    run.add(fail, on_error=on_error)
    if on_error == "raise":
        with pytest.raises(OSError, match="of the handler"):
            async with run:
                await run.wait()
    else:
        async with run:
            await run.wait()
    (end,) = recorder.of(TrainEnd)
    ended = {"raise": "failed", "stop": "stopped"}.get(on_error, "completed")
    assert run.status == end.reason == ended
    assert calls == ([0, 1, 2] if on_error == "log" else [0])
    assert len(recorder.of(EpochEnd)) == (1 if on_error in ("raise", "stop") else 3)
    failed = recorder.of(fitbus.HandlerFailed)
    assert [event.error for event in failed] == ["OSError: of the handler"] * len(calls)
    assert [e.seq for e in recorder.events] == sorted({e.seq for e in recorder.events})
    if on_error == "raise":
        assert end.detail == "OSError: of the handler"


async def test_an_interrupt_of_a_handler_here_leaves_as_itself() -> None:
    run = fitbus.ProcessRun("tests.process._factories:toy", FOREVER)
    recorder = EventRecorder()
    run.add(recorder, TrainEnd)

    def interrupt(event: BatchEnd) -> None:
        raise KeyboardInterrupt

    run.add(interrupt)
    with pytest.raises(KeyboardInterrupt):
        async with run:
            await run.wait()
    (end,) = recorder.of(TrainEnd)
    assert (end.reason, end.detail, run.status) == ("cancelled", "KeyboardInterrupt()", "cancelled")


@pytest.mark.parametrize(
    ("name", "value", "kind", "message"),
    [
        (3, 1.0, TypeError, "a hook put 3 into them"),
        ("large", 2**70, OverflowError, "can't serialize ints"),
    ],
)
async def test_logs_that_cannot_cross_fail_the_run(
    name: Any, value: Any, kind: type[Exception], message: str
) -> None:
    def add(epoch: int, logs: dict[Any, Any]) -> None:
        logs[name] = value

    open_before = open_files()
    callbacks = [fitbus.callbacks.LambdaCallback(on_epoch_end=add)]
    run = fitbus.ProcessRun("tests.process._factories:toy", FOREVER, callbacks=callbacks)
    recorder = EventRecorder()
    run.add(recorder, TrainEnd)
    with anyio.fail_after(30), pytest.raises(kind, match=message):
        async with run:
            await run.wait()
    (end,) = recorder.of(TrainEnd)
    assert (end.reason, run.status) == ("failed", "failed")
    assert is_gone(run)
    assert open_files() == open_before


async def test_a_child_that_cannot_read_what_it_is_told_ends() -> None:
    run = fitbus.ProcessRun("tests.process._factories:toy", FOREVER, grace_s=1.0)
    with anyio.fail_after(30):
        async with run:
            await run.wait_for(BatchEnd)
            assert run.block.spawned is not None
            run.block.spawned.channel.put("no frame")
            await run.wait()
    assert run.status == "stopped"
    assert is_gone(run)


@pytest.mark.parametrize("anyio_backend", LOOPS)
async def test_cancelling_stops_at_a_boundary() -> None:
    run = fitbus.ProcessRun("tests.process._factories:toy", FOREVER)
    recorder = EventRecorder()
    run.add(recorder, TrainEnd, wait=False)
    with anyio.fail_after(30):
        with anyio.CancelScope() as scope:
            async with run:
                await run.wait_for(BatchEnd)
                scope.cancel()
                await run.wait()
        with pytest.raises(RunCancelledError):
            await run.wait()
    (end,) = recorder.of(TrainEnd)
    assert (end.reason, run.status) == ("cancelled", "cancelled")
    assert (await run.snapshot()).step >= end.step > 0
    assert is_gone(run)


@pytest.mark.parametrize("grip", ["hangs", "holds the lock"])
async def test_a_child_that_hangs_is_ended_by_force(grip: str) -> None:
    """Asleep, or where not even its event loop gets a turn."""
    run = fitbus.ProcessRun("tests.process._factories:dies", grip, grace_s=0.5)
    recorder = EventRecorder()
    run.add(recorder, TrainEnd)
    began: list[float] = []
    with anyio.fail_after(30), anyio.CancelScope() as scope:
        async with run:
            await run.wait_for(fitbus.EpochBegin)
            await anyio.sleep(0.5)  # by then it hangs, or it will when it is cancelled
            began.append(anyio.current_time())
            scope.cancel()
    assert anyio.current_time() - began[0] < 3
    assert [event.reason for event in recorder.of(TrainEnd)] == ["cancelled"]
    assert run.status == "cancelled"
    assert is_gone(run)


PARENT = """
import sys, anyio, fitbus
async def main():
    name = "tests.process._factories:{name}"
    async with fitbus.ProcessRun(name, {argument!r}, grace_s=1.0) as run:
        await run.wait_for({event})
        print(run.pid, flush=True)
        await anyio.sleep_forever()
anyio.run(main)
"""


@pytest.mark.parametrize(
    ("name", "argument", "event"),
    [("toy", FOREVER, "fitbus.BatchEnd"), ("dies", "hangs", "fitbus.EpochBegin")],
)
def test_a_parent_that_is_killed_ends_its_child(name: str, argument: Any, event: str) -> None:
    """At its next boundary, or by force when the grace period is over."""
    script = PARENT.format(name=name, argument=argument, event=event)
    paths = [str(Path(__file__).parents[2]), *sys.path]
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and Path(f"/proc/{pid}").exists():
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}").exists()


async def test_a_stop_ends_it_well_and_a_run_is_started_once() -> None:
    run = fitbus.ProcessRun("tests.process._factories:toy", FOREVER)
    async with run:
        await run.send(StopTraining("enough"), source="me")
        history = await run.wait()
        with pytest.raises(fitbus.FitbusError, match="was started before"):
            await run.__aenter__()
    assert (run.status, run.stop_reason) == ("stopped", "enough")
    assert history.params["epochs"] == FOREVER
    assert is_gone(run)


def local() -> Callable[[], None]:
    def inner() -> None: ...

    return inner


@pytest.mark.parametrize("wrong", [lambda: None, local(), "toy", 3, "module:"])
def test_a_factory_that_a_child_could_not_import_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^factory: .*'module:function'"):
        fitbus.ProcessRun(wrong)


def test_arguments_that_are_wrong_are_refused() -> None:
    wrong: list[dict[str, Any]] = [
        *({"grace_s": 0}, {"drain_s": -1}, {"run_id": ""}),
        {"callbacks": [3]},
    ]
    for arguments in wrong:
        with pytest.raises(InvalidArgumentError, match=f"^{next(iter(arguments))}"):
            fitbus.ProcessRun("tests.process._factories:toy", **arguments)
    with pytest.raises(InvalidArgumentError, match=r"^args: .*pickled"):
        fitbus.ProcessRun("tests.process._factories:toy", lambda: None)
