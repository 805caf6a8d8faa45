"""What callbacks compute with `self.model`, and where all of it is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fitbus
from fitbus import Callback, EpochEnd, Event, PredictEnd, Run, StopTraining, TestBatchEnd, TestEnd
from fitbus.errors import WrongThreadError
from fitbus.testing import EventRecorder, toy_problem

from ._at import At

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(64, 4)
X, Y = PROBLEM.x, PROBLEM.y
SHARED = fitbus.Trainer(PROBLEM.task, PROBLEM.params)


async def test_it_predicts_and_evaluates_with_the_weights_of_the_moment(
    trainer: fitbus.Trainer,
) -> None:
    """Those that a hook has just set among them. Keras' return values: the loss first."""
    found: list[Any] = []

    def compute(model: Any) -> None:
        model.set_weights([np.float32(0.5), np.ones(4)])
        found.append(model.predict(X, batch_size=24))
        found.append(model.evaluate(X, Y, batch_size=24, verbose=0))
        found.append(model.evaluate(X, Y, 24, return_dict=True))
        found.append(model.evaluate(X, Y, 24, steps=1, sample_weight=np.ones(64)))
        found.append(model.predict(X, 24, 0, 2))

    await trainer.fit(X, Y, batch_size=32, callbacks=[At("on_epoch_end", compute)])
    predictions = X @ np.ones(4, np.float32) + np.float32(0.5)
    error = np.abs(predictions - Y)
    outputs, values, logs, first, half = found
    np.testing.assert_allclose(outputs, predictions, atol=1e-5)
    assert values == pytest.approx([(error**2).mean(), error.mean()], rel=1e-5)
    assert logs == {"loss": values[0], "mean_absolute_error": values[1]}
    assert first == pytest.approx([(error[:24] ** 2).mean(), error[:24].mean()], rel=1e-5)
    np.testing.assert_allclose(half, predictions[:48], atol=1e-5)


async def test_computing_publishes_nothing_unless_given_callbacks(trainer: fitbus.Trainer) -> None:
    """Then it is a run of its own; handlers that wait for it on the loop are waited for."""
    nested, everywhere = EventRecorder(), EventRecorder()
    subscription = trainer.bus.add(everywhere)
    on_loop: list[Event] = []

    async def waits(event: PredictEnd) -> None:
        on_loop.append(event)

    def compute(model: Any) -> None:
        model.predict(X)
        model.evaluate(X, Y)
        model.predict(X, callbacks=[nested, waits])
        assert len(on_loop) == 1

    run = trainer.run(X, Y, batch_size=32, callbacks=[At("on_epoch_end", compute)])
    async with run:
        pass
    subscription.cancel()
    (id,) = {event.run for event in nested.events}
    assert nested.names == [
        *("PredictBegin", *["PredictBatchBegin", "PredictBatchEnd"] * 2, "PredictEnd")
    ]
    assert [event for event in everywhere.events if event.run == id] == nested.events
    others = [event for event in everywhere.events if event.run != id]
    assert [event.seq for event in others] == list(range(len(others)))
    assert {event.run for event in others} == {run.id}


async def test_what_goes_wrong_inside_is_the_hooks_to_handle(trainer: fitbus.Trainer) -> None:
    """An error, and a stop, of a nested evaluation leave training alone."""

    @fitbus.handler(TestEnd)
    def broken(event: TestEnd) -> None:
        raise ZeroDivisionError("nested")

    @fitbus.handler(TestBatchEnd)
    def stop(event: TestBatchEnd) -> StopTraining:
        return StopTraining()

    done: list[bool] = []

    def compute(model: Any) -> None:
        with pytest.raises(ZeroDivisionError, match="nested"):
            model.evaluate(X, Y, callbacks=[broken])
        half = model.evaluate(X[:32], Y[:32])
        assert model.evaluate(X, Y, callbacks=[stop]) == half
        done.append(model.stop_training)

    computes = At("on_epoch_end", compute)
    history = await trainer.fit(X, Y, batch_size=32, epochs=2, callbacks=[computes])
    assert (history.epoch, done) == ([0, 1], [False, False])


# Where it is refused.

USES: dict[str, Callable[[Any], object]] = {
    "get_weights": lambda model: model.get_weights(),
    "set_weights": lambda model: model.set_weights([0, np.zeros(4)]),
    "save_weights": lambda model: model.save_weights(Path("never written")),
    "load_weights": lambda model: model.load_weights("never read"),
    "predict": lambda model: model.predict(X),
    "evaluate": lambda model: model.evaluate(X, Y),
    "state": lambda model: model.state,
    "stop_evaluating": lambda model: model.stop_evaluating,
    "stop_predicting": lambda model: setattr(model, "stop_predicting", True),
    "optimizer": lambda model: model.optimizer.learning_rate,
}


def refused(model: Any) -> list[str]:
    """What is refused here, naming what to use."""
    found: list[str] = []
    for name, use in USES.items():
        with pytest.raises(WrongThreadError, match=rf"model\.{name} belongs to") as caught:
            use(model)
        for remedy in ("await run.snapshot()", "run.predict", "run.evaluate"):
            assert remedy in str(caught.value)
        found.append(name)
    return found


class Everywhere(Callback):
    """Tries the model where its state may be another's."""

    def __init__(self) -> None:
        self.refused: dict[str, list[str]] = {}

    async def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Training waits, but its thread isn't this one."""
        self.refused["async, waited for"] = refused(self.model)

    async def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.refused["async, concurrent"] = refused(self.model)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        assert len(self.model.get_weights()) == 2  # here it is allowed


async def test_elsewhere_it_is_refused_with_what_to_use(trainer: fitbus.Trainer) -> None:
    callback = Everywhere()
    with pytest.raises(AttributeError):
        refused(callback.model)  # not attached yet: None
    run = trainer.run(X, Y, batch_size=32, callbacks=[callback])
    callback.refused["before"] = refused(callback.model)

    def in_worker(event: EpochEnd) -> None:
        callback.refused["in a worker"] = refused(callback.model)

    run.add(in_worker, wait=False)
    async with run:
        callback.refused["in the body"] = refused(callback.model)
    callback.refused["after"] = refused(callback.model)
    assert all(found == [*USES] for found in callback.refused.values())
    assert sorted(callback.refused) == [
        "after",
        "async, concurrent",
        "async, waited for",
        "before",
        "in a worker",
        "in the body",
    ]


async def test_the_model_of_another_run_is_refused(trainer: fitbus.Trainer) -> None:
    """In its hooks a thread has the state of its own run only."""
    found: list[list[str]] = []
    other: Run[Any] = fitbus.Trainer(PROBLEM.task, PROBLEM.params).run(X, Y, epochs=10**6)
    async with other:
        view = other.model("a stranger")
        refuses = At("on_epoch_end", lambda model: found.append(refused(view)))
        await trainer.fit(X, Y, callbacks=[refuses])
        await other.send(StopTraining())
    assert found == [[*USES]]


async def test_a_stop_may_be_asked_for_anywhere(trainer: fitbus.Trainer) -> None:
    """By an async hook too; it acts at the next boundary."""

    class Stops(Callback):
        async def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if epoch == 1:
                self.model.stop_training = True

    history = await trainer.fit(X, Y, batch_size=32, epochs=10**6, callbacks=[Stops()])
    assert history.epoch == [0, 1]
