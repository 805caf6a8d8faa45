"""What is refused, and a task for data that may be."""

from __future__ import annotations

import re
from typing import Any

import pytest

import fitbus
from fitbus import TrainState

__all__ = ["Mean", "refused"]


def refused(error: type[Exception], *parts: str) -> Any:
    """An error whose message begins with the first part and holds the others, in order."""
    return pytest.raises(error, match="^" + ".*".join(map(re.escape, parts)))


class Mean:
    """A task that learns nothing and needs no targets; tells of each batch its mean."""

    def train_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        return state, {"mean": batch.x.mean()}

    def eval_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        return {"mean": batch.x.mean()}

    def predict_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        return batch.x
