"""`fit_sync` and its sisters, for scripts; inside an event loop they are refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.to_thread
import jax
import numpy as np
import pytest
import sniffio

import fitbus
from fitbus import (
    BatchEnd,
    EpochEnd,
    PredictBatchEnd,
    SetLearningRate,
    StopTraining,
    TestBatchEnd,
    TrainEnd,
)
from fitbus.errors import DataError, FitbusError, InvalidArgumentError
from fitbus.testing import EventRecorder, toy_problem

PROBLEM = toy_problem(64, 4)
X, Y = PROBLEM.x, PROBLEM.y
SHARED = fitbus.Trainer(PROBLEM.task, PROBLEM.params)

SCRIPT = """
import fitbus
from fitbus.testing import toy_problem

problem = toy_problem(64, 4)
trainer = fitbus.Trainer(problem.task, problem.params)

async def report(event: fitbus.EpochEnd) -> None:
    print("epoch", event.epoch)

history = trainer.fit_sync(problem.x, problem.y, batch_size=32, epochs=2, callbacks=[report])
print(history.epoch, trainer.state.step)
"""


@pytest.mark.slow
def test_a_script_needs_no_more() -> None:
    """A fresh interpreter: no loop, no `async`; it ends by itself, and says nothing else."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["epoch 0", "epoch 1", "[0, 1] 4"]


def test_it_is_fit_in_a_loop_of_its_own() -> None:
    """The same history and parameters; handlers on its loop, controls, and what it takes."""
    recorder = EventRecorder()
    libraries: list[str] = []

    async def on_loop(event: EpochEnd) -> SetLearningRate:
        libraries.append(sniffio.current_async_library())
        return SetLearningRate(0.05)

    options: Any = {"batch_size": 32, "epochs": 3}
    trainers = [fitbus.Trainer(PROBLEM.task, PROBLEM.params) for _ in range(2)]
    history = trainers[0].fit_sync(X, Y, callbacks=[recorder, on_loop], **options)

    async def main() -> fitbus.History:
        return await trainers[1].fit(X, Y, callbacks=[on_loop], **options)

    expected = anyio.run(main)
    assert libraries == ["asyncio"] * 6
    assert (history.epoch, history.history) == (expected.epoch, expected.history)
    jax.tree.map(np.testing.assert_array_equal, *[t.state.params for t in trainers])
    assert [event.reason for event in recorder.of(TrainEnd)] == ["completed"]


def test_its_sisters_evaluate_and_predict_in_loops_of_their_own() -> None:
    """The same logs and outputs, with events and controls; what they take, and what they don't."""
    recorder = EventRecorder()

    async def on_loop(event: TestBatchEnd | PredictBatchEnd) -> StopTraining | None:
        assert sniffio.current_async_library() == "asyncio"
        return StopTraining() if event.batch == 1 else None

    async def main() -> Any:
        weight = np.arange(64.0)
        logs = await SHARED.evaluate(X, Y, batch_size=16, sample_weight=weight)
        return logs, await SHARED.predict(X, batch_size=16, steps=3)

    logs = SHARED.evaluate_sync(
        X, Y, batch_size=16, sample_weight=np.arange(64.0), callbacks=[recorder]
    )
    outputs = SHARED.predict_sync(X, batch_size=16, steps=3, callbacks=[recorder])
    expected_logs, expected_outputs = anyio.run(main)
    assert logs == expected_logs
    np.testing.assert_array_equal(outputs, expected_outputs)
    assert len(recorder.of(TestBatchEnd)) == 4
    assert len(recorder.of(PredictBatchEnd)) == 3

    stopping: Any = {"batch_size": 1, "callbacks": [fitbus.handler(wait=True)(on_loop)]}
    SHARED.evaluate_sync(X, Y, **stopping)
    assert len(SHARED.predict_sync(X, **stopping)) == 2
    for call in (SHARED.evaluate_sync, SHARED.predict_sync):
        with pytest.raises(InvalidArgumentError, match="steps"):
            call(X, steps=0)
        with pytest.raises(TypeError, match="epochs"):
            call(X, epochs=3)  # type: ignore[call-arg]  # that is the test


