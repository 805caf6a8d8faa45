"""What a callback has besides its hooks: the run, its parameters, and the view of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import anyio
import numpy as np
import pytest

import fitbus
from fitbus import ControlApplied, Run, SetLearningRate, StopTraining, TrainBegin
from fitbus.callbacks import Callback, Logs
from fitbus.errors import WrongThreadError
from fitbus.testing import EventRecorder, toy_problem
from fitbus.train import ModelView

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(16, 2)
X, Y = PROBLEM.x, PROBLEM.y
TRAINER = fitbus.Trainer(PROBLEM.task, PROBLEM.params)


class Looks(Callback):
    """Notes, as anything begins, what it has been given."""

    def __init__(self) -> None:
        self.given: list[tuple[str, Any]] = []

    def set_params(self, params: Mapping[str, Any]) -> None:
        self.given.append(("params", dict(params)))
        super().set_params(params)

    def set_model(self, model: Any) -> None:
        self.given.append(("model", type(model)))
        super().set_model(model)

    def look(self) -> None:
        assert isinstance(self.run, Run)
        assert isinstance(self.model, ModelView)
        self.given.append((f"{self.run.id}, {self.run.status}", dict(self.params)))

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.look()

    def on_test_begin(self, logs: Logs | None = None) -> None:
        self.look()

    async def on_predict_begin(self, logs: Logs | None = None) -> None:
        self.look()


def test_before_a_run_it_has_none() -> None:
    callback = Callback()
    assert callback.run is None
    assert callback.model is None
    assert callback.params == {}


async def test_it_is_given_params_and_model_before_its_first_hook() -> None:
    """In Keras' order, and with Keras' keys; `steps` is None where nobody can tell."""
    callback = Looks()
    run = TRAINER.run(X, Y, batch_size=4, epochs=3, validation_split=0.5, callbacks=[callback])
    async with run:
        await run.wait()
    params = {"verbose": 0, "epochs": 3, "steps": 2}
    begun = f"{run.id}, running"
    assert callback.given[:3] == [("params", params), ("model", ModelView), (begun, params)]
    assert callback.given[3:] == [(begun, params)] * 3  # the three validations

    callback.given.clear()
    batches = iter([(X, Y)] * 2)
    await TRAINER.fit(lambda: batches, epochs=2, steps_per_epoch=1, callbacks=[callback])
    assert callback.given[0] == ("params", {"verbose": 0, "epochs": 2, "steps": 1})
    callback.given.clear()
    await TRAINER.fit(lambda: iter([(X, Y)]), callbacks=[callback])
    assert callback.given[0] == ("params", {"verbose": 0, "epochs": 1, "steps": None})


async def test_params_of_an_evaluation_and_of_a_prediction() -> None:
    callback = Looks()
    await TRAINER.evaluate(X, Y, batch_size=6, callbacks=[callback])
    await TRAINER.predict(X, batch_size=4, steps=2, callbacks=[callback])
    assert [value for name, value in callback.given if name == "params"] == [
        {"verbose": 0, "epochs": 1, "steps": 3},
        {"verbose": 0, "epochs": 1, "steps": 2},
    ]
    assert [name.split("-")[0] for name, _ in callback.given if "running" in name] == [
        "evaluate",
        "predict",
    ]


async def test_params_tell_how_verbose_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    callback = Looks()
    await TRAINER.fit(X, Y, verbose=1, callbacks=[callback])
    await TRAINER.evaluate(X, Y, verbose=1, callbacks=[callback])
    await TRAINER.predict(X, verbose=1, callbacks=[callback])
    assert [value["verbose"] for name, value in callback.given if name == "params"] == [1, 1, 1]
    assert "loss" in capsys.readouterr().out


async def test_its_run_is_that_of_its_events_and_takes_controls() -> None:
    class Posts(Callback):
        rate: float | None = None

        def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
            assert self.run is not None
            receipt = self.run.post(SetLearningRate(0.25), "the callback")
            assert receipt.outcome is not None  # in a `def` hook it acts on the spot
            self.rate = self.model.optimizer.learning_rate

        async def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
            assert self.run is not None
            self.run.post(StopTraining("posted"))

    callback, recorder = Posts(), EventRecorder()
    await TRAINER.fit(X, Y, batch_size=4, epochs=10**6, callbacks=[callback, recorder])
    assert callback.rate == 0.25
    assert recorder.of(ControlApplied)[0].source == "the callback"
    (begin,) = recorder.of(TrainBegin)
    assert callback.run is not None
    assert (callback.run.id, callback.run.status) == (begin.run, "stopped")


async def test_async_hooks_await_the_run_where_def_hooks_use_the_model() -> None:
    """The view's state and compute are refused there, with the names of what to use instead."""

    class Asks(Callback):
        refused: list[str]
        weights: list[Any]
        step = -1
        shape: tuple[int, ...] = ()

        def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
            self.weights = self.model.get_weights()
            self.shape = self.model.predict(X).shape

        async def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
            assert self.run is not None
            self.refused = []
            uses: list[Callable[[], Any]] = [
                self.model.get_weights,
                lambda: self.model.set_weights(self.weights),
                lambda: self.model.optimizer.learning_rate,
                lambda: self.model.predict(X),
                lambda: self.model.state,
            ]
            for use in uses:
                with pytest.raises(WrongThreadError) as raised:
                    use()
                self.refused.append(str(raised.value))
            assert not self.model.stop_training  # may be asked anywhere
            snapshot = await self.run.snapshot()
            outputs = await self.run.predict(X)
            self.step = int(snapshot.step)
            assert outputs.shape == self.shape == (16,)

    callback, recorder = Asks(), EventRecorder()
    with anyio.fail_after(30):
        await TRAINER.fit(X, Y, batch_size=4, callbacks=[callback, recorder])
    assert callback.step == recorder.of(fitbus.EpochEnd)[0].step
    assert len(callback.refused) == 5
    assert all("`await run.snapshot()`" in text for text in callback.refused)
    assert [type(weight) for weight in callback.weights] == [np.ndarray] * 2


async def test_after_the_run_the_view_of_its_state_is_refused() -> None:
    """It could be asked for what the next training donates."""
    callback = Looks()
    await TRAINER.fit(X, Y, callbacks=[callback])
    with pytest.raises(WrongThreadError):
        callback.model.get_weights()
