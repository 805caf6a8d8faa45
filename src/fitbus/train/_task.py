"""What a step computes: the task, and the one that most people need."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias, final, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fitbus.control import Control
from fitbus.errors import InvalidArgumentError
from fitbus.train._metrics import Fold
from fitbus.train._state import TrainState
from fitbus.train._steerable import steerable

__all__ = ["Batch", "ControlAppliers", "Metrics", "Supervised", "Task"]

Metrics: TypeAlias = Mapping[str, Any]
ControlAppliers: TypeAlias = Mapping[type[Control], Callable[[TrainState, Any], TrainState]]


class Batch(NamedTuple):
    """What a step gets.

    Attributes:
        x: Inputs: an array of shape (batch, ...), or a pytree of such.
        y: Targets, likewise; None where there are none.
        weight: float32 of shape (batch,): the sample weights; 0 for the rows that fill up a short
            batch, which repeat a real row.
    """

    x: Any
    y: Any
    weight: Any


@runtime_checkable
class Task(Protocol):
    """Three pure functions on pytrees, traced and compiled by the trainer.

    Metrics are a dict of scalars, of `(value, weight)` pairs for a weighted running mean, or of
    `fitbus.train.Fold`s for a metric that isn't a mean. A task may also have

    - `init(params, key) -> TrainState`, where its state isn't `optimizer.init(params)`;
    - `optimizer`, whose `init` makes the optimizer's state;
    - `controls`, a map from types of control to `(state, control) -> state`;
    - `init(None, key)` may bring the parameters too: then `Trainer(task)` is all;
    - `prepare(state, batch) -> TrainState`, called at the beginning of a call with its first batch,
      outside of any compiled function: where shapes, or the world outside, decide;
    - `finish(state) -> TrainState`, called at the end of a training, before `TrainEnd`, if it was
      completed or stopped: not after a failure or a cancellation, which leave the state as it is,
      to go on from; its structure, shapes and dtypes stay;
    - `keep(state)`, called when a run has ended, whatever ended it, with the state that it left:
      not if that was lost (`StateLostError`). It may be kept: the next run works on a copy;
    - `lost()`, called in place of `keep` if the state was lost;
    - `weights(state)` and `with_weights(state, weights) -> state`, a pytree of arrays, if what
      callbacks keep and put back as the weights is more than `state.params`;
    - `averages(state)`, a pytree as `state.params`, or None, if it keeps averages of them;
    - `pad = False`, if a short last batch must not be filled up (it is compiled a second time);
    - `weights_as_given = True`, beside it, if `batch.weight` is to be None where nobody gave
      weights, and may be any pytree of arrays where somebody did.

    `init` is called where the trainer is made, the others in the training thread. What `prepare`,
    `finish` or `keep` raises leaves from the call; if that failed anyway, it is in the error's
    notes. The state stays what it was before them.
    """

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One optimizer update."""
        ...

    def eval_step(self, state: TrainState, batch: Batch) -> Metrics:
        """The metrics of a batch, under the same names."""
        ...

    def predict_step(self, state: TrainState, batch: Batch) -> Any:
        """The outputs for a batch: a pytree of arrays of shape (batch, ...)."""
        ...


