"""When a limit of seconds or steps ends training, and what is counted."""

from __future__ import annotations

import datetime as dt
import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import anyio
import numpy as np
import pytest

import fitbus
from fitbus.callbacks import Callback, Logs, Timer
from fitbus.control import Pause
from fitbus.errors import InvalidArgumentError
from fitbus.events import BatchBegin, BatchEnd, EpochEnd, RunPaused, TestEnd, TrainEnd
from fitbus.testing import EventRecorder, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(32, 2)
TRAINER = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
LONG = 10**6  # epochs, or seconds


async def fit(*callbacks: Any, epochs: int = 3, **given: Any) -> fitbus.History:
    """Four steps in an epoch."""
    return await TRAINER.fit(
        PROBLEM.x, PROBLEM.y, batch_size=8, epochs=epochs, callbacks=callbacks, **given
    )


def end_of(recorder: EventRecorder) -> TrainEnd:
    (end,) = recorder.of(TrainEnd)
    return end


def alarms() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "fitbus Timer"]


@pytest.mark.parametrize("steps", [1, 3, 4, 5, 8, 11])
async def test_steps_end_training_exactly_there(steps: int) -> None:
    """In an epoch, or at its end, with a reason; steps are those of this training."""
    recorder, timer, before = EventRecorder(), Timer(max_steps=steps), int(TRAINER.state.step)
    history = await fit(timer, recorder)
    assert [event.step - before for event in recorder.of(BatchEnd)] == list(range(1, steps + 1))
    end = end_of(recorder)
    assert (end.reason, end.source, end.detail) == ("stopped", "Timer", f"{steps} steps are over")
    assert history.epoch == list(range(math.ceil(steps / 4)))
    assert (timer.steps, timer.steps_left, timer.seconds_left) == (steps, 0, None)


async def test_more_steps_than_there_are_end_nothing() -> None:
    recorder, timer = EventRecorder(), Timer(max_steps=13)
    await fit(timer, recorder)
    assert end_of(recorder).reason == "completed"
    assert (timer.steps, timer.steps_left) == (12, 1)


@pytest.mark.parametrize("limit", [0.05, dt.timedelta(milliseconds=50)])
async def test_seconds_end_training_at_a_boundary(limit: Any) -> None:
    recorder, timer = EventRecorder(), Timer(limit)
    started = time.monotonic()
    await fit(timer, recorder, epochs=LONG)
    assert time.monotonic() - started >= 0.05
    end = end_of(recorder)
    told = (end.reason, end.source, end.detail)
    assert told == ("stopped", "Timer", "0.05 seconds are over")
    assert timer.seconds >= 0.05
    assert (timer.seconds_left, timer.steps_left) == (0.0, None)
    assert timer.steps == len(recorder.of(BatchEnd))


async def test_what_comes_first_ends_training() -> None:
    first, second = EventRecorder(), EventRecorder()
    await fit(Timer(LONG, 5), first)
    assert end_of(first).detail == "5 steps are over"
    await fit(Timer(0.02, LONG), second, epochs=LONG)
    assert end_of(second).detail == "0.02 seconds are over"


async def test_seconds_end_a_pause() -> None:
    """Of a training that nobody lets go on."""
    recorder = EventRecorder()

    class Pauses(Callback):
        def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> Pause:
            return Pause()

    await fit(Timer(0.05), Pauses(), recorder)
    assert len(recorder.of(RunPaused)) == 1
    assert end_of(recorder).detail == "0.05 seconds are over"
    assert recorder.of(BatchEnd) == []


async def test_seconds_end_a_training_whose_data_stall() -> None:
    """A source that the thread may leave alone: an async one."""

    async def stalls() -> Any:
        yield PROBLEM.x[:8], PROBLEM.y[:8]
        await anyio.sleep_forever()

    recorder = EventRecorder()
    await TRAINER.fit(stalls(), epochs=1, callbacks=[Timer(0.1), recorder])
    assert end_of(recorder).detail == "0.1 seconds are over"
    assert len(recorder.of(BatchEnd)) == 1


@pytest.mark.parametrize("validate", [True, False])
async def test_the_epoch_that_is_cut_short_is_validated_unless_not_wanted(validate: bool) -> None:
    recorder = EventRecorder()
    await fit(
        Timer(max_steps=2, validate=validate), recorder, validation_data=(PROBLEM.x, PROBLEM.y)
    )
    assert len(recorder.of(EpochEnd)) == 1
    assert len(recorder.of(TestEnd)) == validate


async def test_no_batch_is_looked_at() -> None:
    """Training waits for no handler of one, and nobody is subscribed to them."""
    timer, waits = Timer(LONG, LONG), list[bool]()

    def looks(event: EpochEnd) -> None:
        assert timer.run is not None
        engine = timer.run.driver.engine
        assert engine is not None
        for kind in (BatchBegin, BatchEnd):
            waits.extend((engine.publisher.waits(kind), engine.publisher.wanted(kind)))

    await fit(timer, looks, epochs=1)
    assert waits == [False] * 4


