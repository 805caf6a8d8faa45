"""The progress bar, in a terminal, in a file, and at its ends."""

from __future__ import annotations

import io
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from rich.console import Console

import fitbus
from fitbus import BatchEnd, EpochBegin, EpochEnd, PredictBegin, StopTraining, TestBegin, TrainEnd
from fitbus.callbacks import Callback, ProgressBar
from fitbus.callbacks._progress import Progress, speed
from fitbus.testing import Gate, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(256)
X, Y = PROBLEM.x, PROBLEM.y
TRAINER = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"
LINE = re.compile(r"epoch (\d)/3 +[\d.]+s +[\d.,]+ steps/s  loss [\d.e-]+  mean_absolute_error \S+")


class Screen(io.StringIO):
    """What a console writes; says when."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = threading.Condition()
        self.frames: list[float] = []  # when the live view was drawn

    def write(self, text: str) -> int:
        with self.changed:
            if "━" in text:
                self.frames.append(time.monotonic())
            self.changed.notify_all()
            return super().write(text)

    def wait_for(self, pattern: str) -> None:
        """Waits, in a thread, until something is there."""
        with self.changed:
            assert self.changed.wait_for(lambda: re.search(pattern, self.text), 10), self.text

    @property
    def text(self) -> str:
        """All of it, without the codes that color and move."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())

    @property
    def clean(self) -> bool:
        """Whether something live was shown, and the cursor is back after it."""
        shown, hidden = self.getvalue().count(SHOW_CURSOR), self.getvalue().count(HIDE_CURSOR)
        return shown == hidden > 0


def terminal(screen: Screen, width: int = 100) -> Console:
    return Console(file=screen, force_terminal=True, force_interactive=True, width=width)


def plain(file: io.StringIO) -> Console:
    return Console(file=file, width=80)


async def test_without_a_terminal_it_prints_a_line_an_epoch_and_no_codes() -> None:
    file = io.StringIO()
    bar = ProgressBar(console=plain(file))
    await TRAINER.fit(X, Y, epochs=3, validation_split=0.25, callbacks=[bar])
    found = [LINE.match(line) for line in file.getvalue().splitlines()]
    assert [line and line[1] for line in found] == ["1", "2", "3"]
    assert file.getvalue().count("  val_loss ") == 3
    assert "\x1b" not in file.getvalue()


async def test_without_a_live_view_a_terminal_gets_the_lines_only() -> None:
    """What `verbose=2` asks for: in color, but nothing is redrawn, and the cursor stays."""
    screen = Screen()
    bar = ProgressBar(live=False, console=terminal(screen))
    await TRAINER.fit(X, Y, epochs=3, validation_split=0.25, callbacks=[bar])
    assert [line[1] for line in LINE.finditer(screen.text)] == ["1", "2", "3"]
    assert len(screen.text.splitlines()) == 3
    assert HIDE_CURSOR not in screen.getvalue()
    assert "━" not in screen.text


async def test_in_a_terminal_the_present_epoch_is_live_and_each_leaves_a_line() -> None:
    screen, shown = Screen(), threading.Event()

    def hold(event: BatchEnd) -> None:
        if (event.epoch, event.batch) == (1, 0):
            screen.wait_for(r"epoch [━╸╺]+ 2/3 +0:0\d, 0:0\d left")
            screen.wait_for(r"batch [━╸╺]+ 1/8 +[\d.,]+ steps/s")
            screen.wait_for(r"\nloss \S+  mean_absolute_error \S+")
            shown.set()

    bar = ProgressBar(console=terminal(screen))
    await TRAINER.fit(X, Y, epochs=3, callbacks=[bar, hold])
    assert shown.is_set()
    assert [line[1] for line in LINE.finditer(screen.text)] == ["1", "2", "3"]
    assert screen.clean
    assert "━" not in screen.text[screen.text.rindex("epoch 3/3") :]  # the view is gone


async def test_leave_false_leaves_nothing() -> None:
    screen = Screen()
    await TRAINER.fit(
        X, Y, epochs=3, callbacks=[ProgressBar(console=terminal(screen), leave=False)]
    )
    assert screen.clean
    assert LINE.search(screen.text) is None


async def test_it_draws_at_most_twice_a_second_however_fast_batches_come() -> None:
    screen, steps = Screen(), 0

    def stop(event: EpochEnd) -> StopTraining | None:
        nonlocal steps
        steps = event.step
        return StopTraining("seen enough") if len(screen.frames) > 1 else None

    before = TRAINER.state.step
    bar = ProgressBar(console=terminal(screen))
    await TRAINER.fit(X, Y, batch_size=4, epochs=10**6, callbacks=[bar, stop])
    first, second = screen.frames[:2]
    assert second - first > 0.45
    assert len(screen.frames) <= 4  # with the last one, and one that may have come before the stop
    assert steps - int(before) > 4 * len(screen.frames)


