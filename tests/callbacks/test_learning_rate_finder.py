"""What a range test tries, where it ends, that it leaves no trace, and what it suggests."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import anyio
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitbus
from fitbus.callbacks import (
    Callback,
    LearningRateFinder,
    LearningRateScheduler,
    Logs,
    Timer,
)
from fitbus.errors import InvalidArgumentError
from fitbus.events import BatchEnd, ControlApplied, EpochEnd, TestEnd, TrainEnd
from fitbus.testing import EventRecorder, toy_problem
from fitbus.train import Batch, TrainState

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(64, 4)
TASK = fitbus.Supervised(PROBLEM.task.apply, PROBLEM.task.loss, optax.adam, 0.125)
TRAINER = fitbus.Trainer(TASK, PROBLEM.params)


async def fit(*callbacks: Any, trainer: Any = TRAINER, epochs: int = 50, **given: Any) -> Any:
    """Four steps in an epoch."""
    return await trainer.fit(
        PROBLEM.x, PROBLEM.y, batch_size=16, epochs=epochs, callbacks=callbacks, **given
    )


def bits(state: TrainState) -> list[Any]:
    """All of a state but its step."""
    found: list[Any] = []
    for leaf in jax.tree.leaves(dataclasses.replace(state, step=None)):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        found.append(np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes())
    return found


class Notes(Callback):
    """Notes the learning rate of each update, and the state with which epochs end."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.ends: list[list[Any]] = []

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        hyperparameters = getattr(self.model.state.opt_state, "hyperparams", None)
        if hyperparameters is not None:
            self.rates.append(float(hyperparameters["learning_rate"]))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.ends.append(bits(self.model.state))


class Scripted:
    """Its loss is what the data say; its parameters, and what else it keeps, change each step."""

    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.5)

    def init(self, params: Any, key: Any) -> TrainState:
        extra = {"key": jax.random.fold_in(key, 7), "half": jnp.ones(2, jnp.bfloat16)}
        return TrainState(jnp.zeros((), jnp.int32), params, self.optimizer.init(params), key, extra)

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Any]:
        params = jax.tree.map(lambda leaf: leaf + 1, state.params)
        extra = {"key": jax.random.fold_in(state.extra["key"], 1), "half": state.extra["half"] * 2}
        new = dataclasses.replace(state, params=params, extra=extra)
        return new, {"loss": (batch.x[0], batch.weight[0])}

    def eval_step(self, state: TrainState, batch: Batch) -> Any:
        return {"loss": batch.x[0]}

    def predict_step(self, state: TrainState, batch: Batch) -> Any:
        return batch.x


SCRIPTED = fitbus.Trainer(Scripted(), {"w": np.zeros(2, np.float32)})


def find(losses: list[float], *callbacks: Any, weight: Any = None, **given: Any) -> Any:
    """A range test of so many batches, with these losses."""
    arguments: dict[str, Any] = {"steps": len(losses), **given}
    finder = LearningRateFinder(**arguments)
    x = np.asarray(losses, np.float32)
    SCRIPTED.fit_sync(
        x, batch_size=1, shuffle=False, sample_weight=weight, callbacks=[finder, *callbacks]
    )
    return finder


async def test_it_tries_learning_rates_by_equal_factors() -> None:
    """One each batch, from the least to the greatest, over several epochs; then training ends."""
    finder, notes, recorder = LearningRateFinder(1e-4, 1e-1, 7), Notes(), EventRecorder()
    await fit(notes, finder, recorder)
    expected = [1e-4 * 10 ** (step / 2) for step in range(7)]
    assert finder.learning_rates == pytest.approx(expected, rel=1e-12)
    assert notes.rates == pytest.approx(expected, rel=1e-6)
    assert len(finder.losses) == len(recorder.of(BatchEnd)) == 7
    assert (finder.finished, finder.diverged) == (True, False)
    (end,) = recorder.of(TrainEnd)
    told = (end.reason, end.source, end.detail)
    assert told == ("stopped", "LearningRateFinder", "all learning rates were tried")
    assert {event.source for event in recorder.of(ControlApplied)} == {"LearningRateFinder"}


