"""From metrics on the device to logs on the host: one stacked vector a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final, final

import jax
import jax.numpy as jnp
import numpy as np

from fitbus.errors import InvalidArgumentError
from fitbus.train._context import fetched

__all__ = ["NO_MEAN", "Fold", "MetricsLayout", "check_metrics"]

# What logs have where there is no weight. A NaN that was computed is another object: `is` tells a
# batch of padding from a loss that diverged.
NO_MEAN: Final = float("nan")


@final
@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True)
class Fold:
    """A metric that isn't a mean: a value of each batch, and how to fold them into one.

    Args:
        value: What this batch contributes, a pytree.
        init: `() ->` the empty accumulator, a pytree of arrays.
        update: `(accumulator, value) -> accumulator`.
        result: `(accumulator) ->` a scalar; or a dict of scalars, whose names then stand in the
            logs instead of the fold's own: several metrics that are kept together.
    """

    value: Any
    init: Callable[[], Any]
    update: Callable[[Any, Any], Any]
    result: Callable[[Any], Any]

    def tree_flatten(self) -> tuple[tuple[Any], tuple[Any, Any, Any]]:
        """The value is traced, the functions are not."""
        return (self.value,), (self.init, self.update, self.result)

    @classmethod
    def tree_unflatten(cls, functions: tuple[Any, Any, Any], values: tuple[Any]) -> Fold:
        """Puts it together again."""
        return cls(values[0], *functions)


@final
class MetricsLayout:
    """Where each metric stands in the vector, and how its running value is kept on the device.

    Running means are summed on the device, compensated (W. Kahan, "Further remarks on reducing
    truncation errors", CACM 8, 1965), so they are the same whoever listens, don't drift over
    millions of batches, and nothing is read from the device where nobody listens. Where the weights
    sum up to 0, of a batch or of all so far, there is no mean: it is NaN in the logs, and only
    there, so that it is never the best one; it is the object `NO_MEAN`, which tells it from others.

    Args:
        who: The function whose metrics they are, for messages.
        metrics: Its metrics, or their shapes.

    Attributes:
        names: The names, sorted.
        dtype: That of the vector, and
        width: how many values it has.
    """

    def __init__(self, who: str, metrics: Any) -> None:
        check_metrics(who, metrics)
        self._who = who
        self._means = tuple(sorted(n for n in metrics if not isinstance(metrics[n], Fold)))
        self._folds = tuple(sorted(n for n in metrics if isinstance(metrics[n], Fold)))
        found_names = [*self._means]
        for name in self._folds:
            fold = metrics[name]
            shown = jax.eval_shape(lambda fold=fold: fold.result(fold.init()))
            found_names += shown if isinstance(shown, Mapping) else [name]
        self.names: tuple[str, ...] = tuple(sorted(set(found_names)))
        if len(self.names) < len(found_names):
            raise InvalidArgumentError(
                f"the metrics of {who}", sorted(found_names), "give each a name of its own"
            )
        self._weighted = tuple(n for n in self._means if isinstance(metrics[n], tuple))
        for name in self._means:
            found = metrics[name]
            pair = found if isinstance(found, tuple) else (found, 1.0)
            if any(getattr(part, "shape", ()) != () for part in pair):
                raise InvalidArgumentError(f"the metric {name!r} of {who}", found, _METRIC)
        floats = [
            part.dtype
            for part in jax.tree.leaves([metrics[n] for n in self._means])
            if hasattr(part, "dtype") and jnp.issubdtype(part.dtype, jnp.floating)
        ]
        self.dtype = jnp.result_type(jnp.float32, *floats)
        self.width = 2 * len(self.names) + 2 * len(self._weighted)
        self._init = {name: metrics[name].init for name in self._folds}

    def zeros(self) -> Any:
        """The running values of no batch, on the host."""
        means = np.zeros((4, len(self._means)), self.dtype)
        return means, {name: jax.tree.map(np.asarray, self._init[name]()) for name in self._folds}

    def gone_on_with(self, values: Any) -> Any:
        """The running values to go on with, of those from a backup."""
        return values

    def own(self, metrics: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """A batch's own values by name, each with its weight; traced."""
        found: dict[str, tuple[Any, Any]] = {}
        for name in self._means:
            pair = metrics[name] if isinstance(metrics[name], tuple) else (metrics[name], 1.0)
            found[name] = (jnp.asarray(pair[0], self.dtype), jnp.asarray(pair[1], self.dtype))
        for name in self._folds:
            fold = metrics[name]
            result = fold.result(fold.update(fold.init(), fold.value))
            for place, value in self._results(name, result).items():
                found[place] = (jnp.asarray(value, self.dtype), jnp.ones((), self.dtype))
        return found

    def accumulate(
        self, running: Any, metrics: Mapping[str, Any], counts: Any = None
    ) -> tuple[Any, Any]:
        """Folds a batch's metrics in; traced. Returns the running values, and the vector.

        Args:
            running: The running values.
            metrics: The batch's.
            counts: Whether they count; else only the batch's own values are told. None: they do.
        """
        means, kept = running
        pairs = [m if isinstance(m, tuple) else (m, 1.0) for m in (metrics[n] for n in self._means)]
        now: dict[str, Any] = {}
        so_far: dict[str, Any] = {}
        weights: list[Any] = []
        if pairs:
            value = jnp.stack([jnp.asarray(v, self.dtype) for v, _ in pairs])
            weight = jnp.stack([jnp.asarray(w, self.dtype) for _, w in pairs])
            share = weight if counts is None else jnp.where(counts, weight, 0)
            total, total_error = _add(means[0], means[1], jnp.where(share == 0, 0, value * share))
            count, count_error = _add(means[2], means[3], share)
            means = jnp.stack([total, total_error, count, count_error])
            mean = total / jnp.where(count == 0, 1, count)
            places = np.array([self._means.index(name) for name in self._weighted], int)
            weights = [count[places], weight[places]]
            for place, name in enumerate(self._means):
                now[name], so_far[name] = value[place], mean[place]
        kept = dict(kept)
        for name in self._folds:
            fold = metrics[name]
            kept[name] = self._updated(name, fold, kept[name], counts)
            so_far |= self._results(name, fold.result(kept[name]))
            now |= self._results(name, fold.result(fold.update(fold.init(), fold.value)))
        vector = [values[name] for values in (so_far, now) for name in self.names]
        # The weights go along, and it is the host that makes a NaN of none: one made here would
        # stop a run under `jax_debug_nans`.
        stacked = jnp.stack([jnp.asarray(v, self.dtype) for v in vector])
        return (means, kept), jnp.concatenate([stacked, *weights])

    def _results(self, name: str, result: Any) -> Mapping[str, Any]:
        found = result if isinstance(result, Mapping) else {name: result}
        for place, value in found.items():
            if jnp.shape(value) != ():
                raise InvalidArgumentError(
                    f"the result of the metric {place!r} of {self._who}",
                    jnp.shape(value),
                    "return a scalar",
                )
        return found

    def _updated(self, name: str, fold: Fold, kept: Any, counts: Any) -> Any:
        new = fold.update(kept, fold.value)
        # Else every batch after the first one would be compiled anew.
        was, now = jax.eval_shape(lambda: (kept, new))
        if jax.tree.map(_kind, was) != jax.tree.map(_kind, now):
            raise InvalidArgumentError(
                f"the update of the metric {name!r} of {self._who}",
                jax.tree.map(_kind, now),
                f"keep the accumulator's structure, shapes and dtypes: {jax.tree.map(_kind, was)}",
            )
        if counts is not None:
            new = jax.tree.map(lambda was, now: jnp.where(counts, now, was), kept, new)
        return new

    def read(self, vector: Any) -> tuple[dict[str, float], dict[str, float]]:
        """The running values and the batch's own, as plain dicts. Waits for the device."""
        return self.logs_of(fetched(vector).tolist())

    def logs_of(self, values: list[float]) -> tuple[dict[str, float], dict[str, float]]:
        """The same of a vector that was read."""
        names = self.names
        end = 2 * len(names)
        logs = dict(zip(names, values, strict=False))
        own = dict(zip(names, values[len(names) : end], strict=True))
        if 0.0 in (weights := values[end:]):
            for found, start in ((logs, 0), (own, len(self._weighted))):
                for place, name in enumerate(self._weighted, start):
                    if weights[place] == 0:
                        found[name] = NO_MEAN
        return logs, own


def check_metrics(who: str, metrics: Any) -> None:
    """Refuses what can't be metrics. Called where a step is traced, too: JAX would say it worse."""
    if not isinstance(metrics, Mapping) or not metrics:
        raise InvalidArgumentError(
            f"the metrics of {who}", metrics, "return a dict of names to scalars"
        )
    for name, found in metrics.items():
        if not isinstance(name, str):
            raise InvalidArgumentError(f"the metrics of {who}", name, "give texts as names")
        if isinstance(found, Fold):
            continue
        pair = found if isinstance(found, tuple) else (found, 1.0)
        allowed = _METRIC
        if len(pair) == 3 and all(map(callable, pair)):
            allowed = (
                "a task of one's own returns the batch's value with the three functions:"
                " fitbus.train.Fold(value, init, update, result)"
            )
        elif len(pair) == 2 and all(map(_is_number, pair)):
            continue
        raise InvalidArgumentError(f"the metric {name!r} of {who}", found, allowed)


_METRIC = "return a scalar, a pair (value, weight), or a fitbus.train.Fold"


def _is_number(part: Any) -> bool:
    return isinstance(part, int | float) or (hasattr(part, "shape") and hasattr(part, "dtype"))


def _kind(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _add(total: Any, error: Any, value: Any) -> tuple[Any, Any]:
    corrected = value - error
    new = total + corrected
    # An infinite sum has no error, and stays infinite as any sum does.
    return new, jnp.where(jnp.isfinite(new), (new - total) - corrected, 0)
