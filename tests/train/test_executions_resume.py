"""Fused steps that are interrupted, or whose data break off: nothing is left out, or done twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fitbus
from fitbus import BatchEnd, EpochEnd, Event, StopEpoch
from fitbus.callbacks import BackupAndRestore, Callback
from fitbus.testing import EventRecorder, toy_problem

from ._fused import Fits, bits

PROBLEM = toy_problem(40, 3)
X, Y = PROBLEM.x, PROBLEM.y
SIZE, BATCHES = 4, 10  # executions of the batches 0-3, 4-7 and 8-9


class Interrupted(Exception):
    """What ends a training in these tests."""


class Unfilled:
    """The toy problem's task, but that short batches stay short."""

    pad = False

    def __init__(self) -> None:
        self.train_step = PROBLEM.task.train_step
        self.eval_step = PROBLEM.task.eval_step
        self.predict_step = PROBLEM.task.predict_step
        self.optimizer = PROBLEM.task.optimizer


class Resumed(Callback):
    """Remembers where training went on."""

    at: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        assert self.run is not None
        found = self.run.preparation.resumed
        self.at = found and (found.epoch, found.batch)


def failing(kind: type[BatchEnd | EpochEnd], step: int) -> Callable[[Any], None]:
    """A waiting handler that interrupts training at an event of a step."""

    def fail(event: Any) -> None:
        if event.step == step:
            raise Interrupted

    return fitbus.handler(kind, wait=True)(fail)


@pytest.fixture(scope="module")
def fits() -> Fits:
    return Fits(PROBLEM.task, PROBLEM.params)


@pytest.mark.parametrize(
    ("save_freq", "kind", "step", "at"),
    [
        (4, BatchEnd, 6, (0, 4)),
        (4, BatchEnd, 19, (1, 8)),
        (3, BatchEnd, 9, (0, 8)),
        (10, EpochEnd, 10, (0, 10)),
        (7, BatchEnd, 25, (1, 8)),
        ("epoch", BatchEnd, 15, (1, 0)),
    ],
)
def test_what_was_interrupted_ends_the_same_bit_for_bit(
    fits: Fits, tmp_path: Path, save_freq: Any, kind: Any, step: int, at: tuple[int, int]
) -> None:
    """Backed up at a multiple, at what is none, after the last batch, and after an epoch."""
    options: Any = {"batch_size": 4, "epochs": 3, "steps_per_execution": SIZE}
    expected = fits.anew()
    expected.fit_sync(X, Y, **options)
    plain = bits(expected.state)
    with pytest.raises(Interrupted):
        fits.anew().fit_sync(
            X, Y, callbacks=[BackupAndRestore(tmp_path, save_freq), failing(kind, step)], **options
        )
    resumed, recorder = Resumed(), EventRecorder()
    trainer = fits.anew()
    trainer.fit_sync(
        X, Y, callbacks=[BackupAndRestore(tmp_path, save_freq), resumed, recorder], **options
    )
    assert resumed.at == at
    epoch, batch = at
    assert [(e.epoch, e.batch) for e in recorder.of(BatchEnd)] == [
        (e, b) for e in range(epoch, 3) for b in range(batch if e == epoch else 0, BATCHES)
    ]
    assert bits(trainer.state) == plain


def pieces() -> list[Any]:
    """Batches of 4, but for the third and the eighth one."""
    ends = [4, 8, 10, 14, 18, 22, 26, 28, 32, 36]
    starts = [0, *ends]
    return [(X[start:end], Y[start:end]) for start, end in zip(starts, ends, strict=False)]


class Once(Iterator[Any]):
    """The pieces, once; it can say where it is."""

    def __init__(self) -> None:
        self.index = 0

    def __next__(self) -> Any:
        if self.index == len(pieces()):
            raise StopIteration
        self.index += 1
        return pieces()[self.index - 1]

    def state_dict(self) -> dict[str, int]:
        return {"index": self.index}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.index = state["index"]


@pytest.mark.parametrize("as_iterator", [False, True], ids=["list", "iterator"])
def test_a_batch_that_waits_for_the_next_execution_isnt_skipped(
    tmp_path: Path, as_iterator: bool
) -> None:
    """It had been taken from the data when the backup was made, and not been trained on."""
    fits = Fits(Unfilled(), PROBLEM.params)

    def data() -> Any:
        return Once() if as_iterator else pieces()

    plain = fits.told(lambda: (data(),), SIZE).state
    backup = BackupAndRestore(tmp_path, 2)
    with pytest.raises(Interrupted):
        fits.anew().fit_sync(
            data(), steps_per_execution=SIZE, callbacks=[backup, failing(BatchEnd, 3)]
        )
    resumed = Resumed()
    trainer = fits.anew()
    trainer.fit_sync(data(), steps_per_execution=SIZE, callbacks=[backup, resumed])
    assert resumed.at == (0, 2)
    assert bits(trainer.state) == plain


@pytest.mark.parametrize("as_iterator", [False, True], ids=["list", "iterator"])
def test_a_batch_that_waits_is_the_first_one_of_the_next_epoch(as_iterator: bool) -> None:
    """Where that goes on in the data: the epoch before was asked to end."""
    fits = Fits(Unfilled(), PROBLEM.params)
    seen: list[list[tuple[int, int, float]]] = []
    for steps in (1, SIZE):
        recorder = EventRecorder()
        data: Any = iter(pieces()) if as_iterator else pieces()
        end = fitbus.handler(BatchEnd, wait=True)(
            lambda event: StopEpoch() if event.step == 2 else None
        )
        trainer = fits.anew()
        trainer.fit_sync(
            data,
            epochs=2,
            steps_per_epoch=5,
            steps_per_execution=steps,
            callbacks=[end, recorder],
        )
        seen.append([(e.epoch, e.batch, e.batch_logs["loss"]) for e in recorder.of(BatchEnd)])
    assert [found[:2] for found in seen[0]] == [(0, 0), (0, 1), *((1, b) for b in range(5))]
    assert seen[1] == seen[0]


def test_where_epochs_begin_anew_a_batch_that_waits_isnt_kept() -> None:
    fits = Fits(Unfilled(), PROBLEM.params)
    end = fitbus.handler(BatchEnd, wait=True)(
        lambda event: StopEpoch() if event.step == 2 else None
    )
    told = [fits.told(lambda: (pieces(),), steps, epochs=2, callbacks=[end]) for steps in (1, SIZE)]
    assert len(told[0].of("BatchEnd")) == 12
    assert told[1] == told[0]


@pytest.mark.parametrize("wait", [True, False], ids=["waiting", "running ahead"])
def test_what_came_before_data_broke_off_is_trained_on(fits: Fits, wait: bool) -> None:
    """And told of, as of single steps."""

    def broken() -> Iterator[Any]:
        for batch in range(6):
            yield X[batch : batch + 4], Y[batch : batch + 4]
        raise Interrupted

    told: list[Any] = []
    for steps in (1, SIZE):
        recorder = EventRecorder()
        record = fitbus.handler(Event, wait=wait)(lambda event, to=recorder: to(event))
        trainer = fits.anew()
        with pytest.raises(Interrupted):
            trainer.fit_sync(broken, steps_per_execution=steps, callbacks=[record])
        events = recorder.without_time()
        told.append(([{**e, "run": ""} for e in events], bits(trainer.state)))
        assert int(trainer.state.step) == len(recorder.of(BatchEnd)) == 6
    assert told[1] == told[0]