async def test_or_by_equal_steps() -> None:
    finder, notes = LearningRateFinder(0.25, 1.0, 4, "linear"), Notes()
    await fit(notes, finder)
    assert finder.learning_rates == notes.rates == [0.25, 0.5, 0.75, 1.0]


async def test_the_state_is_put_back_before_the_epoch_ends() -> None:
    """Bit for bit, the optimizer's too; only `step` goes on. There is no validation of it."""
    before, step = bits(TRAINER.state), int(TRAINER.state.step)
    notes, recorder = Notes(), EventRecorder()
    finder = LearningRateFinder(steps=6)
    await fit(finder, notes, recorder, validation_data=(PROBLEM.x, PROBLEM.y))
    assert bits(TRAINER.state) == before
    assert notes.ends[-1] == before
    assert notes.ends[0] != before
    assert int(TRAINER.state.step) == step + 6
    assert len(recorder.of(EpochEnd)) == 2
    assert len(recorder.of(TestEnd)) == 1


async def test_training_goes_on_as_if_it_had_not_been() -> None:
    """The same losses as without; and no step is compiled anew."""
    with_it, without = (fitbus.Trainer(TASK, PROBLEM.params) for _ in range(2))
    await fit(LearningRateFinder(steps=6), trainer=with_it)
    first = await fit(trainer=with_it, epochs=2, shuffle=False)
    assert first.history == (await fit(trainer=without, epochs=2, shuffle=False)).history


def test_so_is_what_else_a_task_keeps() -> None:
    """Random keys, and floats that NumPy doesn't know."""
    before, notes = bits(SCRIPTED.state), Notes()
    with pytest.warns(RuntimeWarning, match="3 batches only"):
        find([1.0] * 4, notes, weight=np.asarray([1, 1, 1, 0]))
    assert bits(SCRIPTED.state) == before
    assert len(notes.ends) == 1
    assert [old == new for old, new in zip(before, notes.ends[0], strict=True)].count(False) == 4


@pytest.mark.parametrize(
    ("losses", "given", "kept"),
    [
        ([4, 2, 1, 4, 5, 1], {"diverges_at": 4}, [4, 2, 1, 4, 5]),
        ([4, 2, 1, 4, 5, 1], {"diverges_at": None}, [4, 2, 1, 4, 5, 1]),
        ([4, math.nan, 1, 4], {"diverges_at": None}, [4]),
        ([4, 2, math.inf, 4], {}, [4, 2]),
        ([math.nan, 2, 2, 4], {}, []),
    ],
)
def test_it_ends_where_the_loss_diverges(
    losses: list[float], given: dict[str, Any], kept: list[float]
) -> None:
    """Above the lowest one times a factor, or at NaN and infinity; and puts the state back."""
    before, recorder = bits(SCRIPTED.state), EventRecorder()
    finder = find(losses, recorder, smoothing=0, **given)
    assert finder.losses == kept
    assert len(finder.learning_rates) == len(kept)
    assert finder.diverged == (kept != losses)
    wrong = len(kept) < len(losses) and not math.isfinite(losses[len(kept)])
    assert len(recorder.of(BatchEnd)) == len(kept) + wrong
    (end,) = recorder.of(TrainEnd)
    why = "the loss diverged" if finder.diverged else "all learning rates were tried"
    assert (end.reason, end.detail) == ("stopped", why)
    assert bits(SCRIPTED.state) == before


@pytest.mark.parametrize("weights", [[0, 1, 1, 1], [1, 0, 0, 1, 1], [0, 0, 1, 0, 1, 1]])
def test_a_batch_without_weight_has_no_loss(weights: list[float]) -> None:
    """Its learning rate is tried on the next one."""
    losses = [1.0 if weight else math.nan for weight in weights]
    finder = find(losses, steps=3, min_lr=0.25, max_lr=1.0, weight=np.asarray(weights))
    assert finder.learning_rates == [0.25, 0.5, 1.0]
    assert (finder.finished, finder.diverged) == (True, False)


def test_losses_are_smoothed_without_a_bias_towards_the_beginning() -> None:
    losses = [4.0, 3.0, 1.0, 2.0]
    finder = find(losses, smoothing=0.5)
    weights = [[0.5**age for age in range(count, -1, -1)] for count in range(4)]
    expected = [np.average(losses[: len(weight)], weights=weight) for weight in weights]
    assert finder.losses == pytest.approx(expected, rel=1e-12)
    assert find([2.0] * 5).losses == pytest.approx([2.0] * 5)


