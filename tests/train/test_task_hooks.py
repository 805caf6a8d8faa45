"""What a task may do besides its steps: when its hooks are called, where, and when they fail."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import anyio
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fitbus
from fitbus import BatchEnd, EpochBegin, TrainEnd, TrainState
from fitbus.callbacks import Callback, Logs
from fitbus.errors import InvalidArgumentError, StateLostError
from fitbus.testing import EventRecorder, Gate, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(16, 2)
X, Y = PROBLEM.x, PROBLEM.y


class Hooked:
    """Has all the hooks, and notes their calls; fails where a test asks for it."""

    def __init__(self) -> None:
        self.train_step = PROBLEM.task.train_step
        self.eval_step = PROBLEM.task.eval_step
        self.predict_step = PROBLEM.task.predict_step
        self.calls: list[str] = []
        self.threads: list[str] = []
        self.kept: list[int] = []
        self.held: list[TrainState] = []
        self.fails: dict[str, BaseException] = {}
        self.returns: dict[str, Any] = {}
        self.seen: Any = None

    def note(self, name: str) -> None:
        self.calls.append(name)
        self.threads.append(threading.current_thread().name)
        if name in self.fails:
            raise self.fails[name]

    def init(self, params: Any, key: Any) -> TrainState:
        self.note("init")
        assert params is None
        params = PROBLEM.params
        return TrainState(0, params, PROBLEM.task.optimizer.init(params), key, {"done": 0})

    def prepare(self, state: TrainState, batch: fitbus.Batch) -> Any:
        self.note("prepare")
        self.seen = batch
        return self.returns.get("prepare", state)

    def finish(self, state: TrainState) -> Any:
        self.note("finish")
        assert "finish" not in self.returns or self.returns["finish"] is not state
        if "finish" in self.returns:
            return self.returns["finish"]
        return dataclasses.replace(state, extra={"done": state.extra["done"] + 1})

    def keep(self, state: TrainState) -> None:
        self.note("keep")
        self.kept.append(int(state.step))
        self.held.append(state)


@pytest.fixture(scope="module")
def made() -> Any:
    """One for all, so that its steps are compiled once."""
    task = Hooked()
    return task, fitbus.Trainer(task)


@pytest.fixture
def task(made: Any) -> Hooked:
    found, trainer = made
    trainer.keeper.take_back(found.init(None, jax.random.key(0)))
    trainer.keeper._state = fitbus.Trainer(PROBLEM.task, trainer.keeper._state).state
    found.calls, found.threads, found.kept, found.fails, found.returns = [], [], [], {}, {}
    return found  # type: ignore[no-any-return]  # of a fixture


@pytest.fixture
def trainer(made: Any, task: Hooked) -> fitbus.Trainer:
    return made[1]  # type: ignore[no-any-return]  # of a fixture


def test_a_trainer_of_a_task_alone_has_the_parameters_of_its_init() -> None:
    """They are copied: what the task goes on to hold is never donated."""
    task: Any = Hooked()
    trainer = fitbus.Trainer(task)
    assert task.calls == ["init"]
    np.testing.assert_array_equal(trainer.state.params["w"], PROBLEM.params["w"])
    assert fitbus.Trainer(task, seed=3).state.key != trainer.state.key
    with pytest.raises(InvalidArgumentError, match="params: found None"):
        fitbus.Trainer(PROBLEM.task)


async def test_the_hooks_of_a_training_in_order_each_in_its_thread(
    task: Hooked, trainer: fitbus.Trainer
) -> None:
    """`prepare` sees the first batch, `finish` comes before the end is told, and `keep` last."""
    told: list[str] = []

    def note(event: fitbus.TrainBegin | EpochBegin | TrainEnd) -> None:
        task.calls.append(type(event).__name__)

    class Late(Callback):
        def on_train_end(self, logs: Logs | None = None) -> None:
            weights = self.model.get_weights()
            self.model.set_weights([weight + 1 for weight in weights])
            told.append("changed")

    await trainer.fit(X, Y, batch_size=8, shuffle=False, callbacks=[note, Late()])
    assert task.calls == ["prepare", "TrainBegin", "EpochBegin", "finish", "TrainEnd", "keep"]
    assert all(name.startswith("fitbus fit-") for name in task.threads)
    np.testing.assert_array_equal(task.seen.x, X[:8])
    assert (task.kept, told) == ([2], ["changed"])
    assert int(trainer.state.extra["done"]) == 1


async def test_the_first_batch_is_still_trained_on(task: Hooked, trainer: fitbus.Trainer) -> None:
    """One that came from an iterator, too."""
    seen = EventRecorder()
    await trainer.fit(iter([(X[:8], Y[:8]), (X[8:], Y[8:])]), callbacks=[seen])
    assert len(seen.of(BatchEnd)) == 2


async def test_evaluate_and_predict_prepare_and_keep_but_finish_nothing(
    task: Hooked, trainer: fitbus.Trainer
) -> None:
    await trainer.evaluate(X, Y)
    await trainer.predict(X)
    assert task.calls == ["prepare", "keep"] * 2
    assert task.kept == [0, 0]


async def test_what_keep_holds_is_never_donated(task: Hooked, trainer: fitbus.Trainer) -> None:
    held: list[TrainState] = []
    task.held = held
    await trainer.fit(X, Y)
    first = np.array(held[0].params["w"])
    await trainer.fit(X, Y)
    assert [int(state.step) for state in held] == [1, 2]
    np.testing.assert_array_equal(held[0].params["w"], first)


async def test_prepare_may_change_the_state_for_good(task: Hooked, trainer: fitbus.Trainer) -> None:
    task.returns["prepare"] = dataclasses.replace(
        trainer.state, params=PROBLEM.answer, step=np.int32(7)
    )
    seen = EventRecorder()
    await trainer.fit(X, Y, callbacks=[seen])
    assert [e.step for e in seen.of(BatchEnd)] == [8]
    assert int(trainer.state.step) == 8


@pytest.mark.parametrize("where", ["step", "handler", "data"])
async def test_after_an_error_the_state_is_kept_as_it_is(
    task: Hooked, trainer: fitbus.Trainer, where: str
) -> None:
    """What ended the training is raised; what it left isn't finished: it may be gone on from."""

    def fail(event: fitbus.Event) -> None:
        raise ValueError("no more")

    def data() -> Any:
        yield (X[:8], Y[:8])
        raise ValueError("no more")

    failing: dict[str, type[fitbus.Event]] = {"handler": BatchEnd, "step": EpochBegin}
    callbacks = [fitbus.handler(failing[where], wait=True)(fail)] if where in failing else []
    given = [data] if where == "data" else [X, Y]
    with pytest.raises(ValueError, match="no more"):
        await trainer.fit(*given, batch_size=8, callbacks=callbacks)
    assert task.calls == ["prepare", "keep"]
    assert task.kept == [0 if where == "step" else 1]
    assert int(trainer.state.extra["done"]) == 0


