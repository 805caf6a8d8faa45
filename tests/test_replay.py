"""`fitbus.replay`: handlers and callbacks run over what a run once told."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

import fitbus
from fitbus import (
    Applied,
    BatchEnd,
    Control,
    EpochBegin,
    EpochEnd,
    Event,
    Lagged,
    ScaleLearningRate,
    Sent,
    SetLearningRate,
    StopTraining,
    TestEnd,
    TrainBegin,
    TrainEnd,
    journal,
)
from fitbus.callbacks import (
    BackupAndRestore,
    CSVLogger,
    EarlyStopping,
    Guard,
    Journal,
    ReduceLROnPlateau,
    TensorBoard,
    Throughput,
    Timer,
)
from fitbus.errors import FitbusError, InvalidArgumentError, JournalError, ReplayError
from fitbus.testing import EventRecorder, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(128, 3)
PATIENCE: dict[str, Any] = {"monitor": "loss", "patience": 1, "min_delta": 0.05}


class Told(Event):
    """An event of one's own."""

    what: str


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The journal of a training, with a log file beside it."""
    folder = tmp_path_factory.mktemp("kept")

    class Tells(fitbus.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            assert self.run is not None
            self.run.publish(Told(what=f"epoch {epoch}"))

    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    callbacks = [Journal(folder / "journal"), CSVLogger(folder / "log.csv"), Tells()]
    trainer.fit_sync(
        PROBLEM.x, PROBLEM.y, batch_size=16, epochs=6, validation_split=0.25, callbacks=callbacks
    )
    return folder


async def test_every_handler_gets_the_events_as_they_were(kept: Path) -> None:
    """With their numbers, times and steps; waiting, concurrent, batched, filtered ones."""
    first = list(journal.read(kept / "journal", Told))
    waiting: list[Event] = []
    concurrent: list[Event] = []
    batched: list[Event] = []
    thinned: list[int] = []

    @fitbus.handler(Event)
    def waits(event: Event) -> None:
        waiting.append(event)

    @fitbus.handler(Event, buffer_size=2)
    async def slowly(event: Event) -> None:
        await anyio.lowlevel.checkpoint()
        concurrent.append(event)

    @fitbus.handler(Event, wait=False, batched=True, buffer_size=5)
    async def together(events: Sequence[Event]) -> None:
        batched.extend(events)

    @fitbus.handler(BatchEnd, every=3, where=lambda event: event.batch > 0)
    async def thin(event: BatchEnd) -> None:
        thinned.append(event.batch)

    found = await fitbus.replay(kept / "journal", [waits, [slowly, (together, thin)]], Told)
    assert waiting == concurrent == batched == first
    assert isinstance(first[-1], TrainEnd)
    assert found.events == len(first)
    assert found.report.complete
    assert found.sent == ()
    ends = [event.batch for event in first if isinstance(event, BatchEnd) and event.batch > 0]
    assert thinned == ends[2::3]


async def test_a_callback_decides_as_in_training(kept: Path, tmp_path: Path) -> None:
    """With other arguments than then: where it would have stopped; and a log is written late."""
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    recorder = EventRecorder()
    await trainer.fit(
        *(PROBLEM.x, PROBLEM.y),
        batch_size=16,
        epochs=6,
        validation_split=0.25,
        callbacks=[EarlyStopping(**PATIENCE), recorder],
    )
    stop = recorder.of(fitbus.ControlApplied)[0]
    log = CSVLogger(tmp_path / "late.csv")
    found = await fitbus.replay(kept / "journal", [EarlyStopping(**PATIENCE), log])
    assert (found.sent[0].step, found.sent[0].epoch) == (stop.step, stop.epoch)
    assert (found.sent[0].control, found.sent[0].source) == (stop.control, stop.source)
    assert (tmp_path / "late.csv").read_bytes() == (kept / "log.csv").read_bytes()


async def test_learning_rates_are_those_of_the_record_and_of_the_callback() -> None:
    events = [
        TrainBegin(epochs=4, steps_per_epoch=2, initial_epoch=0),
        *(
            EpochEnd(epoch=epoch, step=2 * epoch + 2, logs={"loss": 1.0, **rate})
            for epoch, rate in enumerate([{"learning_rate": 0.5}, {}, {}, {}])
        ),
    ]
    found = await fitbus.replay(
        events, [ReduceLROnPlateau(monitor="loss", patience=1, factor=0.5, min_lr=0.2)]
    )
    assert [(sent.control, sent.epoch, sent.step) for sent in found.sent] == [
        (SetLearningRate(0.25), 1, 4),
        (SetLearningRate(0.2), 2, 6),
    ]


async def test_controls_are_taken_down_and_acknowledged(kept: Path) -> None:
    """Returned, sent through a callback's run and waited for, or posted by a `def` hook."""
    answers: list[Any] = []

    class Sends(fitbus.Callback):
        async def on_epoch_end(self, epoch: int, logs: Any = None) -> Any:
            assert self.run is not None
            if epoch == 1:
                answers.append(await self.run.send(ScaleLearningRate(0.5), source="me"))

        def on_test_end(self, logs: Any = None) -> None:
            assert self.run is not None
            answers.append(self.run.post(StopTraining("no more"), "it").result())

    async def returns(event: EpochBegin) -> Control | None:
        return SetLearningRate(0.3) if event.epoch == 2 else None

    first = list(journal.read(kept / "journal"))
    found = await fitbus.replay(kept / "journal", [Sends(), returns])
    tests = [event for event in first if isinstance(event, TestEnd)]
    assert len(tests) == 6
    end = next(e for e in first if isinstance(e, EpochEnd) and e.epoch == 1)
    begin = next(e for e in first if isinstance(e, EpochBegin) and e.epoch == 2)
    places = [
        *(Sent(StopTraining("no more"), "it", "fit-1", e.seq, e.step, e.epoch) for e in tests),
        Sent(ScaleLearningRate(0.5), "me", "fit-1", end.seq, end.step, 1),
        Sent(SetLearningRate(0.3), found.report.subscribers[1].name, "fit-1", begin.seq, 12, 2),
    ]
    assert found.sent == tuple(sorted(places, key=lambda sent: sent.seq))
    assert Applied(end.step, 1) in answers
    assert len(answers) == 7


