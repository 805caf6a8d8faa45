"""Clauses of scenarios that stand between the subjects of other files, by their numbers."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import jax
import numpy as np
import optax
import pytest

import fitbus
from fitbus import BatchEnd, TrainEnd, handler
from fitbus.errors import DataError
from fitbus.testing import EventRecorder, toy_problem

PROBLEM = toy_problem(64, 4)
X, Y = PROBLEM.x, PROBLEM.y
FOREVER = 10**6
SHARED = fitbus.Trainer(PROBLEM.task, PROBLEM.params)


def check_threads_are_joined() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("fitbus fit"):
            thread.join(5)
            assert not thread.is_alive()


@pytest.mark.anyio
async def test_scenario_27_an_error_of_the_step_leads_those_it_brings_about() -> None:
    """Everybody gets `TrainEnd(failed)`; what they raise at it is in the notes of the step's."""
    root = ZeroDivisionError("in the step")
    ends: list[TrainEnd] = []
    broken = [True]

    def apply(params: Any, x: Any) -> Any:
        if broken[0]:
            raise root
        return x @ params["w"] + params["b"]

    def raises_in_the_thread(event: TrainEnd) -> None:
        raise KeyError("def")

    @handler(TrainEnd, wait=False)
    async def raises_in_the_loop(event: TrainEnd) -> None:
        raise KeyError("async")

    @handler(TrainEnd, wait=False)
    async def sibling(event: TrainEnd) -> None:
        ends.append(event)

    task = fitbus.Supervised(apply, PROBLEM.task.loss, optax.sgd, learning_rate=0.1)
    trainer = fitbus.Trainer(task, PROBLEM.params)
    with pytest.raises(ZeroDivisionError) as caught:
        await trainer.fit(
            X, Y, batch_size=32, callbacks=[raises_in_the_thread, raises_in_the_loop, sibling]
        )
    assert caught.value is root
    for text in ("def", "async"):
        assert sum(f"KeyError: '{text}'" in note for note in root.__notes__) == 1
    assert [(end.reason, end.detail) for end in ends] == [
        ("failed", "ZeroDivisionError: in the step")
    ]
    check_threads_are_joined()
    assert trainer.bus.statistics().subscriptions == ()
    broken[0] = False
    await trainer.fit(X, Y, batch_size=32)
    assert int(trainer.state.step) == 2


@pytest.fixture
def keyboard() -> Iterator[None]:
    """Ctrl-C as in a terminal: a program that a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt(event: BatchEnd) -> None:
    if event.batch == 3:
        os.kill(os.getpid(), signal.SIGINT)


@handler(BatchEnd, wait=True)
async def interrupt_in_the_loop(event: BatchEnd) -> None:
    interrupt(event)


@pytest.mark.usefixtures("keyboard")
@pytest.mark.parametrize("by", [interrupt, interrupt_in_the_loop], ids=["thread", "loop"])
@pytest.mark.parametrize("call", ["fit", "run"])
def test_scenario_28_ctrl_c_leaves_as_itself_and_training_can_go_on(
    anyio_backend: Any, call: str, by: Any
) -> None:
    """A real signal in a program that does nothing about it; in no group on any loop."""
    backend, options = anyio_backend
    recorder = EventRecorder()
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    given: dict[str, Any] = {"batch_size": 8, "callbacks": [recorder, by]}

    async def main() -> None:
        if call == "fit":
            await trainer.fit(X, Y, steps_per_epoch=FOREVER, **given)
        else:
            async with trainer.run(X, Y, steps_per_epoch=FOREVER, **given) as run:
                await run.wait()

    async def go_on(trainer: fitbus.Trainer, steps: int) -> None:
        await trainer.fit(X, Y, batch_size=8, steps_per_epoch=steps)

    with pytest.raises(KeyboardInterrupt):  # a group of it would not do
        anyio.run(main, backend=backend, backend_options=options)
    (end,) = recorder.of(TrainEnd)
    assert end.reason == "cancelled"
    assert end.step == int(trainer.state.step) >= 4
    check_threads_are_joined()
    assert trainer.bus.statistics().subscriptions == ()
    undisturbed = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    anyio.run(go_on, undisturbed, end.step, backend=backend, backend_options=options)
    jax.tree.map(np.testing.assert_array_equal, trainer.state.params, undisturbed.state.params)
    anyio.run(go_on, trainer, 2, backend=backend, backend_options=options)
    assert int(trainer.state.step) == end.step + 2


@pytest.mark.anyio
async def test_scenario_30_batches_of_other_dtypes_are_computed_with_as_numpy_would(
    trainer: fitbus.Trainer,
) -> None:
    """The parameters keep theirs."""
    kinds: list[Any] = [np.float64, np.int8]
    batches = [(X[:8].astype(kind), Y[:8].astype(np.float64)) for kind in kinds]
    state = trainer.state.params
    losses = await trainer.evaluate(batches)
    predicted = [x.astype(np.float64) @ state["w"] + state["b"] for x, _ in batches]
    expected = np.mean([np.mean((p - Y[:8]) ** 2) for p in predicted])
    assert losses["loss"] == pytest.approx(expected, rel=1e-4)
    await trainer.fit(batches)
    assert {leaf.dtype for leaf in jax.tree.leaves(trainer.state.params)} == {np.dtype(np.float32)}


@pytest.mark.anyio
async def test_scenario_30_an_async_generator_used_twice_is_an_error(
    trainer: fitbus.Trainer,
) -> None:
    async def batches() -> AsyncIterator[Any]:
        yield X[:8], Y[:8]

    generator = batches()
    await trainer.fit(generator)
    for call in (trainer.fit(generator), trainer.evaluate(generator)):
        with pytest.raises(DataError, match=r"^x: it gave no batch; was an iterator used before"):
            await call