async def test_it_looks_at_few_batches_and_training_does_not_wait_for_it() -> None:
    run = TRAINER.run(
        X, Y, batch_size=1, epochs=2, callbacks=[ProgressBar(console=plain(io.StringIO()))]
    )
    async with run:
        await run.wait()
    assert run.report is not None
    looks = run.report.by_name["ProgressBar batches"]
    assert 1 <= looks.delivered < 50  # of 512
    assert looks.held_s == 0


async def test_a_terminal_that_hangs_holds_nobody() -> None:
    gate, ended = Gate(), []

    class Hanging(Screen):
        def write(self, text: str) -> int:
            gate.pass_sync()
            return super().write(text)

    screen = Hanging()

    def count(event: EpochEnd) -> None:
        ended.append(event.epoch)

    def end(event: TrainEnd) -> None:
        assert screen.getvalue() == ""
        gate.open()

    await TRAINER.fit(X, Y, epochs=3, callbacks=[end, count, ProgressBar(console=terminal(screen))])
    assert ended == [0, 1, 2]
    assert [line[1] for line in LINE.finditer(screen.text)] == ["1", "2", "3"]
    assert screen.clean


async def test_what_can_not_be_written_does_not_disturb_training(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError("no space left")

    with caplog.at_level(logging.WARNING, "fitbus"):
        history = await TRAINER.fit(
            X, Y, epochs=3, callbacks=[ProgressBar(console=plain(Broken()))]
        )
    assert len(history.epoch) == 3
    assert [record.getMessage() for record in caplog.records] == [
        "progress can't be shown any more: OSError('no space left')"
    ]


async def test_an_unknown_number_of_batches_is_learned_from_the_first_epoch() -> None:
    screen, shown = Screen(), threading.Event()

    def batches() -> Iterator[Any]:
        return ((X[i : i + 32], Y[i : i + 32]) for i in range(0, 256, 32))

    def hold(event: EpochBegin | BatchEnd) -> None:
        if isinstance(event, EpochBegin):
            if event.epoch == 0:
                screen.wait_for(r"batch [━╸╺]+ 0 +waiting for the first batch")
        elif (event.epoch, event.batch) == (1, 0):
            screen.wait_for(r"batch [━╸╺]+ 1/8 ")
            shown.set()

    await TRAINER.fit(batches, epochs=2, callbacks=[ProgressBar(console=terminal(screen)), hold])
    assert shown.is_set()


async def test_evaluation_and_prediction_show_progress_and_leave_a_line() -> None:
    screen = Screen()
    bar = ProgressBar(console=terminal(screen))

    def hold(event: TestBegin | PredictBegin) -> None:
        kind = "evaluate" if isinstance(event, TestBegin) else "predict"
        screen.wait_for(rf"{kind} [━╸╺]+ 0/8 ")

    logs = await TRAINER.evaluate(X, Y, callbacks=[bar, hold])
    assert re.search(rf"evaluate  8 batches +[\d.]+s.*  loss {logs['loss']:.4g}", screen.text)
    await TRAINER.predict(X, callbacks=[bar, hold])
    last = screen.text.splitlines()[-1]
    assert re.fullmatch(r".*predict  8 batches +[\d.]+s( +[\d.,]+ steps/s)?", last)
    assert screen.clean


async def test_validation_inside_fit_is_silent() -> None:
    file = io.StringIO()
    await TRAINER.fit(
        X, Y, epochs=3, validation_split=0.5, callbacks=[ProgressBar(console=plain(file))]
    )
    assert "evaluate" not in file.getvalue()
    assert len(file.getvalue().splitlines()) == 3


async def test_it_shows_what_other_callbacks_add_to_the_logs() -> None:
    class Add(Callback):
        def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            assert logs is not None
            logs["learning_rate"] = 0.00025
            logs["note"] = "a text"

    file = io.StringIO()
    await TRAINER.fit(X, Y, callbacks=[Add(), ProgressBar(console=plain(file))])
    assert "  learning_rate 0.00025  note a text\n" in file.getvalue()


class Boom(Exception):
    pass


async def fails(bar: ProgressBar) -> None:
    async def fail(event: BatchEnd) -> None:
        raise Boom

    with pytest.raises(Boom):
        await TRAINER.fit(X, Y, epochs=10**6, callbacks=[bar, fail])


async def is_cancelled(bar: ProgressBar) -> None:
    async def cancel(event: BatchEnd) -> None:
        scope.cancel()

    with anyio.CancelScope() as scope:
        await TRAINER.fit(X, Y, epochs=10**6, callbacks=[bar, cancel])
    assert scope.cancelled_caught


async def fails_in_an_evaluation(bar: ProgressBar) -> None:
    def fail(event: TestBegin) -> None:
        raise Boom

    with pytest.raises(Boom):
        await TRAINER.evaluate(X, Y, callbacks=[bar, fail])


async def fails_in_the_data_of_a_prediction(bar: ProgressBar) -> None:
    def batches() -> Iterator[Any]:
        yield X[:32]
        raise Boom

    with pytest.raises(Boom):
        await TRAINER.predict(batches, callbacks=[bar])


async def is_stopped(bar: ProgressBar) -> None:
    async def stop(event: BatchEnd) -> StopTraining:
        return StopTraining("enough")

    await TRAINER.fit(X, Y, epochs=10**6, callbacks=[bar, stop])


@pytest.mark.parametrize(
    "ending",
    [
        fails,
        is_cancelled,
        is_stopped,
        fails_in_an_evaluation,
        fails_in_the_data_of_a_prediction,
    ],
)
async def test_the_terminal_is_left_clean_by_a_run_that(ending: Callable[..., Any]) -> None:
    screen = Screen()
    console = terminal(screen)
    bar = ProgressBar(console=console)
    await ending(bar)
    assert screen.clean
    console.print("the console can be used")
    assert screen.text.endswith("the console can be used\n")
    assert not [t for t in threading.enumerate() if t.name == "fitbus progress bar"]


async def test_two_runs_at_once_share_a_terminal() -> None:
    screen = Screen()
    console = terminal(screen)

    async def fit() -> None:
        trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
        await trainer.fit(X, Y, epochs=3, callbacks=[ProgressBar(console=console)])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fit)
        tasks.start_soon(fit)
    assert sorted(line[1] for line in LINE.finditer(screen.text)) == ["1", "1", "2", "2", "3", "3"]
    assert screen.clean


