"""Trainings in which something isn't finite at a known step, for the tests of `Guard`."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fitbus
from fitbus import BatchEnd, StepSkipped, TrainEnd
from fitbus.callbacks import Guard
from fitbus.testing import EventRecorder, toy_problem
from fitbus.train import Batch, TrainState, is_key

__all__ = ["BATCH", "PROBLEM", "Fit", "Own", "bits", "guarded_fit", "with_nan"]

BATCH = 8
PROBLEM = toy_problem(64, 4)  # 8 batches


class Own:
    """A task of one's own: each step adds its data to the parameters; the loss is as it is told."""

    def train_step(self, state: TrainState, batch: Batch) -> Any:
        change, loss = batch.x["change"], batch.x["loss"]
        params = {
            name: (leaf + change[name][0].astype(leaf.dtype) if name in change else leaf)
            for name, leaf in state.params.items()
        }
        extra = {"sum": state.extra["sum"] + loss[0]} if state.extra else state.extra
        new = dataclasses.replace(state, params=params, extra=extra)
        return new, {"loss": (loss[0], jnp.sum(batch.weight)), "other": batch.x["other"][0]}

    def eval_step(self, state: TrainState, batch: Batch) -> Any:
        return {"loss": batch.x["loss"][0], "other": batch.x["other"][0]}

    def predict_step(self, state: TrainState, batch: Batch) -> Any:
        return batch.x["loss"]


def bits(state: TrainState) -> list[bytes]:
    """A whole state, bit for bit."""
    return [
        np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf).tobytes()
        for leaf in jax.tree.leaves(state)
    ]


def with_nan(*batches: int, value: float = np.nan) -> np.ndarray[Any, Any]:
    """The problem's inputs, with a value that isn't finite in some batches."""
    x = PROBLEM.x.copy()
    for batch in batches:
        x[batch * BATCH + 3, 1] = value
    return x


@dataclasses.dataclass
class Fit:
    """What came of a training.

    Attributes:
        skipped: The notices, and
        ends: the ends of batches, each as (step, batch),
        end: of the training.
        logs: The running losses.
        state: The state.
        history: The losses of the epochs.
    """

    skipped: list[StepSkipped]
    ends: list[tuple[int, int]]
    end: TrainEnd
    logs: list[float]
    state: TrainState
    history: list[float]
    events: list[dict[str, Any]]


async def guarded_fit(
    trainer: fitbus.Trainer,
    guard: Guard | None,
    x: Any,
    y: Any = None,
    *,
    listens: bool | None = False,
    callbacks: tuple[Any, ...] = (),
    **options: Any,
) -> Fit:
    """Trains.

    Args:
        trainer: Whose state is put back afterwards.
        guard: The guard.
        x: Inputs.
        y: Targets.
        listens: Whether training waits for who listens to batches; None: nobody does.
        callbacks: Others.
        options: Of `fit`.
    """
    recorder = EventRecorder()
    kinds = (StepSkipped, TrainEnd) if listens is None else (fitbus.Event,)
    listener = fitbus.handler(*kinds, wait=bool(listens))(recorder)
    begin = trainer.state
    given: dict[str, Any] = {"batch_size": BATCH, "shuffle": False, **options}
    everybody = [*callbacks, listener, *([] if guard is None else [guard])]
    history = await trainer.fit(x, y, callbacks=everybody, **given)
    state = trainer.state
    trainer.keeper.take_back(begin)
    assert trainer.state is begin
    ends = recorder.of(BatchEnd)
    (end,) = recorder.of(TrainEnd)
    return Fit(
        recorder.of(StepSkipped),
        [(event.step, event.batch) for event in ends],
        end,
        [event.logs["loss"] for event in ends],
        state,
        history.history["loss"],
        [{**event, "run": ""} for event in recorder.without_time()],
    )