async def test_after_a_stop_the_state_is_finished(task: Hooked, trainer: fitbus.Trainer) -> None:
    def stop(event: BatchEnd) -> fitbus.StopTraining:
        return fitbus.StopTraining()

    await trainer.fit(X, Y, batch_size=8, callbacks=[stop])
    assert task.calls == ["prepare", "finish", "keep"]
    assert int(trainer.state.extra["done"]) == 1


async def test_after_a_cancellation_the_state_is_kept_as_it_is(
    task: Hooked, trainer: fitbus.Trainer
) -> None:
    gate = Gate()

    async def hold(event: EpochBegin) -> None:
        await gate.pass_async()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: trainer.fit(X, Y, callbacks=[hold]))
        await gate.wait_arrived()
        tasks.cancel_scope.cancel()
        gate.open()
    assert task.calls == ["prepare", "keep"]
    assert int(trainer.state.extra["done"]) == 0


async def test_a_state_that_was_lost_is_neither_finished_nor_kept() -> None:
    """A step that fails after its state was donated: there is nothing to show."""
    task: Any = Hooked()

    def crash(value: Any) -> Any:
        raise ValueError("in the step")

    def train_step(state: TrainState, batch: fitbus.Batch) -> Any:
        w = jax.pure_callback(crash, jax.ShapeDtypeStruct((2,), jnp.float32), state.params["w"])
        return dataclasses.replace(state, params={**state.params, "w": w}), {"loss": w[0]}

    task.train_step = train_step
    trainer = fitbus.Trainer(task)
    with pytest.raises(Exception, match="in the step"):
        await trainer.fit(X, Y)
    assert task.calls == ["init", "prepare"]
    with pytest.raises(StateLostError):
        _ = trainer.state


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("hook", ["prepare", "finish", "keep"])
async def test_an_error_of_a_hook_leaves_from_the_call_and_loses_nothing(
    task: Hooked, trainer: fitbus.Trainer, hook: str, kind: Any
) -> None:
    """The end is told, the state stays as it was before the hook, and the next call works."""
    task.fails[hook] = kind("of the hook")
    seen = EventRecorder()
    with pytest.raises(kind, match="of the hook"):
        await trainer.fit(X, Y, callbacks=[seen])
    assert seen.names[-1] == "TrainEnd"
    step = 0 if hook == "prepare" else 1
    assert int(trainer.state.step) == step
    assert int(trainer.state.extra["done"]) == (1 if hook == "keep" else 0)
    task.fails.clear()
    await trainer.fit(X, Y)
    assert int(trainer.state.step) == step + 1


