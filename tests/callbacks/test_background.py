"""Slow work in the background: how long it is waited for, and by how many threads it is done."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import fitbus
from fitbus.callbacks import CSVLogger, ModelCheckpoint, OrbaxCheckpoint, TensorBoard
from fitbus.callbacks._background import Background, Lost
from fitbus.testing import EventRecorder, Gate

if TYPE_CHECKING:
    from .conftest import Script


async def cancelled_while_it_waits(
    script: Script, callback: Any, kind: type[fitbus.Event], time: int = 1
) -> str:
    """Cancels, for the n-th time, when an event's hooks are about to be called; what failed."""
    recorder, seen = EventRecorder(), 0
    with anyio.fail_after(20), anyio.CancelScope() as scope:

        async def cancel(event: fitbus.Event) -> None:  # training waits for it, then calls hooks
            nonlocal seen
            seen += 1
            if seen == time:
                scope.cancel()

        handler = fitbus.handler(kind)(cancel)
        await script.fit([1, 2, 3, 4], handler, callback, recorder, grace_s=0.8)
    assert scope.cancelled_caught
    assert recorder.of(fitbus.TrainEnd)[0].reason == "cancelled"
    assert script.trainer.state.step >= 0  # the thread has ended: no ThreadStuckError
    assert not [t for t in threading.enumerate() if t.name.startswith("fitbus fit-")]
    return recorder.of(fitbus.HandlerFailed)[0].error


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [ModelCheckpoint, OrbaxCheckpoint])
async def test_a_fit_that_waits_for_room_ends_in_time_when_it_is_cancelled(
    script: Script, tmp_path: Path, kind: Any
) -> None:
    """By default the disk gets 30 s; the grace period is far shorter here."""
    gate = Gate()
    checkpoint = kind(tmp_path / "states", save_weights_only=False)
    try:

        class Hang(fitbus.Callback):
            def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
                if epoch == 0:
                    checkpoint._background.submit(gate.pass_sync)
                    gate.wait_arrived_sync()

        await_failed = cancelled_while_it_waits(script, [Hang(), checkpoint], fitbus.EpochEnd, 2)
        assert "aren't done when the run was cancelled" in await await_failed
    finally:
        gate.open()


@pytest.mark.anyio
async def test_a_fit_that_waits_for_a_disk_ends_in_time_when_it_is_cancelled(
    script: Script, tmp_path: Path
) -> None:
    """The disk: a pipe that nobody reads, which can't be opened."""
    pipe = tmp_path / "log.csv"
    os.mkfifo(pipe)
    try:
        failed = await cancelled_while_it_waits(script, CSVLogger(pipe), fitbus.TrainBegin)
        assert "CSVLogger: 2 pieces of work aren't done when the run was cancelled" in failed
    finally:
        reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
        for thread in threading.enumerate():  # however late it comes to open the pipe
            if thread.name == "fitbus CSVLogger":
                thread.join(10)
        os.close(reader)


@pytest.mark.anyio
async def test_records_that_wait_for_room_are_given_up_too(script: Script, tmp_path: Path) -> None:
    gate = Gate()
    board = TensorBoard(tmp_path, write_graph=False)

    class Much(fitbus.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            board._writer.submit(gate.pass_sync)
            gate.wait_arrived_sync()
            for number in range(4096):
                board.scalar("number", number, number)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            board.scalar("number", 4096, 4096)

    try:
        failed = cancelled_while_it_waits(script, [Much(), board], fitbus.EpochEnd)
        assert "4,096 records aren't written when the run was cancelled" in await failed
    finally:
        gate.open()


def test_several_threads_that_submit_first_have_one_worker() -> None:
    """All is done in one thread, and in each submitter's order."""
    for _ in range(20):
        background, start = Background("Test", 10.0), threading.Barrier(8)
        done: list[tuple[int, int, int]] = []

        def submit(
            number: int,
            background: Background = background,
            start: threading.Barrier = start,
            done: list[tuple[int, int, int]] = done,
        ) -> None:
            start.wait()
            for i in range(3):
                background.submit(lambda i=i: done.append((threading.get_ident(), number, i)))  # type: ignore[misc]  # bound

        threads = [threading.Thread(target=submit, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        background.close()
        assert len({ident for ident, _, _ in done}) == 1
        for number in range(8):
            assert [i for _, found, i in done if found == number] == [0, 1, 2]


def test_a_full_room_is_waited_for_and_then_refused() -> None:
    """What is refused isn't done; what was taken is."""
    gate, done = Gate(), list[int]()
    background = Background("Test", 0.2, room=1)
    background.submit(gate.pass_sync)
    gate.wait_arrived_sync()
    background.submit(lambda: done.append(1))
    before = time.monotonic()
    with pytest.raises(TimeoutError, match=r"Test: 2 pieces of work aren't done after 0\.2 s"):
        background.submit(lambda: done.append(2))
    assert time.monotonic() - before >= 0.2
    gate.open()
    background.close(10.0)
    assert done == [1]


def test_a_mark_tells_of_what_was_lost_before_it_and_of_nothing_later() -> None:
    """Also after the error was raised, and though what comes then is done."""
    gate, done, background = Gate(), list[int](), Background("Test", 10.0)

    def fail() -> None:
        raise OSError("full")

    background.submit(gate.pass_sync)
    before = background.mark()
    background.submit(fail)
    after = background.mark()
    assert not before(0.0)
    assert not after(0.0)
    gate.open()
    assert before(10.0)
    with pytest.raises(Lost):
        after(10.0)
    assert before(0.0)
    with pytest.raises(OSError, match="full"):
        background.mark()
    background.submit(lambda: done.append(1))
    later = background.mark()
    with pytest.raises(Lost):
        later(10.0)
    assert done == [1]
    background.close()
    assert background.mark()(0.0)


def test_work_that_is_lost_with_other_work_is_left_out_and_nobody_is_told() -> None:
    done, background = list[int](), Background("Test", 10.0)

    def lose() -> None:
        raise Lost

    background.submit(lose)
    background.submit(lambda: done.append(1))
    background.close()
    assert done == [1]
