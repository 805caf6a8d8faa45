"""A compiled Keras model as a task."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, final

import jax
import jax.numpy as jnp
import keras
import numpy as np

from fitbus.errors import InvalidArgumentError
from fitbus.keras._variables import Variables
from fitbus.train import Batch, Fold, Metrics, TrainState

__all__ = ["KerasTask"]


@final
class KerasTask:
    """Trains a compiled Keras model: its optimizer, loss and metrics, as they are.

    BatchNorm's statistics, seed generators, the scale of the loss under mixed precision, sample and
    class weights are all taken along. The model has its weights, and its optimizer's variables,
    back when a run has ended, whatever ended it; what is written to them between two runs counts in
    the next one. During a run they are those of its start, or of the latest hook of a Keras
    callback; `await run.snapshot()` has the newest.

        model.compile("adam", "mse", metrics=["mae"])
        trainer = fitbus.Trainer(fitbus.keras.KerasTask(model))
        history = await trainer.fit(x, y, epochs=5, callbacks=[keras_callback, handler])

    `state.params` is the list of trainable variables, `state.extra` that of the others. A short
    last batch isn't filled up, as in Keras, and so is compiled by itself. Of a model with a
    `train_step`, `test_step` or `compute_metrics` of its own, the step is traced twice more, for
    the running values of the metrics and for the batch's own; the compiler merges what is the same.

    Args:
        model: The model, compiled.

    Raises:
        InvalidArgumentError: It is no Keras model, isn't compiled, or wants to run eagerly.

    Source: Keras' JAX trainer, https://keras.io/guides/custom_train_step_in_jax/.
    """

    pad = False

    def __init__(self, model: Any) -> None:
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
        self.model = model
        self.variables = Variables(model)
        self._kept: list[Any] = []
        self._empty: list[Any] = []  # the variables of the metrics before the first batch
        self._compiled = (model.optimizer, model._compile_loss)  # noqa: SLF001  # there is no public one
        own = type(model)
        self._replays = any(
            getattr(own, name) is not getattr(keras.Model, name)
            for name in ("train_step", "test_step", "compute_metrics")
        )

    # The world outside: called by the trainer between calls.

    def init(self, params: Any, key: Any) -> TrainState:
        """The state that the model is in."""
        if params is not None:
            raise InvalidArgumentError(
                "params", params, "a Keras model has its own: Trainer(KerasTask(model))"
            )
        self._build_optimizer()
        self.variables = Variables(self.model)
        return self.variables.read(key)

    def prepare(self, state: TrainState, batch: Batch) -> TrainState:
        """Builds what isn't built yet, and takes what was written to the model meanwhile."""
        model: Any = self.model
        if (model.optimizer, model._compile_loss) != self._compiled:  # noqa: SLF001  # there is no public one
            raise InvalidArgumentError(
                "model",
                model,
                "it was compiled anew; make a new Trainer(KerasTask(model)) for it",
            )
        if batch.y is not None:
            model._symbolic_build(data_batch=tuple(batch))  # noqa: SLF001  # no public way builds metrics
        elif not model.built:
            model(batch.x)
        self._build_optimizer()
        model.reset_metrics()
        self._empty = [np.array(variable.value) for variable in model.metrics_variables]
        variables = Variables(model)
        written = [variable.value for variable in variables.all]
        untouched = len(written) == len(self._kept) and all(
            new is old for new, old in zip(written, self._kept, strict=True)
        )
        if untouched and variables.same_as(self.variables):
            return state
        self.variables = variables
        self._kept = written
        return variables.read(state.key, state.step)  # the trainer copies it

    def finish(self, state: TrainState) -> TrainState:
        """Lets the optimizer finish: one that averages the weights may put the averages there."""
        optimizer = self.model.optimizer
        if not _averages(optimizer):
            return state
        self.variables.write(self.variables.values(copied(state)))
        optimizer.finalize_variable_values(self.model.trainable_variables)
        return copied(self.variables.read(state.key, state.step))

    def keep(self, state: TrainState) -> None:
        """Puts the state back into the model."""
        if len(self.variables.all) == len(jax.tree.leaves(self.variables.values(state))):
            self.variables.write(self.variables.values(state))
            self._kept = [variable.value for variable in self.variables.all]

    def weights(self, state: TrainState) -> list[Any]:
        """What `model.get_weights()` has: the trainable variables, and BatchNorm's statistics."""
        by_id = dict(zip(map(id, self.variables.all), self.variables.values(state), strict=True))
        return [by_id[id(variable)] for variable in self.model.weights]

    def with_weights(self, state: TrainState, weights: list[Any]) -> TrainState:
        """The state with other ones."""
        new = dict(zip(map(id, self.model.weights), weights, strict=True))
        parts = [
            [new.get(id(variable), value) for variable, value in zip(names, values, strict=True)]
            for names, values in (
                (self.variables.trainable, state.params),
                (self.variables.others, state.extra),
            )
        ]
        return dataclasses.replace(state, params=parts[0], extra=parts[1])

    # What is compiled.

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One update by the model's optimizer."""
        model, optimizer = self.model, self.variables.unpacked(state.opt_state)
        if self._replays:
            before = ((state.params, state.extra, optimizer), tuple(batch))
            logs, after = _own_train_step(model, before, self._empty_metrics())
            params, extra, optimizer, _ = after
            metrics = self._replayed(logs, before, _own_train_step)
        else:
            losses = jax.value_and_grad(model.compute_loss_and_updates, has_aux=True)
            (_, (loss, y_pred, extra, _)), gradients = losses(
                state.params,
                state.extra,
                self._empty_metrics(),
                *batch,
                training=True,
                optimizer_variables=optimizer,
            )
            params, optimizer = model.optimizer.stateless_apply(optimizer, gradients, state.params)
            metrics = self._folded(loss, y_pred, batch)
        new = dataclasses.replace(
            state,
            params=list(params),
            extra=list(extra),
            opt_state=self.variables.packed(list(optimizer), self._rate(optimizer)),
        )
        return new, metrics

    def eval_step(self, state: TrainState, batch: Batch) -> Metrics:
        """The loss and the metrics."""
        model = self.model
        if self._replays:
            before = ((state.params, state.extra), tuple(batch))
            logs, _ = _own_test_step(model, before, self._empty_metrics())
            return self._replayed(logs, before, _own_test_step)
        _, (loss, y_pred, _, _) = model.compute_loss_and_updates(
            state.params, state.extra, self._empty_metrics(), *batch, training=False
        )
        return self._folded(loss, y_pred, batch)

    def predict_step(self, state: TrainState, batch: Batch) -> Any:
        """What the model gives."""
        return self.model.predict_step((state.params, state.extra), (batch.x,))[0]

    # Inside.

    def _build_optimizer(self) -> None:
        model = self.model
        if model.built and not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)

    def _empty_metrics(self) -> list[Any]:
        return [jnp.asarray(value) for value in self._empty]

    def _rate(self, optimizer: list[Any]) -> Any:
        """What a schedule gives after the step; None without one."""
        if all(isinstance(rate, keras.Variable) for rate in self.variables.rates.values()):
            return None
        mapping = list(zip(self.variables.optimizer, optimizer, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            return self.model.optimizer.learning_rate

    def _folded(self, loss: Any, y_pred: Any, batch: Batch) -> Metrics:
        """The model's own metrics, kept in its own variables."""
        model = self.model
        x, y, weight = batch

        def scope(kept: list[Any]) -> Any:
            return keras.StatelessScope(
                state_mapping=list(zip(model.metrics_variables, kept, strict=True))
            )

        def update(kept: list[Any], value: Any) -> list[Any]:
            loss, x, y, y_pred, weight = value
            with scope(kept) as changed:
                compiled = model._compile_loss  # noqa: SLF001  # keeps the loss of each output
                if compiled is not None and compiled.metrics:
                    compiled(y, y_pred, weight)
                rows = jax.tree.leaves(x)[0].shape[0]
                model._loss_tracker.update_state(loss, sample_weight=rows)  # noqa: SLF001  # nobody else does
                model.compute_metrics(x, y, y_pred, weight)
            return _after(changed, model.metrics_variables, kept)

        def result(kept: list[Any]) -> dict[str, Any]:
            with scope(kept):
                return {**model.get_metrics_result()}

        value = (loss, x, y, y_pred, weight)
        return {"metrics": Fold(value, self._empty_metrics, update, result)}

    def _replayed(self, logs: Any, before: Any, step: Callable[..., Any]) -> Metrics:
        """The metrics of a step of the model's own, with their last logs."""
        model = self.model
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), logs)

        def init() -> tuple[list[Any], Any]:
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            return self._empty_metrics(), zeros

        def update(kept: tuple[list[Any], Any], value: Any) -> tuple[list[Any], Any]:
            found, after = step(model, value, kept[0])
            return list(after[-1]), dict(found)

        return {"metrics": Fold(before, init, update, lambda kept: kept[1])}


def _own_train_step(model: Any, before: Any, kept: list[Any]) -> Any:
    return model.train_step((*before[0], kept), before[1])


def _own_test_step(model: Any, before: Any, kept: list[Any]) -> Any:
    return model.test_step((*before[0], kept), before[1])


def copied(state: TrainState) -> TrainState:
    """A copy of each array: what is donated to a step must be nobody else's."""
    return jax.tree.map(jnp.copy, state)  # type: ignore[no-any-return]  # jax returns Any


def _after(scope: Any, variables: list[Any], before: list[Any]) -> list[Any]:
    found = [scope.get_current_value(variable) for variable in variables]
    return [old if new is None else new for new, old in zip(found, before, strict=True)]


def _averages(optimizer: Any) -> bool:
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    parts = getattr(optimizer, "_inner_optimizers", None) or [optimizer]
    return any(part.use_ema for part in parts)