def test_one_after_the_other_goes_on_where_the_first_ended() -> None:
    """Each in a loop of its own, on one bus."""
    start = int(SHARED.state.step)
    steps: list[int] = []
    subscription = SHARED.bus.add(lambda event: steps.append(event.step), TrainEnd)
    for _ in range(2):
        SHARED.fit_sync(X, Y, batch_size=32)
    subscription.cancel()
    assert steps == [start + 2, start + 4]


def test_errors_leave_it_as_themselves() -> None:
    """A handler's, the data's, an argument's; the trainer can be used again."""

    def breaks(event: BatchEnd) -> None:
        raise ZeroDivisionError("a handler's")

    with pytest.raises(ZeroDivisionError, match="a handler's"):
        SHARED.fit_sync(X, Y, batch_size=32, callbacks=[breaks])
    with pytest.raises(DataError, match="y"):
        SHARED.fit_sync(X, Y[1:])
    with pytest.raises(InvalidArgumentError, match="epochs"):
        SHARED.fit_sync(X, Y, epochs=-1)
    with pytest.raises(TypeError, match="epoch_size"):
        SHARED.fit_sync(X, Y, epoch_size=3)  # type: ignore[call-arg]  # that is the test
    assert SHARED.fit_sync(X, Y, batch_size=32).epoch == [0]


@pytest.fixture
def keyboard() -> Iterator[None]:
    """Ctrl-C as in a terminal: a program that a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("keyboard")
def test_an_interrupt_from_the_keyboard_ends_it_cancelled() -> None:
    """A real signal in the main thread; it leaves as itself, and the state is a step's."""
    recorder = EventRecorder()

    def interrupt(event: BatchEnd) -> None:
        if event.batch == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        SHARED.fit_sync(X, Y, batch_size=32, steps_per_epoch=10**6, callbacks=[recorder, interrupt])
    (end,) = recorder.of(TrainEnd)
    assert end.reason == "cancelled"
    assert end.step == int(SHARED.state.step)
    assert SHARED.bus.statistics().subscriptions == ()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.anyio
async def test_inside_a_loop_it_is_refused_naming_what_to_write() -> None:
    """In a task, in a handler on the loop; nothing has begun."""
    refused: list[str] = []

    def refuse() -> None:
        calls: dict[str, Any] = {
            "fit": lambda: SHARED.fit_sync(X, Y),
            "evaluate": lambda: SHARED.evaluate_sync(X, Y),
            "predict": lambda: SHARED.predict_sync(X),
        }
        for name, call in calls.items():
            with pytest.raises(FitbusError, match=rf"write `await trainer\.{name}\(\.\.\.\)`"):
                call()
            refused.append(name)

    async def on_loop(event: EpochEnd) -> None:
        refuse()

    refuse()
    step = int(SHARED.state.step)
    await SHARED.fit(X, Y, batch_size=32, callbacks=[on_loop])
    assert refused == ["fit", "evaluate", "predict"] * 2
    assert int(SHARED.state.step) == step + 2


@pytest.mark.anyio
async def test_a_worker_thread_of_a_loop_may_use_it() -> None:
    """Its loop isn't blocked: it goes on, and may stop the training."""
    begun = threading.Event()
    options: Any = {"batch_size": 32, "epochs": 10**6}

    def note(event: EpochEnd) -> StopTraining | None:
        begun.set()
        return StopTraining() if stop.is_set() else None

    stop = threading.Event()
    found: list[fitbus.History] = []

    def work() -> None:
        found.append(SHARED.fit_sync(X, Y, callbacks=[note], **options))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, work)
        await anyio.to_thread.run_sync(begun.wait)
        stop.set()
    assert len(found[0].epoch) >= 1
