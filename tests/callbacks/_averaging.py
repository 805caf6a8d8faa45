"""What the tests of averages share: a task that keeps them, and what is in place when."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import optax

import fitbus
from fitbus import (
    EpochBegin,
    EpochEnd,
    PredictBegin,
    PredictEnd,
    TestBegin,
    TestEnd,
    TrainEnd,
    TrainState,
)
from fitbus.callbacks import SwapEMAWeights
from fitbus.testing import toy_problem

PROBLEM = toy_problem(32, 3)
X, Y = PROBLEM.x, PROBLEM.y
DECAY = 0.5
AVERAGE = optax.ema(DECAY)


class Averaged:
    """Keeps averages of the parameters, by means of Optax."""

    def __init__(self) -> None:
        self.eval_step = PROBLEM.task.eval_step
        self.predict_step = PROBLEM.task.predict_step

    def init(self, params: Any, key: Any) -> TrainState:
        opt_state = PROBLEM.task.optimizer.init(params)
        return TrainState(0, params, opt_state, key, {"ema": AVERAGE.init(params)})

    def train_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        new, metrics = PROBLEM.task.train_step(state, batch)
        _, ema = AVERAGE.update(new.params, state.extra["ema"])
        return dataclasses.replace(new, extra={"ema": ema}), metrics


def put(trainer: fitbus.Trainer, state: TrainState) -> fitbus.Trainer:
    """The trainer with another state: nothing is compiled again."""
    trainer.keeper.take_back(fitbus.Trainer(PROBLEM.task, state).state)
    return trainer


async def called(trainer: fitbus.Trainer, call: str, callbacks: Any, test: Any = (X, Y)) -> Any:
    """Tests, predicts, or trains with validation."""
    if call == "fit":
        return await trainer.fit(
            X, Y, batch_size=8, validation_data=test, callbacks=callbacks, drain_s=5
        )
    if call == "evaluate":
        test = test if isinstance(test, tuple) else (test, None)
        return await trainer.evaluate(*test, callbacks=callbacks)
    x = test[0] if isinstance(test, tuple) else lambda: (x for x, _ in test())
    return await trainer.predict(x, callbacks=callbacks)


def swap(**given: Any) -> SwapEMAWeights:
    return SwapEMAWeights(decay=DECAY, **given)


def w(state: TrainState) -> bytes:
    return np.asarray(state.params["w"]).tobytes()


def debiased(state: TrainState) -> bytes:
    kept = state.extra["ema"]
    return np.asarray(kept.ema["w"] / (1 - DECAY ** int(kept.count))).tobytes()


class Seen:
    """The parameters, and the averages, at each event of some types."""

    def __init__(self) -> None:
        self.run: Any = None
        self.what: list[tuple[str, str]] = []

    def attach(self, run: Any) -> None:
        epochs = EpochBegin, EpochEnd, TrainEnd
        tests = TestBegin, TestEnd, PredictBegin, PredictEnd
        run.add(lambda event: self.look(run, event), *epochs, *tests, wait=True)

    def look(self, run: Any, event: fitbus.Event) -> None:
        is_average = w(run.state) == debiased(run.state)
        self.what.append((type(event).__name__, "average" if is_average else "own"))


TRAINER = fitbus.Trainer(Averaged(), PROBLEM.params)  # one for all: little is compiled
