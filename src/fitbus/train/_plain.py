"""What `evaluate` and `predict` take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypedDict

from fitbus.train._arguments import BATCH_SIZE, Verbose, positive
from fitbus.train._data import source
from fitbus.train._feed import Feed
from fitbus.train._pass import Pull
from fitbus.train._steps import Steps

__all__ = ["EvaluateOptions", "PredictOptions", "plain_feed"]


class PredictOptions(TypedDict, total=False):
    """The keyword arguments of `Trainer.predict`."""

    batch_size: int | None
    verbose: Verbose
    steps: int | None
    callbacks: Iterable[Any] | None
    grace_s: float
    drain_s: float


class EvaluateOptions(PredictOptions, total=False):
    """The keyword arguments of `Trainer.evaluate`."""

    sample_weight: Any


def plain_feed(
    x: Any,
    y: Any,
    batch_size: int | None,
    sample_weight: Any,
    steps: int | None,
    *,
    task: Steps,
    pull: Pull,
) -> Feed:
    """The data of an evaluation or a prediction: in order, from the start each time."""
    positive("batch_size", batch_size, none=True)
    positive("steps", steps, none=True)
    data = source(
        x,
        y,
        sample_weight,
        None,
        argument="x",
        batch_size=batch_size or BATCH_SIZE,
        shuffle=False,
        seed=(),
        pad=task.pad,
        pull=pull,
        as_given=task.as_given,
    )
    return Feed("x", data, steps, anew=True)