async def test_an_error_of_a_hook_after_another_is_in_that_ones_notes(
    task: Hooked, trainer: fitbus.Trainer
) -> None:
    task.fails["keep"] = ValueError("of the hook")

    def fail(event: EpochBegin) -> None:
        raise TypeError("first")

    with pytest.raises(TypeError, match="first") as caught:
        await trainer.fit(X, Y, callbacks=[fail])
    assert "the task's `keep` raised ValueError: of the hook" in caught.value.__notes__


async def test_an_error_of_a_hook_after_a_cancellation_is_logged(
    task: Hooked, trainer: fitbus.Trainer, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody sees the notes of a cancellation."""
    gate = Gate()
    task.fails["keep"] = ValueError("of the hook")

    async def hold(event: EpochBegin) -> None:
        await gate.pass_async()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: trainer.fit(X, Y, callbacks=[hold]))
        await gate.wait_arrived()
        tasks.cancel_scope.cancel()
        gate.open()
    assert "the task's `keep` failed after run" in caplog.text
    assert "of the hook" in caplog.text


@pytest.mark.parametrize("hook", ["prepare", "finish"])
@pytest.mark.parametrize("found", [None, {"params": 1}])
async def test_a_hook_that_returns_no_state_is_refused_by_name(
    task: Hooked, trainer: fitbus.Trainer, hook: str, found: Any
) -> None:
    task.returns[hook] = found
    with pytest.raises(InvalidArgumentError, match=f"task.{hook}: .*must return a TrainState"):
        await trainer.fit(X, Y)
    assert int(trainer.state.step) == (0 if hook == "prepare" else 1)


async def test_finish_keeps_structure_and_shapes(task: Hooked, trainer: fitbus.Trainer) -> None:
    """Else the next training would meet another state than its steps were compiled for."""
    task.returns["finish"] = dataclasses.replace(trainer.state, params={"w": np.zeros(3)})
    with pytest.raises(InvalidArgumentError, match="the state from the task's `finish`"):
        await trainer.fit(X, Y)
    assert int(trainer.state.step) == 1
    assert set(trainer.state.params) == {"w", "b"}
