"""A run in a child process tells, keeps and obeys what one in a thread does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import jax
import numpy as np
import pytest

import fitbus
from fitbus import (
    Applied,
    BatchEnd,
    Control,
    ControlApplied,
    ControlRejected,
    EpochEnd,
    Event,
    Pause,
    Resume,
    RunPaused,
    ScaleLearningRate,
    SetLearningRate,
    StopTraining,
    UpdateState,
)
from fitbus.bus import SubscriptionStatistics
from fitbus.callbacks import CSVLogger, EarlyStopping, LambdaCallback
from fitbus.errors import ControlRejectedError, ElsewhereError, WrongThreadError
from fitbus.testing import EventRecorder, Gate

from . import _factories

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

TOY = _factories.toy
FOREVER = 10**6


def bare(events: list[Event]) -> list[dict[str, Any]]:
    """All fields but the time."""
    return [
        {"type": type(e).__name__, **{n: getattr(e, n) for n in e.__struct_fields__ if n != "time"}}
        for e in events
    ]


async def test_it_tells_what_a_thread_tells_and_keeps_what_it_keeps() -> None:
    """Each event with its `seq`, step and logs; the history, the rates and the state, too."""
    made = _factories.toy(3, validation_split=0.25)
    here = made.trainer.run(made.x, made.y, **made.options)
    there = fitbus.ProcessRun(TOY, 3, parameters={"validation_split": 0.25})
    assert (here.id, there.id) == ("fit-1", "fit-1")
    handles: list[fitbus.RunHandle] = [here, there]
    assert all(isinstance(handle, fitbus.RunHandle) for handle in handles)
    told: list[list[Event]] = []
    for run in (here, there):
        events: list[Event] = []
        told.append(events)
        run.add(events.append, Event, wait=False)

        def steer(event: EpochEnd) -> list[Control]:
            return [SetLearningRate(0.01), ScaleLearningRate(0.5)]

        run.add(steer, name="steer")
        async with run:
            await run.wait()
    assert bare(told[0]) == bare(told[1])
    assert all(one.time <= other.time for one, other in zip(told[1], told[1][1:], strict=False))
    first, second = await here.wait(), await there.wait()
    assert (first.epoch, first.history, first.params) == (
        *(second.epoch, second.history),
        second.params,
    )
    assert await here.hyperparameters() == await there.hyperparameters()
    state, snapshot = await here.snapshot(), await there.snapshot()
    restored = snapshot.restore(made.trainer.state)
    jax.tree.map(np.testing.assert_array_equal, state, restored)
    assert snapshot.step == 6
    assert there.statistics().step == 6
    assert there.statistics().examples == here.statistics().examples


async def test_each_way_of_delivery_counts_and_loses_what_it_says() -> None:
    """Filters and policies of subscribers here, on one run; a full `block` mailbox holds it."""
    run = fitbus.ProcessRun(TOY, 1, parameters={"steps": 6000})
    gate = Gate()
    got: dict[str, list[int]] = {n: [] for n in ("all", "tenth", "odd", "batched", "latest")}

    async def held(event: BatchEnd) -> None:
        if not got["all"]:
            await gate.pass_async()
        got["all"].append(event.batch)

    run.add(held, name="all", buffer_size=8)
    run.add(lambda e: got["tenth"].append(e.batch), BatchEnd, name="tenth", every=10, wait=False)

    @run.on(BatchEnd, where=lambda event: event.batch % 2, name="odd")
    async def odd(event: BatchEnd) -> None:
        got["odd"].append(event.batch)

    @run.on(BatchEnd, batched=True, wait=False, name="batched")
    async def batched(events: list[BatchEnd]) -> None:
        got["batched"] += [event.batch for event in events]

    @run.on(BatchEnd, overflow="latest", buffer_size=1, name="latest")
    async def latest(event: BatchEnd) -> None:
        got["latest"].append(event.batch)

    async with run:
        await gate.wait_arrived()
        before = -1
        while before < (now := run.statistics().step):  # it stands when it has filled all buffers
            before = now
            await anyio.sleep(0.3)
        assert now < 6000
        for entry in run.statistics().subscriptions:
            assert_adds_up(entry)
        gate.open()
    assert got["all"] == got["batched"] == list(range(6000))
    assert got["tenth"] == list(range(9, 6000, 10))
    assert got["odd"] == list(range(1, 6000, 2))
    assert got["latest"][-1] == 5999
    assert run.report is not None
    counts = run.report.by_name
    assert counts["latest"].dropped == 6000 - len(got["latest"])
    assert all(entry.undelivered == 0 for entry in run.report.subscribers)
    assert counts["all"].held_s > 0.25


def assert_adds_up(entry: SubscriptionStatistics) -> None:
    """As its class promises."""
    assert entry.published == entry.delivered + entry.dropped + entry.queued + entry.in_flight


async def test_pausing_streams_snapshots_and_what_comes_late() -> None:
    """A stream that resumes from what is kept; the state in a pause; the view of a callback."""
    run = fitbus.ProcessRun(TOY, FOREVER)
    view = run.model("a callback")
    async with run:
        async with run.subscribe(RunPaused) as pauses:
            paused = await run.send(Pause(), source="me")
            event = await anext(pauses)
        assert (run.status, event.source, event.step) == ("paused", "me", paused.step)
        one, other = await run.snapshot(), await run.snapshot()
        assert one.step == other.step == paused.step
        np.testing.assert_array_equal(one["params/w"], other["params/w"])
        assert await run.hyperparameters() == {"learning_rate": pytest.approx(0.1)}
        with pytest.raises(WrongThreadError, match=r"await run\.hyperparameters"):
            view.optimizer.learning_rate  # noqa: B018  # asking for it is refused
        async with run.subscribe(Event, after=event.seq - 2) as events:
            seen = [await anext(events) for _ in range(2)]
            assert [type(e) for e in seen] == [ControlApplied, RunPaused]
        resumed = await run.send(Resume())
        assert resumed.step == paused.step
        view.stop_training = True
        await run.wait()
    assert run.stop_reason == "stop_training was set by a callback"
    assert run.status == "stopped"


async def test_callbacks_here_and_there(tmp_path: Path) -> None:
    """Those that need no state run here; they share what they add to the logs with the child's."""
    path = tmp_path / "log.csv"

    def add(epoch: int, logs: dict[str, Any]) -> None:
        logs["added"] = float(epoch)

    stopping = EarlyStopping("loss", min_delta=1e9, patience=2)
    run = fitbus.ProcessRun(
        TOY,
        9,
        callbacks=[LambdaCallback(on_epoch_end=add), CSVLogger(str(path)), [stopping]],
    )
    async with run:
        history = await run.wait()
    assert stopping.stopped_epoch == 2
    assert history.history["added"] == [0.0, 1.0, 2.0]
    assert run.status == "stopped"
    rows = path.read_text("utf-8").splitlines()
    assert rows[0] == "epoch,added,loss,mean_absolute_error"
    assert len(rows) == 4