async def test_no_thread_is_left_whatever_ends_the_run() -> None:
    """Completed, stopped, failed or cancelled; and the clock stands still."""

    class Fails(Callback):
        def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
            assert len(alarms()) == 1
            raise OSError("the disk")

    def endless() -> Iterator[Any]:
        while True:
            yield PROBLEM.x[:8], PROBLEM.y[:8]

    timer = Timer(LONG, 6)
    await fit(timer, epochs=1)
    assert alarms() == []
    await fit(timer)
    assert alarms() == []
    with pytest.raises(OSError, match="the disk"):
        await fit(timer, Fails())
    assert alarms() == []
    timer = Timer(LONG)
    with anyio.CancelScope() as scope:
        async with TRAINER.run(endless(), callbacks=[timer]) as run:
            await run.wait_for(BatchEnd)
            scope.cancel()
    assert alarms() == []
    assert timer.seconds == timer.seconds > 0


async def test_used_again_it_counts_anew() -> None:
    timer, recorder = Timer(LONG, 6), EventRecorder()
    await fit(timer, epochs=1)
    assert (timer.steps, timer.steps_left) == (4, 2)
    await fit(timer, recorder)
    assert len(recorder.of(BatchEnd)) == timer.steps == 6


class GoesOn(Callback):
    """Gives a timer what an earlier training counted, as a backup does."""

    def __init__(self, timer: Timer, state: dict[str, Any]) -> None:
        self.timer, self.state = timer, state

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.timer.load_state_dict(self.state)


async def test_state_dict_carries_what_was_counted_over_a_resume() -> None:
    """Steps and seconds go on from there."""
    first, second = Timer(LONG, 9), Timer(LONG, 9)
    assert first.state_dict() == {"seconds": 0.0, "steps": 0}
    await fit(first, epochs=1)
    state = first.state_dict()
    assert state == {"seconds": first.seconds, "steps": 4}
    second.load_state_dict(state)
    assert second.state_dict() == state
    recorder = EventRecorder()
    await fit(second, GoesOn(second, state), recorder)
    assert len(recorder.of(BatchEnd)) == 5
    assert (second.steps, end_of(recorder).detail) == (9, "9 steps are over")
    assert second.seconds > first.seconds > 0


@pytest.mark.parametrize("state", [{"seconds": 60.0, "steps": 0}, {"seconds": 0.0, "steps": 7}])
async def test_limits_that_earlier_runs_used_up_end_training_before_the_first_step(
    state: dict[str, Any],
) -> None:
    timer, recorder = Timer(60, 7), EventRecorder()
    await fit(timer, GoesOn(timer, state), recorder)
    assert recorder.names[-1] == "TrainEnd"
    assert recorder.of(BatchEnd) == []
    assert end_of(recorder).reason == "stopped"
    assert alarms() == []


async def test_verbose_prints_when_it_ended_training(capsys: pytest.CaptureFixture[str]) -> None:
    """Not when something else did."""

    class Stops(Callback):
        def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
            self.model.stop_training = True

    await fit(Timer(max_steps=2, verbose=1))
    await fit(Timer(max_steps=1, verbose=1), Stops())
    await fit(Timer(max_steps=99, verbose=1))
    assert capsys.readouterr().out == "Timer: training ended, 2 steps are over.\n"


@pytest.mark.parametrize(
    ("argument", "given"),
    [
        ("Timer.max_seconds", {"max_seconds": 0}),
        ("Timer.max_seconds", {"max_seconds": -1.0}),
        ("Timer.max_seconds", {"max_seconds": math.nan}),
        ("Timer.max_seconds", {"max_seconds": math.inf}),
        ("Timer.max_seconds", {"max_seconds": "60"}),
        ("Timer.max_seconds", {"max_seconds": True}),
        ("Timer.max_seconds", {"max_seconds": dt.timedelta(0)}),
        ("Timer.max_steps", {"max_steps": 0}),
        ("Timer.max_steps", {"max_steps": 1.5}),
        ("Timer.max_steps", {"max_steps": True}),
        ("Timer.validate", {"max_steps": 1, "validate": 1}),
        ("Timer", {}),
    ],
)
def test_an_argument_out_of_range_is_refused_with_its_name(argument: str, given: Any) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        Timer(**given)
    assert str(raised.value).startswith(f"{argument}: found ")


def test_seconds_beyond_what_a_thread_can_wait_for_are_a_limit_too() -> None:
    TRAINER.fit_sync(PROBLEM.x, PROBLEM.y, callbacks=[Timer(1e300)])
    assert np.isfinite(float(TRAINER.state.params["b"]))
