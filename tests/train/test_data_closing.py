"""Data sources are closed when a run ends, and what closing raises leaves as itself."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import fitbus
from fitbus import BatchEnd, EpochEnd, TrainEnd
from fitbus.testing import EventRecorder, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(64, 4)
X, Y = PROBLEM.x, PROBLEM.y
BATCH = (X[:32], Y[:32])
FOREVER = 10**6
MADE: list[Any] = []


@pytest.fixture(scope="module")
def trainer() -> fitbus.Trainer:
    return fitbus.Trainer(PROBLEM.task, PROBLEM.params)


def endless(at_close: Callable[[], object]) -> Callable[[], Iterator[Any]]:
    def batches() -> Iterator[Any]:
        try:
            while True:
                yield BATCH
        finally:
            at_close()

    return batches


def endless_async(at_close: Callable[[], object]) -> Callable[[], AsyncIterator[Any]]:
    async def batches() -> AsyncIterator[Any]:
        try:
            while True:
                yield BATCH
                await anyio.lowlevel.checkpoint()
        finally:
            at_close()

    return batches


def kept(factory: Callable[[], Any]) -> Callable[[], Any]:
    """The same, of what nobody lets go of: only who closes it closes it."""

    def make() -> Any:
        MADE.append(factory())
        return MADE[-1]

    return make


KINDS = pytest.mark.parametrize("kind", [endless, endless_async])


def raising(error: BaseException) -> Callable[[], object]:
    def at_close() -> object:
        raise error

    return at_close


# What closing raises.


@KINDS
async def test_it_leaves_alone_as_itself(trainer: fitbus.Trainer, kind: Any) -> None:
    """And the run has failed, not completed or cancelled."""
    error, recorder = OSError("connection lost"), EventRecorder()
    with pytest.raises(OSError, match="connection lost") as caught:
        await trainer.fit(
            kind(raising(error)), epochs=2, steps_per_epoch=2, callbacks=[recorder], batch_size=32
        )
    assert caught.value is error
    (end,) = recorder.of(TrainEnd)
    assert (end.reason, end.detail) == ("failed", "OSError: connection lost")
    assert len(recorder.of(EpochEnd)) == 2


@KINDS
async def test_of_validation_data_at_the_next_validation(
    trainer: fitbus.Trainer, kind: Any
) -> None:
    """Each validation begins a pass anew, and so ends the one before it."""
    error, recorder = OSError("connection lost"), EventRecorder()
    with pytest.raises(OSError, match="connection lost") as caught:
        await trainer.fit(
            X,
            Y,
            epochs=FOREVER,
            validation_data=kind(raising(error)),
            validation_steps=1,
            callbacks=[recorder],
        )
    assert caught.value is error
    assert [end.reason for end in recorder.of(TrainEnd)] == ["failed"]
    assert len(recorder.of(EpochEnd)) == 1


@KINDS
async def test_of_evaluate_and_predict(trainer: fitbus.Trainer, kind: Any) -> None:
    error = OSError("connection lost")
    for call in (trainer.evaluate, trainer.predict):
        with pytest.raises(OSError, match="connection lost") as caught:
            await call(kind(raising(error)), steps=2)
        assert caught.value is error


@KINDS
async def test_of_two_sources_the_first_leads(trainer: fitbus.Trainer, kind: Any) -> None:
    with pytest.raises(OSError, match="training") as caught:
        await trainer.fit(
            kind(raising(OSError("training"))),
            steps_per_epoch=2,
            validation_data=kind(raising(OSError("validation"))),
            validation_steps=1,
        )
    assert "fitbus: also closing the data raised OSError: validation" in caught.value.__notes__


@KINDS
@pytest.mark.parametrize("wait", [True, False])
async def test_a_handlers_error_leads(trainer: fitbus.Trainer, kind: Any, wait: bool) -> None:
    async def fail(event: BatchEnd) -> None:
        raise KeyError("handler")

    with pytest.raises(KeyError, match="handler") as caught:
        await trainer.fit(
            kind(raising(OSError("lost"))),
            steps_per_epoch=FOREVER,
            callbacks=[fitbus.handler(BatchEnd, wait=wait)(fail)],
        )
    assert "fitbus: also closing the data raised OSError: lost" in caught.value.__notes__


@KINDS
async def test_the_bodys_error_leads(trainer: fitbus.Trainer, kind: Any) -> None:
    run = trainer.run(kind(raising(OSError("lost"))), steps_per_epoch=FOREVER)

    async def body() -> None:
        async with run:
            await run.wait_for(BatchEnd)
            raise KeyError("body")

    with pytest.raises(KeyError, match="body") as caught:
        await body()
    assert caught.value.__notes__ == ["fitbus: also closing the data raised OSError: lost"]
    assert run.status == "cancelled"


@KINDS
async def test_a_cancellation_leads(
    trainer: fitbus.Trainer, kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """What closing raised is logged."""
    error = OSError("lost")
    recorder = EventRecorder()
    run = trainer.run(kind(raising(error)), steps_per_epoch=FOREVER, callbacks=[recorder])
    with caplog.at_level(logging.ERROR, "fitbus"), anyio.CancelScope() as scope:
        async with run:
            await run.wait_for(BatchEnd)
            scope.cancel()
    assert scope.cancelled_caught
    assert [end.reason for end in recorder.of(TrainEnd)] == ["cancelled"]
    (logged,) = caplog.records
    assert logged.exc_info is not None
    assert logged.exc_info[1] is error


@KINDS
async def test_an_interrupt_leaves_as_itself(trainer: fitbus.Trainer, kind: Any) -> None:
    interrupt, recorder = KeyboardInterrupt(), EventRecorder()
    with pytest.raises(KeyboardInterrupt) as caught:
        await trainer.fit(
            kind(raising(interrupt)), steps_per_epoch=2, callbacks=[recorder], batch_size=32
        )
    assert caught.value is interrupt
    assert [end.reason for end in recorder.of(TrainEnd)] == ["cancelled"]


# What is closed, and where.


@KINDS
async def test_what_a_factory_made_is_closed_when_fit_returns(
    trainer: fitbus.Trainer, kind: Any
) -> None:
    """The training data once, the validation data once for each epoch."""
    closed: list[str] = []
    await trainer.fit(
        kept(kind(lambda: closed.append("x"))),
        epochs=2,
        steps_per_epoch=2,
        validation_data=kept(kind(lambda: closed.append("validation"))),
        validation_steps=1,
    )
    assert sorted(closed) == ["validation", "validation", "x"]


async def test_a_generator_is_closed_in_the_training_thread(trainer: fitbus.Trainer) -> None:
    names: list[str] = []

    def note() -> None:
        names.append(threading.current_thread().name)

    run = trainer.run(kept(endless(note)), steps_per_epoch=2)
    async with run:
        pass
    assert names == [f"fitbus {run.id}"]


async def test_beside_a_run_too(trainer: fitbus.Trainer) -> None:
    closed: list[str] = []
    run = trainer.run(X, Y, epochs=FOREVER)
    async with run:
        await run.evaluate(kept(endless(lambda: closed.append("quiet"))), steps=2)
        told = kept(endless(lambda: closed.append("told")))
        await run.evaluate(told, steps=2, callbacks=[EventRecorder()])
        await run.send(fitbus.StopTraining())
    assert closed == ["quiet", "told"]


@pytest.mark.parametrize("kind", [endless, endless_async])
async def test_what_the_caller_made_goes_on_in_the_next_fit(
    trainer: fitbus.Trainer, kind: Any
) -> None:
    closed: list[str] = []
    batches = kind(lambda: closed.append("x"))()
    for _ in range(2):
        assert (await trainer.fit(batches, steps_per_epoch=2)).epoch == [0]
    assert not closed
    if isinstance(batches, AsyncIterator):
        await batches.aclose()  # type: ignore[attr-defined]  # it is a generator
    else:
        batches.close()
    assert closed == ["x"]
