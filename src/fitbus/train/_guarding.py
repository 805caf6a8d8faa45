"""A step that sees at once what isn't finite, and then leaves the state as it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, final

import jax
import jax.numpy as jnp
import numpy as np

from fitbus.errors import InvalidArgumentError
from fitbus.train._form import Form
from fitbus.train._metrics import NO_MEAN, MetricsLayout
from fitbus.train._state import TrainState
from fitbus.train._task import Batch

__all__ = ["GuardedLayout", "Guarding", "Layout", "Verdict", "guarded"]

_MORE = 4  # values behind those of the metrics: counted, metric, leaf, halted


@final
@dataclasses.dataclass(frozen=True)
class Guarding:
    """What a guarded step looks at. A trainer compiles a step for each.

    Attributes:
        metrics: The metrics that must be finite; None for `loss` and those that end in `_loss`.
        max_norm: What the norm of an update may be at the most; None for whatever it is.
        halts_after: After so many steps in a row that were left out all others are, until training
            has acted on it; None if they never are.
    """

    metrics: tuple[str, ...] | None = None
    max_norm: float | None = None
    halts_after: int | None = None


class Verdict(NamedTuple):
    """Why a step was left out."""

    metric: str  # the first that isn't finite; or empty
    leaf: str  # the first leaf of the state that became not finite; or the one with the most norm
    too_long: bool  # all is finite, but the update's norm is above `max_norm`
    halts: bool  # and whether the steps after it were left out, too


@final
class GuardedLayout:
    """As `MetricsLayout`, with what the guard saw behind the metrics.

    Args:
        layout: That of the metrics.
        guarding: What to look at.
        state: The state, or its shapes.

    Attributes:
        guarding: What to look at.
        names: The names of the metrics, sorted.
        dtype: That of the vector, and
        width: how many values it has.

    Raises:
        InvalidArgumentError: There is no metric of a name.
    """

    def __init__(self, layout: MetricsLayout, guarding: Guarding, state: TrainState) -> None:
        self._layout = layout
        self.guarding = guarding
        self.names = layout.names
        self.dtype = layout.dtype
        self.width = layout.width + _MORE
        if guarding.metrics is None:
            self._metrics = [n for n in self.names if n == "loss" or n.endswith("_loss")]
        else:
            self._metrics = list(guarding.metrics)
        for name in self._metrics:
            if name not in self.names:
                raise InvalidArgumentError(
                    "Guard.metrics", name, f"the metrics of train_step are {list(self.names)}"
                )
        parts = [("params", state.params), ("opt_state", state.opt_state), ("extra", state.extra)]
        self._paths = [_paths(*part) for part in parts]

    def zeros(self) -> Any:
        """The running values of no batch, on the host."""
        return self._layout.zeros(), self.counts(0)

    def gone_on_with(self, values: Any) -> Any:
        """The running values to go on with, of those from a backup: nothing is left out yet."""
        base, (counted, in_a_row, _) = values
        return base, np.asarray([counted, in_a_row, 0], np.int32)

    def counts(self, counted: int) -> np.ndarray[Any, Any]:
        """What the guard keeps: the batches that counted, those left out in a row, and a flag."""
        return np.asarray([counted, 0, 0], np.int32)

    def logs_of(self, values: list[float]) -> tuple[dict[str, float], dict[str, float]]:
        """The running values and the batch's own, as plain dicts, of a vector that was read."""
        logs, own = self._layout.logs_of(values[:-_MORE])
        if values[-_MORE] == 0:  # whatever was folded, it is of no batch
            logs = dict.fromkeys(self.names, NO_MEAN)
        return logs, own

    def counted(self, values: list[float]) -> int:
        """How many batches are in the running values."""
        return int(values[-_MORE])

    def verdict(self, values: list[float]) -> Verdict | None:
        """Why the step was left out; None if it wasn't."""
        metric, leaf, halted = map(int, values[1 - _MORE :])
        if not metric and not leaf:
            return None
        paths = [path for part in self._paths for path in part]
        too_long = leaf > len(paths)
        return Verdict(
            self._metrics[metric - 1] if metric else "",
            [*paths, *self._paths[0]][leaf - 1] if leaf else "",
            too_long,
            bool(halted),
        )

    # Traced.

    def judge(self, state: TrainState, new: TrainState, metrics: Mapping[str, Any]) -> Any:
        """The numbers of the metric and of the leaf that aren't as they should be; 0 for none."""
        own = self._layout.own(metrics) if self._metrics else {}
        metric = _first([_wrong(*own[name]) for name in self._metrics])
        parts = [
            list(zip(jax.tree.leaves(old), jax.tree.leaves(now), strict=True))
            for old, now in (
                (state.params, new.params),
                (state.opt_state, new.opt_state),
                (state.extra, new.extra),
            )
        ]
        leaf = _first([_broken(old, now) for part in parts for old, now in part])
        if self.guarding.max_norm is None:
            return metric, leaf
        squares = jnp.stack([_square(old, now) for old, now in parts[0]])
        too_long = jnp.sqrt(jnp.sum(squares)) > self.guarding.max_norm
        at = sum(map(len, parts)) + 1 + jnp.argmax(squares)
        fine = (metric == 0) & (leaf == 0)
        return metric, jnp.where(fine & too_long, at.astype(leaf.dtype), leaf)

    def accumulate(
        self, running: Any, metrics: Mapping[str, Any], metric: Any, leaf: Any
    ) -> tuple[Any, Any, Any, Any]:
        """Folds a batch's metrics in, if it counts.

        Returns:
            The running values, the vector, whether the update counts, and whether nothing does.
        """
        base, counts = running
        counted, in_a_row, halted = counts
        good = (metric == 0) & (leaf == 0)
        in_a_row = jnp.where(good, 0, in_a_row + 1)
        goes_on = halted == 0
        counts_now = good & goes_on
        base, vector = self._layout.accumulate(base, metrics, counts_now)
        limit = self.guarding.halts_after
        halts = jnp.zeros((), bool) if limit is None else in_a_row >= limit
        found = jnp.stack([counted + counts_now, in_a_row, halts.astype(jnp.int32)])
        counts = jnp.where(goes_on, found, counts)
        said = jnp.stack([counts[0], metric, leaf, counts[2]]).astype(self.dtype)
        return (base, counts), jnp.concatenate([vector, said]), counts_now, ~goes_on


