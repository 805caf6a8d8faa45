"""What the tests of the guide share: its data, its network, and what each epoch's weights were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fitbus
from fitbus.callbacks import Callback, Logs
from fitbus.examples._network import build, data

Array = np.ndarray[Any, Any]


class WeightsByEpoch(Callback):
    """Keeps the weights with which each epoch ended; put it first, before others change them."""

    def __init__(self) -> None:
        self.weights: list[list[Array]] = []

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.weights.append(self.model.get_weights())


@pytest.fixture
def examples() -> tuple[Array, Array]:
    """The 1,000 examples."""
    return data(1000)


@pytest.fixture
def trainer() -> fitbus.Trainer:
    """A new trainer of the network: RMSprop at 0.1."""
    return build()


@pytest.fixture(scope="module")
def warm_trainer() -> fitbus.Trainer:
    """One for all tests of a module to which it doesn't matter what was learnt before."""
    return build()


@pytest.fixture
def by_epoch() -> WeightsByEpoch:
    """Keeps the weights of each epoch."""
    return WeightsByEpoch()