async def test_a_callback_here_that_needs_the_state_is_told_where_it_belongs() -> None:
    run = fitbus.ProcessRun(TOY, 3, callbacks=[EarlyStopping("loss", restore_best_weights=True)])
    with pytest.raises(ElsewhereError, match=r"model\.get_weights.* the factory returns"):
        async with run:
            await run.wait()


class Strange(Control):
    """A control that the child doesn't know."""


async def test_what_cannot_cross_is_rejected_with_what_to_do() -> None:
    run = fitbus.ProcessRun(TOY, FOREVER, user_types=[_factories.Drawn])
    recorder = EventRecorder()
    run.add(recorder, ControlRejected, wait=False)
    async with run:
        await run.wait_for(BatchEnd)
        with pytest.raises(ControlRejectedError, match=r"works inside its process only.*factory"):
            await run.send(UpdateState(lambda state: state), source="me")
        with pytest.raises(ControlRejectedError, match=r"doesn't know Strange.*`user_types`"):
            await run.send(Strange())
        assert isinstance(await run.send(StopTraining()), Applied)
    assert [event.source for event in recorder.of(ControlRejected)] == ["me", ""]


async def test_what_cannot_be_encoded_is_rejected_before_the_start_too() -> None:
    run = fitbus.ProcessRun(TOY, FOREVER)
    recorder = EventRecorder()
    run.add(recorder, Event, wait=False)
    receipts = [
        run.post(StopTraining("\udc80")),
        run.post(StopTraining(), source="\udc80"),
        run.post(UpdateState(lambda state: state)),
    ]
    async with run:
        outcomes = [str(receipt.outcome) for receipt in receipts]
        await run.wait_for(BatchEnd)
        receipt = run.post(StopTraining("\udc80"))
        assert "can't be encoded for the child (UnicodeEncodeError" in str(receipt.outcome)
        await run.send(StopTraining())
    assert all("can't be encoded for the child (UnicodeEncodeError" in o for o in outcomes[:2])
    assert "works inside its process only" in outcomes[2]
    rejected = recorder.of(ControlRejected)
    assert len(rejected) == 4
    rare = [event.seq for event in recorder.events if not event.batch_level]
    assert rare == sorted(set(rare))


async def test_events_of_ones_own_cross() -> None:
    run = fitbus.ProcessRun(_factories.draws, user_types=[_factories.Drawn])
    recorder = EventRecorder()
    run.add(recorder, _factories.Drawn)
    async with run:
        await run.wait()
    assert [event.n for event in recorder.of(_factories.Drawn)] == [0, 1]


def test_the_parent_imports_no_jax() -> None:
    """A whole run, its state included."""
    program = """
import sys, anyio, fitbus
async def main():
    async with fitbus.ProcessRun("tests.process._factories:toy", 2) as run:
        history = await run.wait()
    assert isinstance(history, __import__("fitbus._history")._history.History)
    print(history, (await run.snapshot()).step, "jax" in sys.modules)
anyio.run(main)
"""
    paths = [str(Path(__file__).parents[2]), *sys.path]
    program = f"import sys; sys.path[:0] = {paths!r}{program}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("<History of 2 epochs: loss=")
    assert done.stdout.endswith(" 4 False\n")
