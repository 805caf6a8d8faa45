"""The compiled steps of a trainer: traced once, donating, with one vector of values a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from fitbus.errors import InvalidArgumentError
from fitbus.train._form import Form
from fitbus.train._guarding import GuardedLayout, Guarding, Layout, guarded
from fitbus.train._metrics import MetricsLayout, check_metrics
from fitbus.train._state import TrainState, check_same, home_of, is_key, mesh_of
from fitbus.train._task import Batch, Task

__all__ = ["Steps", "zeros"]


@final
class Steps:
    """Compiles a task's functions, each when it is first needed.

    Each is traced once: to learn the names of the metrics, a step is traced as a function of its
    own, whose trace the compiled step then reuses.

    Args:
        task: The task.

    Attributes:
        pad: Whether a short batch is filled up.
        as_given: Whether the weights of examples are left as they are given.
    """

    def __init__(self, task: Task) -> None:
        if isinstance(task, type):
            raise InvalidArgumentError("task", task, "give an instance of it")
        for name in ("train_step", "eval_step", "predict_step"):
            if not callable(getattr(task, name, None)):
                remedy = f"give it a method {name}"
                if hasattr(task, "stateless_call"):
                    remedy = "wrap the Keras model: fitbus.keras.KerasTask(model)"
                raise InvalidArgumentError("task", task, remedy)
        pad: Any = getattr(task, "pad", True)
        if not isinstance(pad, bool):
            raise InvalidArgumentError("task.pad", pad, "allowed are True, False")
        self.task = task
        as_given: Any = getattr(task, "weights_as_given", False)
        if not isinstance(as_given, bool) or (as_given and pad):
            raise InvalidArgumentError(
                "task.weights_as_given", as_given, "allowed are False; and, with pad = False, True"
            )
        self.pad = pad
        self.as_given = as_given

        # Functions of their own: no other trainer's trace is taken.
        def train_step(state: TrainState, batch: Batch) -> Any:
            found: Any = task.train_step(state, batch)
            if isinstance(found, tuple) and len(found) == 2:
                check_metrics("train_step", found[1])
            return found

        def eval_step(state: TrainState, batch: Batch) -> Any:
            metrics = task.eval_step(state, batch)
            check_metrics("eval_step", metrics)
            return metrics

        self._train_step = jax.jit(train_step, inline=True)
        self._eval_step = jax.jit(eval_step, inline=True)
        self.predict = jax.jit(lambda state, batch: task.predict_step(state, batch))  # noqa: PLW0108  # a function of its own: no other trainer's trace is taken
        self._train: dict[Any, Any] = {}  # by how many steps are fused, and their guard
        self._eval: Any = None
        self._train_layout: MetricsLayout | None = None
        self._eval_layout: MetricsLayout | None = None
        self._made_for: Any = None
        self._batch: Batch | None = None  # shapes and dtypes of the one that was traced with

    def weights(self, state: TrainState) -> Any:
        """What the task says are its weights: `state.params` unless it has a `weights`."""
        weights = getattr(self.task, "weights", None)
        return state.params if weights is None else weights(state)

    def program(self, state: TrainState) -> tuple[Any, list[str], list[str]] | None:
        """The train step, as it was traced: a closed jaxpr, and names of what it takes and returns.

        None before it was traced. The task's function isn't called again.
        """
        if self._batch is None:
            return None
        traced = self._train_step.trace(state, self._batch)
        inputs = _paths({"state": state}) + _paths({"batch": self._batch})
        new, metrics = traced.out_info
        return traced.jaxpr, inputs, _paths({"new_state": new}) + _paths({"metrics": metrics})

    def note_on(self, error: Exception, batch: Any) -> None:
        """Says on what a step raised, if so, how its batch differs from the first one.

        Args:
            error: What was raised.
            batch: The batch; of fused steps all of them, with an axis more in front.
        """
        first = None if self._batch is None else jax.tree.leaves_with_path(self._batch)
        found = jax.tree.leaves(batch)
        if first is None or len(found) != len(first):
            return
        for (path, before), leaf in zip(first, found, strict=True):
            shape = leaf.shape[leaf.ndim - before.ndim + 1 :] if leaf.ndim >= before.ndim else ()
            if shape != before.shape[1:] or leaf.dtype != before.dtype:
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                error.add_note(
                    f"fitbus: {name} of this batch has {leaf.dtype} examples of shape {shape}; in"
                    f" the first batch they were {before.dtype} of shape {before.shape[1:]}: give"
                    " batches that are alike, or a task that takes both"
                )

    def train_layout(
        self, state: TrainState, batch: Batch, guarding: Guarding | None = None
    ) -> Layout:
        """The layout of the train step's metrics; traces the step, but doesn't compile it."""
        if self._train_layout is None:
            found: Any = jax.eval_shape(self._train_step, state, batch)
            if not (isinstance(found, tuple) and len(found) == 2):
                raise InvalidArgumentError(
                    "train_step", found, "return a pair (new state, metrics)"
                )
            if not isinstance(found[0], TrainState):
                raise InvalidArgumentError("train_step", found[0], "return a TrainState first")
            self._train_layout = MetricsLayout("train_step", found[1])
            self._batch = jax.eval_shape(lambda same: same, batch)
        if guarding is not None:
            return GuardedLayout(self._train_layout, guarding, state)
        return self._train_layout

    def eval_layout(self, state: TrainState, batch: Batch) -> MetricsLayout:
        """The layout of the eval step's metrics; traces the step, but doesn't compile it."""
        if self._eval_layout is None:
            found = jax.eval_shape(self._eval_step, state, batch)
            self._eval_layout = MetricsLayout("eval_step", found)
        return self._eval_layout

    def train(
        self,
        state: TrainState,
        batch: Batch,
        form: Form,
        steps: int = 1,
        guarding: Guarding | None = None,
    ) -> Any:
        """The compiled step `(leaves, running, batch) -> (leaves, running, vector)`.

        Of several steps: `(leaves, running, batches, count) -> (leaves, running, vectors)`, where
        batches have another axis in front, of `steps`, and only the first `count` are done: so a
        remainder needs no program of its own.

        The leaves of the state and the running values are donated, unless a debug mode of JAX may
        want to run the step again. With a guard it is another program, kept beside the one without.

        Raises:
            InvalidArgumentError: There is a guard, and a debug mode that raises at what it sees.
        """
        layout = self.train_layout(state, batch, guarding)
        donate = not (jax.config.jax_debug_nans or jax.config.jax_debug_infs)  # type: ignore[attr-defined]  # jax declares them at run time
        if guarding is not None and not donate:
            raise InvalidArgumentError(
                "callbacks",
                "Guard",
                "jax_debug_nans and jax_debug_infs raise at what it would deal with; turn them off,"
                " or leave it out",
            )
        shardings = [leaf.sharding for leaf in form.leaves(state)]
        mesh = mesh_of(state.params)
        made_for = (donate, shardings if mesh is not None else None, form)
        if self._made_for != made_for:
            self._train.clear()
            self._made_for = made_for
        if (steps, guarding) not in self._train:
            options: dict[str, Any] = {"donate_argnums": (0, 1)} if donate else {}
            if mesh is not None:
                everywhere = NamedSharding(mesh, PartitionSpec())
                options["out_shardings"] = (shardings, everywhere, everywhere)

            if isinstance(layout, GuardedLayout):
                step = guarded(self._checked, layout, form)
            else:
                step = self._plain(layout, form)
            made = step if steps == 1 else _fused(step, steps, layout)
            self._train[steps, guarding] = jax.jit(made, **options)
        return self._train[steps, guarding]

    def _plain(self, layout: MetricsLayout, form: Form) -> Callable[..., Any]:
        """A step without a guard."""

        def step(leaves: list[Any], running: Any, batch: Batch) -> Any:
            state = form.state(leaves)
            new, metrics = self._train_step(state, batch)
            check_same("train_step", state, new)
            new = dataclasses.replace(new, step=state.step + 1)
            running, vector = layout.accumulate(running, metrics)
            return form.leaves(jax.tree.map(_strong, new)), running, vector

        return step

    def _checked(self, state: TrainState, batch: Batch) -> tuple[TrainState, Any]:
        """The task's step, with all its leaves as the next one needs them; traced."""
        new, metrics = self._train_step(state, batch)
        check_same("train_step", state, new)
        return jax.tree.map(_strong, new), metrics

    def evaluate(self, state: TrainState, batch: Batch) -> Any:
        """The compiled step `(state, running, batch) -> (running, vector)`."""
        layout = self.eval_layout(state, batch)
        if self._eval is None:

            def step(state: TrainState, running: Any, batch: Batch) -> Any:
                return layout.accumulate(running, self._eval_step(state, batch))

            self._eval = jax.jit(step, donate_argnums=(1,))
        return self._eval


