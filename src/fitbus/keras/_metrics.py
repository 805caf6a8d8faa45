"""The metrics of a Keras model, folded batch by batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, final

import jax
import jax.numpy as jnp
import keras
import numpy as np
from keras.src.backend import get_keras_mask, set_keras_mask  # there are no public ones

from fitbus.train import Batch, Fold, Metrics

__all__ = ["ModelMetrics"]

Step = Callable[[Any, Any, list[Any]], Any]


@final
class ModelMetrics:
    """What a model's own metrics make of its batches, kept in the shapes of their variables.

    Args:
        model: The model.
        tracing: Held while the model is traced.

    Attributes:
        empty: The variables of the metrics before the first batch; as they are when it is reset.
    """

    def __init__(self, model: Any, tracing: contextlib.AbstractContextManager[Any]) -> None:
        self._model = model
        self._tracing = tracing
        self.empty: list[Any] = []

    def reset(self) -> None:
        """Forgets what is in the model's metrics; they are built."""
        self._model.reset_metrics()
        self.empty = [np.array(variable.value) for variable in self._model.metrics_variables]

    def none(self) -> list[Any]:
        """The variables of no batch."""
        return [jnp.asarray(value) for value in self.empty]

    def of(self, loss: Any, y_pred: Any, after: list[Any], batch: Batch) -> Metrics:
        """The metrics of a step as Keras has it.

        Args:
            loss: The loss.
            y_pred: What the model gave.
            after: The metrics' variables after its losses were computed, from none.
            batch: The batch.
        """
        model = self._model
        masks = jax.tree.map(lambda leaf: _Mask(get_keras_mask(leaf)), y_pred)

        def update(kept: list[Any], value: Any) -> list[Any]:
            loss, (x, y, weight), y_pred, masks, after = value
            y_pred = jax.tree.map(_masked, y_pred, masks)
            kept = self._with_losses(kept, after)
            with self._tracing, self._scope(kept) as changed:
                rows = jax.tree.leaves(x)[0].shape[0]
                model._loss_tracker.update_state(loss, sample_weight=rows)  # noqa: SLF001  # nobody else does
                model.compute_metrics(x, y, y_pred, weight)
            found = [changed.get_current_value(v) for v in model.metrics_variables]
            return [old if new is None else new for new, old in zip(found, kept, strict=True)]

        value = (loss, tuple(batch), y_pred, masks, after)
        return {"metrics": Fold(value, self.none, update, self._result)}

    def replayed(self, logs: Mapping[str, Any], before: Any, step: Step) -> Metrics:
        """The metrics of a step of the model's own.

        Args:
            logs: What it returned.
            before: What it was called with: the state, without metrics, and the batch.
            step: `(state, batch, metrics' variables) -> (logs, (..., metrics' variables))`.
        """
        shapes = jax.eval_shape(lambda: _arrays(logs))

        def init() -> tuple[list[Any], Any]:
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            return self.none(), zeros

        def update(kept: tuple[list[Any], Any], value: Any) -> tuple[list[Any], Any]:
            state, batch = value
            with self._tracing:
                found, after = step(state, batch, kept[0])
            return list(after[-1]), _arrays(found)

        def result(kept: tuple[list[Any], Any]) -> dict[str, Any]:
            # Keras' rule: the metrics' results, if the step returns what has their names.
            own = self._result(kept[0])
            found = _scalars(kept[1])
            return own if own.keys() == found.keys() else found

        return {"metrics": Fold(before, init, update, result)}

    def _result(self, kept: list[Any]) -> dict[str, Any]:
        with self._tracing, self._scope(kept):
            return _scalars(self._model.get_metrics_result())

    def _scope(self, kept: list[Any]) -> Any:
        return keras.StatelessScope(
            state_mapping=list(zip(self._model.metrics_variables, kept, strict=True))
        )

    def _with_losses(self, kept: list[Any], after: list[Any]) -> list[Any]:
        """Adds the losses of each output, sums that were updated where the loss was computed."""
        compiled = self._model._compile_loss  # noqa: SLF001  # has them
        sums = {id(v) for m in getattr(compiled, "metrics", ()) for v in m.variables}
        return [
            old + new if id(variable) in sums else old
            for variable, old, new in zip(self._model.metrics_variables, kept, after, strict=True)
        ]


@jax.tree_util.register_pytree_node_class
class _Mask:
    """A mask of an output, or None: a leaf where the tree has the output."""

    def __init__(self, mask: Any) -> None:
        self.mask = mask

    def tree_flatten(self) -> tuple[tuple[Any], None]:
        return (self.mask,), None

    @classmethod
    def tree_unflatten(cls, _: None, parts: tuple[Any]) -> _Mask:
        return cls(parts[0])


def _masked(leaf: Any, mask: _Mask) -> Any:
    """An output with its mask, which Keras hangs on the array."""
    if mask.mask is None:
        return leaf
    leaf = jnp.copy(leaf)  # the one at hand may be somebody else's
    set_keras_mask(leaf, mask.mask)
    return leaf


def _arrays(logs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: jax.tree.map(jnp.asarray, value) for name, value in logs.items()}


def _scalars(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Results as scalars: dicts flattened, as Keras does, and the values of arrays numbered."""
    found: dict[str, Any] = {}
    for name, value in logs.items():
        if isinstance(value, Mapping):
            found |= _scalars(value)
            continue
        array = jnp.asarray(value)
        if array.size == 1:
            found[name] = array.reshape(())
            continue
        for place in np.ndindex(array.shape):
            found["_".join([name, *map(str, place)])] = array[place]
    return found
