"""Models with steps, losses and metrics of their own, in the ways that Keras' guides show."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import keras
import pytest

import fitbus
from fitbus.keras import KerasTask

from ._data import sums
from ._pairs import Pair

pytestmark = pytest.mark.slow  # each compiles the programs of a model twice

X, Y = sums(40, seed=5)


class Model(keras.Model):  # type: ignore[misc]  # Keras has no types
    """One dense layer, and a metric of the model's own."""

    def __init__(self) -> None:
        super().__init__()
        self.last = keras.layers.Dense(1)
        self.mine = keras.metrics.Mean(name="mine")
        self.build((None, 4))

    def build(self, shape: Any) -> None:
        self.last.build(shape)
        self.built = True

    def call(self, x: Any, training: bool = False) -> Any:
        return self.last(x)


class OwnSteps(Model):
    """A loss that is written down in the steps, in JAX' signature."""

    @property
    def metrics(self) -> list[Any]:
        return [self.mine]

    def train_step(self, state: Any, data: Any) -> Any:
        trainable, others, optimizer, metrics = state
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)

        def loss_of(trainable: Any) -> Any:
            called: Any = self.stateless_call(trainable, others, x, training=True)
            y_pred, updated = called
            return jnp.mean((y_pred - y) ** 2), updated

        (loss, others), gradients = jax.value_and_grad(loss_of, has_aux=True)(trainable)
        trainable, optimizer = self.optimizer.stateless_apply(optimizer, gradients, trainable)
        metrics = self.mine.stateless_update_state(metrics, loss)
        return self.logs(loss, metrics), (trainable, others, optimizer, metrics)

    def test_step(self, state: Any, data: Any) -> Any:
        trainable, others, metrics = state
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        called: Any = self.stateless_call(trainable, others, x, training=False)
        y_pred, others = called
        loss = jnp.mean((y_pred - y) ** 2)
        metrics = self.mine.stateless_update_state(metrics, loss)
        return self.logs(loss, metrics), (trainable, others, metrics)

    def logs(self, loss: Any, metrics: Any) -> dict[str, Any]:
        return {"mine": self.mine.stateless_result(metrics)}


class LastBatch(OwnSteps):
    """Its logs are none of its metrics: Keras shows those of the last batch."""

    def logs(self, loss: Any, metrics: Any) -> dict[str, Any]:
        return {"objective": loss, "twice": {"inner": 2 * loss}, "constant": 3.0}


class SameNames(OwnSteps):
    """Its logs are a batch's, under the names of its metrics: Keras takes those for an epoch."""

    def logs(self, loss: Any, metrics: Any) -> dict[str, Any]:
        return {"mine": loss}


class OwnLoss(Model):
    """A loss of its own, of which it keeps the mean beside."""

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        loss = 2 * jnp.mean((y_pred - y) ** 2)
        self.mine.update_state(loss)
        return loss


class OwnMetrics(Model):
    """Metrics of its own, and one result that it makes up."""

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        self.mine.update_state(keras.ops.max(keras.ops.abs(y - y_pred)))
        found = super().compute_metrics(x, y, y_pred, sample_weight)
        return {**found, "more": found["mine"] + 1}


@pytest.mark.parametrize("kind", [OwnSteps, SameNames, OwnLoss, OwnMetrics])
def test_steps_losses_and_metrics_of_its_own(kind: type[Model]) -> None:
    """Epochs' logs, and those of a validation; the last batch is short."""

    def make() -> Any:
        model = kind()
        model.compile("adam", None if issubclass(kind, OwnSteps) else "mse")
        return model

    history = Pair(make).fit(X, Y, batch_size=12, epochs=2, validation_split=0.2)
    assert {"mine", "val_mine"} <= set(history)


def test_logs_that_are_no_metrics_are_those_of_the_last_batch() -> None:
    """As in Keras, but for a dict in them, which Keras flattens in a validation alone."""

    def make() -> Any:
        model = LastBatch()
        model.compile("sgd")
        return model

    theirs, ours = make(), make()
    ours.set_weights(theirs.get_weights())
    expected = theirs.fit(X, Y, batch_size=12, shuffle=False, verbose=0).history
    found = fitbus.Trainer(KerasTask(ours)).fit_sync(X, Y, batch_size=12, shuffle=False).history
    assert sorted(found) == ["constant", "inner", "objective"]
    assert found["objective"] == pytest.approx([float(v) for v in expected["objective"]], rel=1e-5)
    assert found["inner"] == pytest.approx([2 * v for v in found["objective"]], rel=1e-6)
    assert found["constant"] == [3.0]


class Autoencoder(Model):
    """It needs no targets."""

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        return jnp.mean((y_pred - x) ** 2)


def test_training_without_targets() -> None:
    def make() -> Any:
        model = Autoencoder()
        model.compile("adam")
        return model

    history = Pair(make).fit(X, batch_size=16, epochs=2)
    assert history["loss"][1] < history["loss"][0]