Layout: TypeAlias = MetricsLayout | GuardedLayout


def guarded(
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Any]],
    layout: GuardedLayout,
    form: Form,
) -> Callable[[list[Any], Any, Batch], Any]:
    """A step `(leaves, running, batch) -> (leaves, running, vector)` that leaves itself out.

    The state's `step` counts it all the same: it says where in the training the next one is. After
    it has halted, nothing counts.

    Args:
        train_step: The step, and checks of what it returns; strong types.
        layout: What to look at.
        form: That of the state.
    """

    def step(leaves: list[Any], running: Any, batch: Batch) -> Any:
        state = form.state(leaves)
        new, metrics = train_step(state, batch)
        metric, leaf = layout.judge(state, new, metrics)
        running, vector, counts, halted = layout.accumulate(running, metrics, metric, leaf)
        kept = jax.tree.map(
            lambda old, now: now if now is old else jnp.where(counts, now, old), state, new
        )
        kept = dataclasses.replace(kept, step=jnp.where(halted, state.step, state.step + 1))
        return form.leaves(kept), running, vector

    return step


def _paths(name: str, tree: Any) -> list[str]:
    leaves = jax.tree_util.tree_leaves_with_path({name: tree})
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]


def _first(wrong: Sequence[Any]) -> Any:
    """The number, from 1, of the first that is true; int32, and 0 if none is."""
    if not wrong:
        return jnp.zeros((), jnp.int32)
    flags = jnp.stack(wrong)
    return jnp.where(jnp.any(flags), jnp.argmax(flags).astype(jnp.int32) + 1, 0)


def _wrong(value: Any, weight: Any) -> Any:
    """Whether a value counts, and isn't finite."""
    return ~jnp.isfinite(weight) | ((weight != 0) & ~jnp.isfinite(value))


def _is_inexact(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jnp.inexact))


def _broken(old: Any, new: Any) -> Any:
    """Whether anything in a leaf was finite, and isn't any more."""
    if new is old or not _is_inexact(old):
        return jnp.zeros((), bool)
    return jnp.any(jnp.isfinite(old) & ~jnp.isfinite(new))


def _square(old: Any, new: Any) -> Any:
    """The squared norm of an update; of what isn't finite anyway, none."""
    if new is old or not _is_inexact(old):
        return jnp.zeros((), jnp.float32)
    wide = jnp.result_type(old.dtype, jnp.float32)
    update = jnp.where(jnp.isfinite(old), new.astype(wide) - old.astype(wide), 0)
    return jnp.sum(jnp.square(jnp.abs(update))).astype(jnp.float32)
