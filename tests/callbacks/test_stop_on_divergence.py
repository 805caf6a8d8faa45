"""Which values are far above those before them, and what is done then."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import anyio
import anyio.lowlevel
import numpy as np
import optax
import pytest

import fitbus
from fitbus.callbacks import ReduceLROnPlateau, StopOnDivergence
from fitbus.errors import InvalidArgumentError
from fitbus.events import BatchEnd, ControlApplied, TrainEnd
from fitbus.testing import EventRecorder
from fitbus.train import Batch, TrainState

pytestmark = pytest.mark.anyio

NAN, INF = np.nan, np.inf


class Scripted:
    """Its loss is what the data say."""

    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.5)

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Any]:
        return dataclasses.replace(state), self.eval_step(state, batch)

    def eval_step(self, state: TrainState, batch: Batch) -> Any:
        return {"loss": (batch.x[0], batch.weight[0])}

    def predict_step(self, state: TrainState, batch: Batch) -> Any:
        return batch.x


TRAINER = fitbus.Trainer(Scripted(), {"w": np.zeros(1, np.float32)}, max_in_flight=1)


@fitbus.handler(BatchEnd, wait=True)
async def judging(event: BatchEnd) -> None:
    """Lets training wait until a batch has been judged, so that what comes of it isn't late."""
    while any(
        entry.queued or entry.in_flight
        for entry in TRAINER.bus.statistics().subscriptions
        if entry.name == "StopOnDivergence"
    ):
        await anyio.lowlevel.checkpoint()


async def fit(losses: Sequence[float], *callbacks: Any, **given: Any) -> EventRecorder:
    """A batch for each loss."""
    recorder = EventRecorder()
    everybody = [*callbacks, judging, fitbus.handler(fitbus.Event)(recorder)]
    x = np.asarray(losses, np.float32)
    await TRAINER.fit(x, batch_size=1, shuffle=False, callbacks=everybody, **given)
    return recorder


def end_of(recorder: EventRecorder) -> TrainEnd:
    (end,) = recorder.of(TrainEnd)
    return end


async def judged(losses: Sequence[float], callback: StopOnDivergence) -> int | None:
    """The batch at which it acted; None if it didn't."""
    recorder = await fit(losses, callback)
    detail = end_of(recorder).detail
    if not callback.times:
        assert end_of(recorder).reason == "completed"
        return None
    assert end_of(recorder).source == "StopOnDivergence"
    first = recorder.of(BatchEnd)[0].step
    return int(detail.split("at step ")[1].split(",")[0]) - first


@pytest.mark.parametrize(
    ("losses", "at"),
    [
        ([1, 2, 3, 6.1], 3),  # the median of the three is 2
        ([1, 2, 3, 6.0], None),  # no more than three times that
        ([100, 1, 2], None),  # there are not enough before it
        ([1, 1, 1, 2, 2, 2, 5], None),  # the oldest ones are forgotten
        ([1, 1, 1, 2, 2, 2, 7], 6),
        ([3, 1, 2, 7], 3),  # in whatever order
        ([1, NAN], 1),  # never small, and never waited for
        ([INF], 0),
        ([-1, -1, -1, 50, 50], None),  # below 0 a multiple says nothing
        ([-1, -1, -1, NAN], 3),
        ([0, 0, 0, 1], None),
    ],
)
async def test_what_diverges(losses: list[float], at: int | None) -> None:
    """More than three times the median of the last three."""
    assert await judged(losses, StopOnDivergence(window=3)) == at


async def test_the_median_of_an_even_number() -> None:
    """The mean of the two in the middle."""
    assert await judged([1, 2, 3, 10, 7.4], StopOnDivergence(window=4)) is None
    assert await judged([1, 2, 3, 9, 7.6], StopOnDivergence(window=4)) == 4


async def test_patience_counts_those_in_a_row() -> None:
    """And none of them goes into the median."""
    losses = [1, 1, 9, 9, 1, 9, NAN, 9]
    assert await judged(losses, StopOnDivergence(window=2, patience=3)) == 7
    assert await judged(losses[:7], StopOnDivergence(window=2, patience=3)) is None


async def test_it_says_why() -> None:
    """The value, where, and the median."""
    callback = StopOnDivergence(window=2)
    recorder = await fit([1, 2, 30, 1], callback)
    ends = recorder.of(BatchEnd)
    assert len(ends) == 3
    first = ends[0].step
    assert end_of(recorder).detail == (
        f"'loss' diverged: it was 30 at step {first + 2}, and the median was 1.5"
    )
    assert (callback.median, callback.wait, callback.times) == (1.5, 1, 1)


async def test_a_batch_without_weight_has_no_value() -> None:
    """Its NaN isn't one."""
    weight = np.asarray([1, 0, 1], np.float32)
    recorder = await fit([1, 2, 3], StopOnDivergence(window=1), sample_weight=weight)
    assert end_of(recorder).reason == "completed"


async def test_it_lowers_the_learning_rate() -> None:
    """And gathers anew: what comes right after it isn't judged."""
    callback = StopOnDivergence(window=2, action="reduce", scale=0.1)
    begin = TRAINER.state
    recorder = await fit([1, 1, 9, 9, 9, 9], callback)
    TRAINER.keeper.take_back(begin)
    assert end_of(recorder).reason == "completed"
    applied = recorder.of(ControlApplied)
    assert [(event.source, event.control) for event in applied] == [
        ("StopOnDivergence", fitbus.ScaleLearningRate(0.1))
    ]
    assert callback.times == 1


async def test_who_else_sets_the_learning_rate_is_refused() -> None:
    """Where it may lower it."""
    reduces = StopOnDivergence(action="reduce")
    with pytest.raises(InvalidArgumentError, match="sets 'learning_rate' already"):
        await fit([1], reduces, ReduceLROnPlateau("loss"))
    await fit([1], StopOnDivergence(), ReduceLROnPlateau("loss"))


@pytest.mark.parametrize("name", ["los", "val_loss"])
async def test_a_name_that_batches_never_have_is_refused(name: str) -> None:
    """Those of validation come once an epoch."""
    with pytest.raises(InvalidArgumentError, match=r"StopOnDivergence.monitor.*\['loss'\]"):
        await fit([1, 2], StopOnDivergence(name), validation_split=0.5)


async def test_what_it_remembers_goes_on() -> None:
    """The values of before are judged by, in another object."""
    one, other = StopOnDivergence(window=3), StopOnDivergence(window=3)
    await fit([2, 1], one)
    other.load_state_dict(one.state_dict())
    assert other.state_dict() == one.state_dict() == {"values": [2, 1], "wait": 0, "times": 0}
    assert other.median is None
    await fit([1], one)  # begins anew
    assert one.state_dict()["values"] == [1]
