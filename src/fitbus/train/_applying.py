"""How controls change the state. Never recompiles: structure, shapes, dtypes and places stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fitbus.control import (
    Control,
    ScaleLearningRate,
    SetHyperparameter,
    SetLearningRate,
    UpdateState,
)
from fitbus.errors import ControlRejectedError, InvalidArgumentError
from fitbus.train._state import TrainState, check_same

__all__ = ["apply_to_state", "hyperparameters", "like"]


def apply_to_state(task: object, state: TrainState, control: Control) -> TrainState:
    """The state after a control.

    Raises:
        ControlRejectedError: It can't be applied; says why, and what to do.
    """
    match control:
        case SetLearningRate(value):
            return _with_hyperparameter(state, control, "learning_rate", lambda _: value)
        case ScaleLearningRate(factor):
            return _with_hyperparameter(
                state, control, "learning_rate", lambda old: float(old) * factor
            )
        case SetHyperparameter(name, value):
            return _with_hyperparameter(state, control, name, lambda _: value)
        case UpdateState(fn):
            return _replaced(control, "UpdateState.fn", state, fn(state))
        case _:
            appliers: Mapping[type[Control], Callable[..., Any]] = getattr(task, "controls", {})
            for kind in type(control).__mro__:
                if kind in appliers:
                    applier = appliers[kind]
                    return _replaced(
                        control, f"controls[{kind.__name__}]", state, applier(state, control)
                    )
    known = ", ".join(sorted(kind.__name__ for kind in appliers)) or "none"
    raise ControlRejectedError(
        control,
        "this task doesn't say how to apply it; give `controls={"
        f"{type(control).__name__}: function}}` (the task's own controls: {known})",
    )


def hyperparameters(opt_state: Any) -> dict[str, Any]:
    """All injected hyperparameters by name, of the first place where each is found."""
    found: dict[str, Any] = {}
    for node in _injected(opt_state):
        for name, value in node.hyperparams.items():
            found.setdefault(name, value)
    return found


def like(old: Any, new: Any) -> Any:
    """A new value in the dtype, the type and the place of an old array."""
    value = jnp.asarray(np.asarray(new, dtype=old.dtype))
    return jax.device_put(value, old.sharding) if getattr(old, "committed", False) else value


def _is_injected(node: Any) -> bool:
    return hasattr(node, "hyperparams") and hasattr(node, "inner_state")


def _injected(opt_state: Any) -> list[Any]:
    found: list[Any] = []
    for node in jax.tree.leaves(opt_state, is_leaf=_is_injected):
        if _is_injected(node):
            found += [node, *_injected(node.inner_state)]
    return found


def _with_hyperparameter(
    state: TrainState, control: Control, name: str, value: Callable[[Any], float]
) -> TrainState:
    nodes = _injected(state.opt_state)
    if not nodes:
        raise ControlRejectedError(
            control,
            "the optimizer keeps no hyperparameters in its state; build it as"
            " `optax.inject_hyperparams(optax.adam)(learning_rate=1e-3)`, or give Supervised the"
            " factory, `optimizer=optax.adam, learning_rate=1e-3`",
        )
    if any(name in getattr(node, "hyperparams_states", {}) for node in nodes):
        raise ControlRejectedError(
            control,
            f"{name!r} is driven by a schedule, which would overwrite it; build the optimizer with"
            " a number instead",
        )
    if not any(name in node.hyperparams for node in nodes):
        known = sorted({known for node in nodes for known in node.hyperparams})
        raise ControlRejectedError(control, f"there is no {name!r}; the optimizer has {known}")

    def change(node: Any) -> Any:
        if not _is_injected(node):
            return node
        node = node._replace(
            inner_state=jax.tree.map(change, node.inner_state, is_leaf=_is_injected)
        )
        if name not in node.hyperparams:
            return node
        old = node.hyperparams[name]
        return node._replace(hyperparams={**node.hyperparams, name: like(old, value(old))})

    return dataclasses.replace(
        state, opt_state=jax.tree.map(change, state.opt_state, is_leaf=_is_injected)
    )


def _replaced(control: Control, who: str, old: TrainState, new: Any) -> TrainState:
    if not isinstance(new, TrainState):
        raise ControlRejectedError(
            control, f"{who} returned {type(new).__name__}; return a TrainState"
        )
    try:
        check_same(who, old, new)
    except InvalidArgumentError as error:
        raise ControlRejectedError(control, str(error)) from error

    def place(was: Any, now: Any) -> Any:
        if now is was:
            return now
        sharding = was.sharding
        array = jnp.asarray(now)
        array = array if array.sharding == sharding else jax.device_put(array, sharding)
        # The old arrays may be donated; whatever is new must not be somebody else's.
        return jnp.array(array, copy=True)

    return jax.tree.map(place, old, new)  # type: ignore[no-any-return]  # jax returns Any