@final
class Supervised:
    """The task of fitting `apply(params, x)` to `y`.

    The objective is the weighted mean of the per-example losses: sum(weight * loss) / sum(weight).
    A batch whose weights are all 0 has no gradient, and no loss: in its `batch_logs` that is NaN,
    as it is in the logs of an epoch or a test that has no other batches.

    >>> import jax.numpy as jnp, optax
    >>> task = Supervised(
    ...     apply=lambda params, x: x @ params["w"],
    ...     loss=lambda predictions, y: (predictions - y) ** 2,
    ...     optimizer=optax.sgd,
    ...     learning_rate=0.1,
    ... )

    Args:
        apply: `(params, x) -> predictions`; pure, traced once for training.
        loss: `(predictions, y) ->` one loss for each example, of shape (batch,).
        optimizer: An Optax transformation, or a factory of one that takes `learning_rate=`; a
            factory is wrapped in `optax.inject_hyperparams`, so that controls can steer it.
        learning_rate: For a factory: a number, or an Optax schedule.
        metrics: By name: `(predictions, y) ->` one value for each example; or, for a metric that
            isn't a mean, a triple `(init, update, result)` with `init() -> accumulator`,
            `update(accumulator, predictions, y, weight) -> accumulator` and
            `result(accumulator) -> scalar`.
        controls: For controls of your own: by type, `(state, control) -> state`.

    Raises:
        InvalidArgumentError: An argument is of the wrong kind.
    """

    def __init__(
        self,
        apply: Callable[[Any, Any], Any],
        loss: Callable[[Any, Any], Any],
        optimizer: Any,
        learning_rate: float | Callable[[Any], Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
        controls: ControlAppliers | None = None,
    ) -> None:
        for name, function in (("apply", apply), ("loss", loss)):
            if not callable(function):
                raise InvalidArgumentError(name, function, "give a function of two arguments")
        self.apply = apply
        self.loss = loss
        self.optimizer = _optimizer(optimizer, learning_rate)
        if controls is not None and not isinstance(controls, Mapping):
            raise InvalidArgumentError("controls", controls, "give a dict of types to functions")
        self.controls: ControlAppliers = dict(controls or {})
        for kind, applier in self.controls.items():
            if not (isinstance(kind, type) and issubclass(kind, Control)):
                raise InvalidArgumentError("controls", kind, "give subclasses of Control as keys")
            if not callable(applier):
                raise InvalidArgumentError(
                    f"controls[{kind.__name__}]", applier, "give a function of (state, control)"
                )
        self._means: dict[str, Callable[[Any, Any], Any]] = {}
        self._folds: dict[str, _FoldFunctions] = {}
        if metrics is not None and not isinstance(metrics, Mapping):
            raise InvalidArgumentError("metrics", metrics, "give a dict of names to functions")
        for name, metric in (metrics or {}).items():
            self._add_metric(name, metric)

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One optimizer update on the weighted mean loss."""

        def objective(params: Any) -> tuple[Any, tuple[Any, Any]]:
            predictions = self.apply(params, batch.x)
            losses = self._losses(predictions, batch)
            return _mean(losses, batch.weight), (predictions, losses)

        _check_floats(state.params)
        gradients, (predictions, losses) = jax.grad(objective, has_aux=True)(state.params)
        updates, opt_state = self.optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = dataclasses.replace(state, params=params, opt_state=opt_state)
        return new, self._metrics(predictions, losses, batch)

    def eval_step(self, state: TrainState, batch: Batch) -> Metrics:
        """The loss and the metrics."""
        predictions = self.apply(state.params, batch.x)
        losses = self._losses(predictions, batch)
        return self._metrics(predictions, losses, batch)

    def predict_step(self, state: TrainState, batch: Batch) -> Any:
        """What `apply` gives."""
        return self.apply(state.params, batch.x)

    def _losses(self, predictions: Any, batch: Batch) -> Any:
        try:
            losses = self.loss(predictions, batch.y)
        except TypeError as error:
            if batch.y is None:
                error.add_note(
                    "y was None: give arrays x and y, or batches (x, y); validation_data is a"
                    " tuple (x, y), and a list is one of batches"
                )
            raise
        return _per_example("loss", losses, batch.weight)

    def _metrics(self, predictions: Any, losses: Any, batch: Batch) -> Metrics:
        total = jnp.sum(batch.weight)
        found: dict[str, Any] = {"loss": (_mean(losses, batch.weight), total)}
        for name, function in self._means.items():
            values = _per_example(
                f"metrics[{name!r}]", function(predictions, batch.y), batch.weight
            )
            found[name] = (_mean(values, batch.weight), total)
        for name, functions in self._folds.items():
            found[name] = Fold((predictions, batch.y, batch.weight), *functions)
        return found

    def _add_metric(self, name: str, metric: Any) -> None:
        argument = f"metrics[{name!r}]"
        if name == "loss" or not isinstance(name, str):
            raise InvalidArgumentError("metrics", name, "give texts other than 'loss' as names")
        if callable(metric):
            self._means[name] = metric
        elif isinstance(metric, tuple) and len(metric) == 3 and all(map(callable, metric)):
            init, update, result = metric
            self._folds[name] = _FoldFunctions(
                init, lambda kept, value: update(kept, *value), result
            )
        else:
            raise InvalidArgumentError(
                argument,
                metric,
                "give a function of (predictions, y), or a triple (init, update, result)",
            )


class _FoldFunctions(NamedTuple):
    init: Callable[[], Any]
    update: Callable[[Any, Any], Any]
    result: Callable[[Any], Any]


def _optimizer(optimizer: Any, learning_rate: Any) -> Any:
    is_transformation = callable(getattr(optimizer, "init", None)) and callable(
        getattr(optimizer, "update", None)
    )
    if is_transformation:
        if learning_rate is not None:
            raise InvalidArgumentError(
                "learning_rate",
                learning_rate,
                "the optimizer is built already; give a factory, such as optax.adam, with it",
            )
        return optimizer
    if not callable(optimizer):
        raise InvalidArgumentError(
            "optimizer",
            optimizer,
            "give an Optax transformation, or a factory such as optax.adam with learning_rate=",
        )
    if learning_rate is None:
        raise InvalidArgumentError(
            "learning_rate", learning_rate, "an optimizer factory needs a number or a schedule"
        )
    value: Any = learning_rate
    if isinstance(learning_rate, np.generic | np.ndarray | jax.Array) and value.shape == ():
        value = value.item()  # Optax wouldn't keep NumPy's as a hyperparameter
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (callable(value) or (is_number and 0 <= value < float("inf"))):
        raise InvalidArgumentError(
            "learning_rate", learning_rate, "give a finite number of at least 0, or a schedule"
        )
    try:
        return steerable(optimizer, value)
    except TypeError as error:
        raise InvalidArgumentError(
            "optimizer", optimizer, "as a factory it must take learning_rate="
        ) from error


def _check_floats(params: Any) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise InvalidArgumentError(
                f"params{jax.tree_util.keystr(path)}",
                str(leaf.dtype),
                "it has no gradient: give floats, and keep what isn't trained out of params (let"
                " `apply` close over it, or put it in `state.extra` with a task of your own)",
            )


def _per_example(argument: str, values: Any, weight: Any) -> Any:
    if getattr(values, "shape", None) != weight.shape:
        found = getattr(values, "shape", type(values).__name__)
        raise InvalidArgumentError(
            argument, found, f"return one value for each example, of shape {weight.shape}"
        )
    return values


def _mean(values: Any, weight: Any) -> Any:
    total = jnp.sum(weight)
    # A batch of zero weights has no loss and no gradient, rather than a NaN.
    return jnp.sum(values * weight) / jnp.where(total == 0, 1, total)