async def test_verbose_attaches_one(capsys: pytest.CaptureFixture[str]) -> None:
    await TRAINER.fit(X, Y, verbose=1)
    assert capsys.readouterr().out.startswith("epoch 1/1 ")


# What it knows, without a run: times are those of the events.


def batch_end(batch: int, after_s: float, epoch: int = 0) -> BatchEnd:
    event = BatchEnd(batch=batch, logs={"loss": 0.5}, batch_logs={})
    return event.__replace__(time=time.time() + after_s, epoch=epoch)


async def see(progress: Progress, event: BatchEnd) -> bool:
    due = progress.is_due(event)
    if due:
        await progress.look(event)
    return due


async def test_the_clock_starts_with_the_first_batch_since_a_compilation_comes_before() -> None:
    progress = Progress(101, 1, "fit")
    progress.begin_epoch(0)
    assert progress.view("running").rows[0].text == "0:00  waiting for the first batch"
    assert await see(progress, batch_end(0, 50.0))
    assert not await see(progress, batch_end(1, 50.1))
    assert await see(progress, batch_end(50, 55.0))
    (row,) = progress.view("running").rows
    assert row[:4] == ("batch", 51, 101, "51/101")
    assert row.text == "0:00, 0:05 left  10.0 steps/s"
    assert progress.view("running").logs == {"loss": 0.5}


async def test_time_left_counts_the_epochs_that_come() -> None:
    progress = Progress(101, 4, "fit")
    progress.begin_epoch(0)
    await see(progress, batch_end(0, 0.0))
    await see(progress, batch_end(50, 5.0))
    epochs, batches = progress.view("running").rows
    assert (epochs.amount, epochs.text) == ("1/4", "0:00, 0:35 left")
    assert (batches.amount, batches.text) == ("51/101", "10.0 steps/s")


async def test_a_batch_that_is_looked_at_late_does_not_move_the_next_epoch() -> None:
    progress = Progress(8, 2, "fit")
    progress.begin_epoch(0)
    progress.is_due(batch_end(7, 0.0))
    progress.end_epoch()
    progress.begin_epoch(1)
    await progress.look(batch_end(7, 0.0))
    assert progress.view("running").rows[1].amount == "0/8"


async def test_more_batches_than_learned_make_the_number_unknown_again() -> None:
    progress = Progress(None, 3, "fit")
    for epoch, count in enumerate((2, 4)):
        progress.begin_epoch(epoch)
        progress.is_due(batch_end(count - 1, 0.0, epoch))
        progress.end_epoch()
    progress.begin_epoch(2)
    assert progress.view("running").rows[1].amount == "0/4"
    assert await see(progress, batch_end(4, 9.0, 2))
    assert progress.view("running").rows[1].amount == "5"


def test_it_says_when_training_is_paused_or_validates() -> None:
    progress = Progress(8, 2, "fit")
    progress.begin_epoch(0)
    assert progress.view("paused").rows[1].text == "paused"
    progress.begin_validation()
    assert progress.view("running").rows[1].text == "validating"


@pytest.mark.parametrize(
    ("a_second", "text"),
    [(12345.6, "12,346 steps/s"), (12.34, "12.3 steps/s"), (0.25, "4.0 s/step"), (None, "")],
)
def test_speed_has_a_unit_that_suits(a_second: float | None, text: str) -> None:
    assert speed(a_second) == text


@pytest.mark.slow
def test_without_rich_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['rich'] = None\n"
        "import fitbus.callbacks._progress_bar\n"
        "fitbus.callbacks.ProgressBar()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "fitbus.errors.FitbusError: ProgressBar needs rich, which isn't installed:"
        ' pip install "fitbus[demo]"'
    )