async def test_what_needs_training_says_so(kept: Path, tmp_path: Path) -> None:
    class Weights(fitbus.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.get_weights()

    for callback, what in (
        (Weights(), "model.get_weights"),
        (EarlyStopping(monitor="loss", restore_best_weights=True), "model.get_weights"),
        (Guard(), "run.preparation.guard_with"),
        (Throughput(), "run.driver.engine"),
    ):
        with pytest.raises(ReplayError, match=f"^{what}.* isn't there in a replay") as caught:
            await fitbus.replay(kept / "journal", [callback])
        assert caught.value.what.startswith(what)
    backup = tmp_path / "backup"
    with pytest.raises(ReplayError):
        await fitbus.replay(kept / "journal", [BackupAndRestore(backup)])
    assert not backup.exists()


async def test_errors_do_what_their_handler_says(kept: Path) -> None:
    told: list[int] = []

    def failing(on_error: Any) -> Any:
        @fitbus.handler(EpochEnd, on_error=on_error)
        async def fails(event: EpochEnd) -> None:
            told.append(event.epoch)
            if event.epoch == 2:
                raise ValueError(on_error)

        return fails

    for on_error, expected in (("log", 6), ("unsubscribe", 3), ("stop", 3)):
        told.clear()
        found = await fitbus.replay(kept / "journal", [failing(on_error)])
        assert len(told) == expected
        assert len(found.report.errors) == 1
        assert len(found.sent) == (on_error == "stop")
    told.clear()
    with pytest.raises(ValueError, match="raise"):
        await fitbus.replay(kept / "journal", [failing("raise")])
    assert told == [0, 1, 2]


async def test_several_runs_come_one_after_the_other(kept: Path) -> None:
    """Of the same id, too, as processes give it one after the other; a loss of then is let be."""
    first = list(journal.read(kept / "journal"))
    other = [TrainBegin(run="b", seq=0, epochs=1, steps_per_epoch=1, initial_epoch=0)]
    lost = Lagged(run="b", subscriber="x", count=1, first_seq=1, last_seq=1)
    recorder = EventRecorder()
    found = await fitbus.replay([*first, *other, lost, *first], [fitbus.handler(Event)(recorder)])
    assert recorder.events == [*first, *other, *first]
    assert found.events == len(recorder.events)


async def test_a_replay_can_be_cancelled_while_a_handler_hangs(kept: Path) -> None:
    entered = anyio.Event()

    async def hangs(event: EpochBegin) -> None:
        entered.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fitbus.replay, kept / "journal", [hangs])
        with anyio.fail_after(5):
            await entered.wait()
            tasks.cancel_scope.cancel()


async def test_bad_input_is_refused(kept: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    def handle(event: EpochEnd) -> None: ...

    replay: Any = fitbus.replay
    for record, handlers, types, what in (
        (3, handle, (), "record: .*give the path of a journal, or events"),
        ([StopTraining()], handle, (), "record: .*give events"),
        ([], handle, (), "record: .*there is no event in it"),
        ([EpochBegin()], 3, (), "handlers: .*give Callback objects"),
        ([EpochBegin()], EarlyStopping, (), "handlers: .*give Callback objects"),
        ([EpochBegin()], handle, (Told,), "user_types: .*for a journal's path"),
    ):
        with pytest.raises(InvalidArgumentError, match=f"(?s)^{what}"):
            await replay(record, handlers, *types)
    with pytest.raises(InvalidArgumentError, match="drain_s"):
        await fitbus.replay([EpochBegin()], [handle], drain_s=-1)
    with pytest.raises(JournalError, match="no journal in it"):
        await fitbus.replay(tmp_path / "empty", [handle])
    with pytest.raises(FitbusError, match=r"await fitbus\.replay"):
        fitbus.replay_sync([EpochBegin()], [handle])


def test_it_needs_no_jax(kept: Path) -> None:
    program = (
        "import sys, fitbus\n"
        "def ends(event: fitbus.EpochEnd): print(event.epoch)\n"
        f"fitbus.replay_sync({str(kept / 'journal')!r}, ends)\n"
        "print('jax' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [*"012345", "False"]


async def test_a_callback_can_be_used_again_after_a_replay(kept: Path) -> None:
    stopping = EarlyStopping(**PATIENCE)
    first = await fitbus.replay(kept / "journal", [stopping])
    assert (await fitbus.replay(kept / "journal", [stopping])).sent == first.sent


async def test_one_that_acts_at_certain_steps_is_refused(kept: Path) -> None:
    with pytest.raises(ReplayError, match="ask_at"):
        await fitbus.replay(kept / "journal", [Timer(max_steps=3)])


async def test_curves_are_written_afterwards(kept: Path, tmp_path: Path) -> None:
    await fitbus.replay(kept / "journal", [TensorBoard(tmp_path / "board")])
    assert {path.name for path in (tmp_path / "board").iterdir()} == {"train", "validation"}