def zeros(layout: Layout, state: TrainState, running: Any = None) -> Any:
    """The running values of no batch, or some from a backup, on the device, where the state is.

    Raises:
        InvalidArgumentError: Those of the backup are of other metrics.
    """
    values = layout.zeros()
    if running is not None:
        leaves, tree = jax.tree.flatten(values)
        found = [np.asarray(leaf) for leaf in jax.tree.leaves(running)]
        if [(a.shape, a.dtype) for a in found] != [(a.shape, a.dtype) for a in leaves]:
            raise InvalidArgumentError(
                "the metrics of the backup",
                [a.shape for a in found],
                "they aren't the task's; go on with the metrics, and a Guard if there was one, or"
                " begin anew without the backup",
            )
        values = layout.gone_on_with(jax.tree.unflatten(tree, found))
    return jax.device_put(values, home_of(state.params))


def _fused(step: Callable[..., Any], size: int, layout: Layout) -> Callable[..., Any]:
    """Several steps in one program: `lax.fori_loop`, whose length may differ from call to call."""

    def steps(leaves: list[Any], running: Any, batches: Any, count: Any) -> Any:
        def one(place: Any, carried: Any) -> Any:
            leaves, running, vectors = carried
            batch = jax.tree.map(lambda leaf: leaf[place], batches)
            leaves, running, vector = step(leaves, running, batch)
            return leaves, running, vectors.at[place].set(vector)

        vectors = jnp.zeros((size, layout.width), layout.dtype)
        return jax.lax.fori_loop(0, count, one, (leaves, running, vectors))

    return steps


def _paths(tree: Any) -> list[str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]


def _strong(leaf: Any) -> Any:
    """Takes a weak type away, which would make the next step another one to compile."""
    return leaf if is_key(leaf) else jax.lax.convert_element_type(leaf, leaf.dtype)
