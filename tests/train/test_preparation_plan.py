"""Controls that are planned for a step: they act exactly there, and hold training nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

import fitbus
from fitbus.callbacks import Callback, Logs
from fitbus.control import Control, SetHyperparameter, SetLearningRate, StopTraining
from fitbus.errors import ControlRejectedError
from fitbus.events import BatchBegin, BatchEnd, ControlApplied, TrainEnd
from fitbus.testing import EventRecorder, toy_problem
from fitbus.train import NO_MEAN

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(32, 2)
TRAINER = fitbus.Trainer(PROBLEM.task, PROBLEM.params)


class Planner(Callback):
    """Plans controls by the number of updates of this training."""

    def __init__(self, controls: dict[int, Control]) -> None:
        self.controls = controls
        self.asked: list[int] = []
        self.begin = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        assert self.run is not None
        self.begin = self.model.optimizer.iterations
        steps = sorted(self.controls)

        def ask(step: int) -> tuple[Control | None, int | None]:
            self.asked.append(step - self.begin)
            control = self.controls[steps.pop(0)]
            return control, self.begin + steps[0] if steps else None

        self.run.preparation.ask_at(self.begin + steps[0], "Planner", ask)


async def fit(*callbacks: Any, epochs: int = 3) -> Any:
    """Eight steps in an epoch."""
    return await TRAINER.fit(PROBLEM.x, PROBLEM.y, batch_size=4, epochs=epochs, callbacks=callbacks)


async def test_they_act_at_their_steps() -> None:
    """And are asked for nowhere else."""
    planner = Planner({0: SetLearningRate(0.25), 3: SetLearningRate(0.5), 10: StopTraining("done")})
    recorder = EventRecorder()
    await fit(planner, recorder)
    assert planner.asked == [0, 3, 10]
    applied = [(e.step - planner.begin, e.control, e.source) for e in recorder.of(ControlApplied)]
    assert applied == [(step, c, "Planner") for step, c in planner.controls.items()]
    ends = [event.step - planner.begin for event in recorder.of(BatchEnd)]
    assert ends == list(range(1, 11))
    (end,) = recorder.of(TrainEnd)
    assert (end.reason, end.detail, end.source) == ("stopped", "done", "Planner")


async def test_training_waits_for_no_handler_of_a_batch() -> None:
    planner = Planner({3: SetLearningRate(0.5)})
    waits: list[bool] = []

    def looks(event: fitbus.EpochEnd) -> None:
        assert planner.run is not None
        engine = planner.run.driver.engine
        assert engine is not None
        waits.extend(engine.publisher.waits(kind) for kind in (BatchBegin, BatchEnd))

    await fit(planner, looks, epochs=1)
    assert planner.asked == [3]
    assert waits == [False, False]


async def test_a_rejected_one_fails_the_run_there() -> None:
    planner, recorder = Planner({2: SetHyperparameter("nothing", 1.0)}), EventRecorder()
    with pytest.raises(ControlRejectedError, match="there is no 'nothing'"):
        await fit(planner, recorder)
    assert int(TRAINER.state.step) - planner.begin == 2
    assert recorder.of(TrainEnd)[0].reason == "failed"


async def test_an_error_of_who_is_asked_is_raised_as_itself() -> None:
    class Wrong(Callback):
        def on_train_begin(self, logs: Logs | None = None) -> None:
            assert self.run is not None
            self.run.preparation.ask_at(0, "Wrong", lambda step: (None, step // 0))

    with pytest.raises(ZeroDivisionError):
        await fit(Wrong())


async def test_who_asks_for_a_step_that_is_past_is_asked_once_at_each_step() -> None:
    asked: list[int] = []

    class Always(Callback):
        def on_train_begin(self, logs: Logs | None = None) -> None:
            def ask(step: int) -> tuple[Control | None, int | None]:
                asked.append(step)
                return None, 0

            assert self.run is not None
            self.run.preparation.ask_at(0, "Always", ask)

    before = int(TRAINER.state.step)
    await fit(Always(), epochs=1)
    assert asked == list(range(before, before + 9))


async def test_two_plans_for_one_step_act_in_the_order_of_planning() -> None:
    first, second = Planner({1: SetLearningRate(0.5)}), Planner({1: SetLearningRate(0.125)})
    recorder = EventRecorder()
    await fit(first, second, recorder, epochs=1)
    values = [event.control for event in recorder.of(ControlApplied)]
    assert values == [SetLearningRate(0.5), SetLearningRate(0.125)]
    assert float(TRAINER.state.opt_state.hyperparams["learning_rate"]) == 0.125


def test_a_mean_without_weight_can_be_told_from_a_loss_that_diverged() -> None:
    """It is the object `NO_MEAN`, in the event and in the logs of a hook."""
    found: list[tuple[bool, bool]] = []

    class Looks(Callback):
        def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
            assert logs is not None
            found.append((logs["loss"] is NO_MEAN, logs["loss"] == logs["loss"]))

    x = PROBLEM.x.copy()
    x[8:12] = float("nan")
    weight = [0.0] * 4 + [1.0] * 28
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    trainer.fit_sync(
        x, PROBLEM.y, batch_size=4, sample_weight=weight, shuffle=False, callbacks=[Looks()]
    )
    assert found == [(True, False), (False, True)] + [(False, False)] * 6
