"""What the tests of callbacks share: training whose losses are those that a test asks for."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import fitbus
from fitbus.callbacks import Callback, Logs
from fitbus.train import Batch, TrainState

from ._failing_server import FailingServer, Serve
from ._numbers import bits
from ._tensorboard_reading import Toy

Array = np.ndarray[Any, Any]

LONGEST = 16
NAMES = """
    loss mse hinge mean_absolute_error binary_crossentropy accumulated_error layer2_mse various
    cosine_distance kl_divergence perplexity
    acc accuracy sparse_categorical_accuracy top_k_categorical_accuracy acc5 auc roc_auc precision
    recall_1 f1 f1_score iou mean_iou r2_score cosine_similarity BinaryAccuracy
    accuracy_loss false_positives_1 negative_log_likelihood rmse cross_entropy
    mean_io_u_1 true_positives sensitivity_at_specificity psnr dice kappa
    score map learning_rate neg_mean_squared_error negative_loss steps_per_second
    error_rate_of_recall
"""


class Scripted:
    """Learns nothing: its metrics are what the data say, its parameters tell which epoch it is.

    A batch of training is one row, (epoch, value). A batch of validation is one row of all values.
    """

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Any]:
        epoch, value = batch.x[0, 0], batch.x[0, 1]
        params = {"epoch": epoch, "w": jnp.sin(1e3 * (epoch + 1) + jnp.arange(3.0)) / 3}
        return dataclasses.replace(state, params=params), dict.fromkeys(NAMES.split(), value)

    def eval_step(self, state: TrainState, batch: Batch) -> Any:
        value = batch.x[0, state.params["epoch"].astype(int)]
        return dict.fromkeys(NAMES.split(), value)

    def predict_step(self, state: TrainState, batch: Batch) -> Any:
        return batch.x


class Script:
    """Trains with given values of all metrics, epoch by epoch."""

    def __init__(self) -> None:
        params = {"epoch": np.zeros((), np.float32), "w": np.zeros(3, np.float32)}
        self.trainer = fitbus.Trainer(Scripted(), params)

    async def fit(
        self,
        values: Sequence[float],
        *callbacks: Any,
        validation: Sequence[float] | None = None,
        **arguments: Any,
    ) -> fitbus.History:
        """An epoch, of one batch, for each value; from `initial_epoch` on."""
        row = np.full((1, LONGEST), math.nan, np.float32)
        if validation is not None:
            row[0, : len(validation)] = validation
            arguments["validation_data"] = [row]
        rows = np.stack([np.arange(len(values)), values], axis=1).astype(np.float32)
        return await self.trainer.fit(
            rows[arguments.get("initial_epoch", 0) :],
            batch_size=1,
            steps_per_epoch=1,
            shuffle=False,
            epochs=len(values),
            callbacks=callbacks,
            **arguments,
        )

    @property
    def epoch(self) -> int:
        """The epoch whose parameters the trainer has."""
        return int(self.trainer.state.params["epoch"])

    def weights(self) -> list[bytes]:
        """The parameters, bit for bit."""
        return bits(self.trainer.state)


class WeightsByEpoch(Callback):
    """Keeps the weights with which each epoch ended, bit for bit; put it first."""

    def __init__(self) -> None:
        self.weights: list[list[bytes]] = []

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        found: list[Array] = self.model.get_weights()
        self.weights.append([weight.tobytes() for weight in found])


_SCRIPT = Script()


@pytest.fixture
def script() -> Iterator[Script]:
    """One for all tests, so that its steps are compiled once."""
    yield _SCRIPT
    assert _SCRIPT.trainer.bus.statistics().subscriptions == ()


@pytest.fixture
def by_epoch() -> WeightsByEpoch:
    """Keeps the weights of each epoch."""
    return WeightsByEpoch()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers, and ends them."""
    with contextlib.ExitStack() as servers:
        yield lambda *answers: servers.enter_context(FailingServer(answers))


@pytest.fixture(scope="module")
def toy() -> Toy:
    """One trainer for all of a module's tests of TensorBoard."""
    return Toy()