async def test_what_it_suggests_trains() -> None:
    """On a real problem it lies between what does nothing and what diverges."""
    problem, finder = toy_problem(256, 8), LearningRateFinder()
    trainer = fitbus.Trainer(TASK, problem.params)
    await trainer.fit(problem.x, problem.y, epochs=20, callbacks=[finder])
    assert finder.suggestion is not None
    assert 0.01 < finder.suggestion < 1
    suggested = LearningRateScheduler(lambda epoch, rate: finder.suggestion)
    history = await trainer.fit(problem.x, problem.y, epochs=5, callbacks=[suggested])
    assert history.history["loss"][-1] < history.history["loss"][0] / 10


async def test_the_state_is_put_back_whatever_ends_training() -> None:
    """An error, another stop, a cancellation."""

    class Fails(Callback):
        def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
            assert bits(self.model.state) != before
            raise OSError("the disk")

    def endless() -> Iterator[Any]:
        while True:
            yield PROBLEM.x[:16], PROBLEM.y[:16]

    before, finder = bits(TRAINER.state), LearningRateFinder()
    with pytest.raises(OSError, match="the disk"):
        await fit(finder, Fails())
    assert bits(TRAINER.state) == before
    await fit(finder, Timer(max_steps=3))
    assert (len(finder.losses), finder.finished) == (3, False)
    assert bits(TRAINER.state) == before
    slow = LearningRateFinder(steps=10**6)
    with anyio.CancelScope() as scope:
        async with TRAINER.run(endless(), callbacks=[slow]) as run:
            await run.wait_for(BatchEnd, where=lambda event: event.batch == 3)
            scope.cancel()
    assert bits(TRAINER.state) == before


async def test_data_that_run_out_before_all_is_tried_warn() -> None:
    before, finder = bits(TRAINER.state), LearningRateFinder(steps=9)
    with pytest.warns(RuntimeWarning, match="had 8 batches only, of the 9"):
        await fit(finder, epochs=2)
    assert bits(TRAINER.state) == before
    assert len(finder.losses) == 8


async def test_used_again_it_starts_anew() -> None:
    finder = LearningRateFinder(steps=3)
    await fit(finder)
    first = finder.state_dict()
    await fit(finder, shuffle=False)
    assert len(finder.losses) == 3
    assert finder.learning_rates == first["learning_rates"]


async def test_a_test_that_goes_on_puts_back_the_state_with_which_it_began() -> None:
    """Not the one that a backup has from the middle of it."""
    kept: list[Any] = []

    class Backs(Callback):
        def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
            kept[:] = [first.state_dict()]

    class GoesOn(Callback):
        def on_train_begin(self, logs: Logs | None = None) -> None:
            second.load_state_dict(kept[0])

    before = bits(TRAINER.state)
    first, second = LearningRateFinder(steps=9), LearningRateFinder(steps=9)
    await fit(first, Backs(), Timer(max_steps=4))
    assert all(isinstance(leaf, np.ndarray) for leaf in kept[0]["state"])
    await fit(LearningRateScheduler(lambda epoch: 0.75), epochs=1)
    await fit(second, GoesOn(), shuffle=False)
    assert second.losses[:4] == first.losses
    assert len(second.losses) == 9
    assert bits(TRAINER.state) == before


async def test_it_is_the_only_owner_of_the_learning_rate_and_needs_a_loss() -> None:
    step = int(TRAINER.state.step)
    with pytest.raises(InvalidArgumentError, match="LearningRateFinder sets 'learning_rate'"):
        await fit(LearningRateFinder(), LearningRateScheduler(lambda epoch: 0.1))
    assert int(TRAINER.state.step) == step

    class NoLoss(Scripted):
        def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Any]:
            return state, {"error": batch.x[0]}

    trainer = fitbus.Trainer(NoLoss(), {"w": np.zeros(2, np.float32)})
    with pytest.raises(InvalidArgumentError, match=r"watches 'loss', .* will have \['error'\]"):
        await trainer.fit(np.ones(2, np.float32), batch_size=1, callbacks=[LearningRateFinder()])
    assert int(trainer.state.step) == 0
