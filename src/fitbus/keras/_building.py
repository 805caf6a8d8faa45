"""A Keras model before it is trained: what it must be, and its variables."""

from __future__ import annotations

from typing import Any

import keras

from fitbus.errors import InvalidArgumentError
from fitbus.train import Batch

__all__ = ["build", "build_optimizer", "check_model"]


def check_model(model: Any) -> None:
    """Refuses what is no compiled Keras model, or wants to run eagerly."""
    if not isinstance(model, keras.Model):
        raise InvalidArgumentError("model", model, "give a keras.Model")
    if not model.compiled or model.optimizer is None:
        raise InvalidArgumentError(
            "model", model, "compile it first: model.compile(optimizer, loss, metrics=[...])"
        )
    if model.run_eagerly:
        raise InvalidArgumentError(
            "model.run_eagerly",
            True,  # what was found
            "every step is compiled here; leave it out, and debug with jax.disable_jit()",
        )


def build(model: Any, batch: Batch) -> None:
    """Makes the variables of a model, of its metrics and of its optimizer that aren't there yet."""
    if batch.y is not None:
        model._symbolic_build(data_batch=tuple(batch))  # noqa: SLF001  # no public way builds metrics
    elif not all(layer.built for layer in model._flatten_layers()):  # noqa: SLF001  # has all of them
        with keras.StatelessScope():  # so that nothing but the shapes counts
            model(batch.x)
    build_optimizer(model)
    record = getattr(model, "_record_training_state_sharding_spec", None)
    if record is not None:  # the steps of Keras 3.10 ask for it
        record()


def build_optimizer(model: Any) -> None:
    """Makes the variables of its optimizer, if its own are there."""
    if model.built and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
