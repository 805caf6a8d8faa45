"""A compiled Keras model as a task."""

from __future__ import annotations

import dataclasses
import threading
import warnings
from functools import partial
from typing import Any, final

import jax
import keras
import numpy as np

from fitbus.errors import InvalidArgumentError
from fitbus.keras._building import build, build_optimizer, check_model
from fitbus.keras._holding import Holding, is_empty
from fitbus.keras._metrics import ModelMetrics
from fitbus.keras._variables import Variables, copied, count_of, keeps_averages
from fitbus.train import Batch, Metrics, TrainState

__all__ = ["KerasTask"]

_OWN_STEPS = (
    *("train_step", "test_step", "compute_metrics", "compute_loss", "_compute_loss"),
    *("compute_loss_and_updates", "stateless_compute_loss", "_update_metrics_variables"),
)


@final
class KerasTask:
    """Trains a compiled Keras model: its optimizer, loss and metrics, as they are.

    BatchNorm's statistics, seed generators, the scale of the loss under mixed precision, sample and
    class weights are all taken along. The model has its weights, and its optimizer's variables,
    back when a run has ended, whatever ended it; what is written to them between two runs counts in
    the next one. During a run they are those of its start, or of the latest hook of a Keras
    callback; `await run.snapshot()` has the newest.

    During a run the model is the run's: `model.fit`, `evaluate` and `predict`, and those of a model
    in it, raise `WrongThreadError` in other threads and in the event loop's, where they would bring
    back old weights; use `await run.predict(x)` or `await run.evaluate(x, y)`. In `def` hooks they
    work. A run is refused while such a call has the model's arrays, or while another run trains
    variables of the model, from its first batch until it has ended.

        model.compile("adam", "mse", metrics=["mae"])
        trainer = fitbus.Trainer(fitbus.keras.KerasTask(model))
        history = await trainer.fit(x, y, epochs=5, callbacks=[keras_callback, handler])

    `state.params` is the list of trainable variables, `state.extra` that of the others. A short
    last batch isn't filled up, as in Keras, and so is compiled by itself. Sample weights are what
    Keras takes: one for each example or time step, or a dict or tuple of such by output; a model
    that gets none computes without. Of a model with a `train_step`, `test_step`, `compute_loss` or
    `compute_metrics` of its own, the step is traced twice more, for the running values of the
    metrics and for the batch's own; the compiler merges what is the same.

    `state.step` counts batches that were trained on. `optimizer.iterations` agrees with it, but
    for batches that the scale of the loss leaves out, and where gradients are accumulated: there it
    counts updates. What Keras trains between two runs counts in both.

    Differs from Keras in five things: an array that a metric gives, such as that of
    `F1Score(average=None)`, stands in logs as scalars, `f1_score_0` and so on; averages of the
    weights take their place only after a run that has made an update and was completed or stopped
    (Keras puts zeros there if the first batch fails, and loses the weights if a later one does);
    the logs of batches of a model whose own step returns what has the names of its metrics are
    those metrics' results, as those of epochs are; class weights multiply into sample weights
    instead of being refused beside them; and an evaluation or a prediction leaves the model as it
    is, seed generators and the states of recurrences too, so that each of its batches begins from
    those that training has left.

    Args:
        model: The model, compiled.

    Raises:
        InvalidArgumentError: It is no Keras model, isn't compiled, or wants to run eagerly.

    Source: Keras' JAX trainer, https://keras.io/guides/custom_train_step_in_jax/.
    """

    pad = False
    weights_as_given = True

    def __init__(self, model: Any) -> None:
        check_model(model)
        self.model = model
        self.variables = Variables(model)
        self._tracing = threading.RLock()  # Keras notes things on the model while it is traced
        self._metrics = ModelMetrics(model, self._tracing)
        self._policy = keras.config.dtype_policy()  # which Keras keeps by thread, as it does
        self._distribution = keras.distribution.distribution()
        self._made = False  # whether a trainer has asked for the state
        self._kept: list[Any] = []  # the arrays that the variables had after the latest run
        self._count = 0  # and the updates that the optimizer had counted
        self._begun: int | None = None  # the step at which a run has taken the model over
        self.holding = Holding(model)
        self._compiled = (model.optimizer, model._loss_tracker)  # noqa: SLF001  # anew in each compile
        own = type(model)
        self._replays = any(
            getattr(own, name, None) is not getattr(keras.Model, name, None) for name in _OWN_STEPS
        )

    # The world outside: called by the trainer between calls.

    def init(self, params: Any, key: Any) -> TrainState:
        """The state that the model is in."""
        if params is not None:
            raise InvalidArgumentError(
                "params", params, "a Keras model has its own: Trainer(KerasTask(model))"
            )
        if self._made:
            raise InvalidArgumentError(
                "task", self, "it has a trainer already; give each a KerasTask(model) of its own"
            )
        build_optimizer(self.model)
        self.variables = Variables(self.model)
        self._made, self._count = True, count_of(self.model.optimizer)
        return self.variables.read(key, self._count)

    def prepare(self, state: TrainState, batch: Batch) -> TrainState:
        """Builds what isn't built yet, and takes what was written to the model meanwhile."""
        self._check_compiled()
        self.holding.begin()
        with self.holding.here():
            return self._taken_over(state, batch)

    def finish(self, state: TrainState) -> TrainState:
        """Lets the optimizer finish: one that averages the weights may put the averages there."""
        with self.holding.here():
            return self._finished(state)

    def keep(self, state: TrainState) -> None:
        """Puts a copy of the state back into the model, unless the run hasn't got so far."""
        if not self.holding.mine:
            return  # it was refused the model, which another run may have
        with self.holding.here():
            taken = is_empty(self.model)
            try:
                if self._begun is not None:
                    # A copy, since Keras may donate what it has.
                    self.variables.write(self.variables.values(copied(state)))
                    self._kept = [variable.value for variable in self.variables.all]
                    self._count = count_of(self.model.optimizer)
                    self._begun = None
            finally:
                self.holding.end()
        if taken:
            warnings.warn(_TAKEN, RuntimeWarning, stacklevel=2)

    def lost(self) -> None:
        """Lets go of the model, in place of `keep`: it stays as it is."""
        self._begun = None
        self.holding.end()

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

    def averages(self, state: TrainState) -> list[Any] | None:
        """The averages that an optimizer with `use_ema` keeps of the trainable variables."""
        return self.variables.averages(state)

    # What is compiled.

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One update by the model's optimizer."""
        with self._tracing:
            return self._train_step(state, batch)

    def eval_step(self, state: TrainState, batch: Batch) -> Metrics:
        """The loss and the metrics."""
        model, none = self.model, self._metrics.none()
        with self._tracing:
            if self._replays:
                before = (state.params, state.extra)
                step = partial(_own_step, model.test_step)
                logs, _ = step(before, batch, none)
                return self._metrics.replayed(logs, (before, batch), step)
            _, (loss, y_pred, _, after) = model.compute_loss_and_updates(
                state.params, state.extra, none, *batch, training=False
            )
            return self._metrics.of(loss, y_pred, after, batch)

    def predict_step(self, state: TrainState, batch: Batch) -> Any:
        """What the model gives."""
        with self._tracing:
            return self.model.predict_step((state.params, state.extra), (batch.x,))[0]

    # Inside.

    def _taken_over(self, state: TrainState, batch: Batch) -> TrainState:
        self._begun = None
        keras.config.set_dtype_policy(self._policy)
        keras.distribution.set_distribution(self._distribution)
        build(self.model, batch)
        self._metrics.reset()
        variables = Variables(self.model)
        written = [variable.value for variable in variables.all]
        untouched = len(written) == len(self._kept) and all(
            new is old for new, old in zip(written, self._kept, strict=True)
        )
        if not self._made:
            state = self._given(state, variables)
        elif not (untouched and variables.same_as(self.variables)):
            count = count_of(self.model.optimizer)
            step = max(0, int(state.step) + count - self._count)
            state = variables.read(state.key, step)  # the trainer copies it
            self._count = count
        self.variables, self._kept = variables, written
        self._begun = int(state.step)
        return state

    def _finished(self, state: TrainState) -> TrainState:
        optimizer = self.model.optimizer
        if self._begun is None or int(state.step) == self._begun or not keeps_averages(optimizer):
            return state
        self.variables.write(self.variables.values(copied(state)))
        if count_of(optimizer) == 0:
            return state
        optimizer.finalize_variable_values(self.model.trainable_variables)
        return copied(self.variables.read(state.key, state.step))

    def _train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        model, optimizer = self.model, self.variables.unpacked(state.opt_state)
        none = self._metrics.none()
        if self._replays:
            before = (state.params, state.extra, optimizer)
            step = partial(_own_step, model.train_step)
            logs, after = step(before, batch, none)
            params, extra, optimizer, _ = after
            metrics = self._metrics.replayed(logs, (before, batch), step)
        else:
            losses = jax.value_and_grad(model.compute_loss_and_updates, has_aux=True)
            (_, (loss, y_pred, extra, after)), gradients = losses(
                *(state.params, state.extra, none, *batch),
                training=True,
                optimizer_variables=optimizer,
            )
            params, optimizer = model.optimizer.stateless_apply(optimizer, gradients, state.params)
            metrics = self._metrics.of(loss, y_pred, after, batch)
        new = dataclasses.replace(
            state,
            params=list(params),
            extra=list(extra),
            opt_state=self.variables.packed(list(optimizer), self._driven(optimizer)),
        )
        return new, metrics

    def _check_compiled(self) -> None:
        model = self.model
        if (model.optimizer, model._loss_tracker) != self._compiled:  # noqa: SLF001  # there is no public one
            raise InvalidArgumentError(
                "model",
                model,
                "it was compiled anew; make a new Trainer(KerasTask(model)) for it",
            )

    def _given(self, state: TrainState, variables: Variables) -> TrainState:
        """A state that the trainer was given, if it is one of this model."""
        own = variables.read(state.key, state.step)
        if jax.tree.map(np.shape, own) != jax.tree.map(np.shape, state):
            raise InvalidArgumentError("params", "a TrainState", "give a state of this model")
        self._made = True
        return state

    def _driven(self, optimizer: list[Any]) -> dict[str, Any]:
        """What schedules give after the step."""
        mapping = list(zip(self.variables.optimizer, optimizer, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            return self.variables.driven()


_TAKEN = (
    "a call of Keras' own, on a model that shares variables with the trained one, had their arrays"
    " when the run ended, and may still write old ones back; `trainer.state` has what was learned"
)


def _own_step(step: Any, before: Any, batch: Batch, kept: list[Any]) -> Any:
    """A step that the model's class wrote, with what its metrics keep."""
    return step((*before, kept), tuple(batch))
