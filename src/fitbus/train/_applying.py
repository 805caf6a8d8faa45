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
from fitbus.train._context import fetched
from fitbus.train._state import TrainState, check_same, is_key

__all__ = ["apply_to_state", "hyperparameters", "numbers", "scheduled"]


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
                state,
                control,
                "learning_rate",
                lambda old: fetched(old).astype(np.float64) * factor,
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


def numbers(state: TrainState) -> dict[str, float]:
    """The injected hyperparameters that are single numbers, on the host."""
    found = hyperparameters(state.opt_state).items()
    return {name: float(fetched(value)) for name, value in found if np.ndim(value) == 0}


def scheduled(opt_state: Any) -> set[str]:
    """The hyperparameters that a schedule in the optimizer drives."""
    return {
        name
        for node in _injected(opt_state)
        for name in getattr(node, "hyperparams_states", None) or ()
    }


def _like(control: Control, name: str, old: Any, new: Any) -> Any:
    """A new value in the shape, the dtype and the place of an old array."""
    with np.errstate(over="ignore", invalid="ignore"):
        host = np.full(old.shape, new).astype(old.dtype)
    kept = np.asarray(host, np.float64)
    whole = not jnp.issubdtype(old.dtype, jnp.inexact)
    if not np.isfinite(kept).all() or (whole and (kept != new).any()):
        raise ControlRejectedError(
            control, f"{name!r} is kept as {old.dtype}, which can't hold {new}"
        )
    return _placed(old, jax.device_put(host))


def _placed(old: Any, new: Any) -> Any:
    """A copy of an array where another one is: for the compiled step, the same argument."""
    if old.committed:
        there = new.committed and new.sharding == old.sharding
        new = new if there else jax.device_put(new, old.sharding)
    elif new.committed:
        # Only by way of the host an array comes loose from the device that it was put on.
        if is_key(new):
            data = jax.device_put(fetched(jax.random.key_data(new)))
            return jax.random.wrap_key_data(data.copy(), impl=jax.random.key_impl(new))
        new = jax.device_put(fetched(new))
    # The old arrays may be donated; whatever is new must not be somebody else's.
    return jnp.array(new, copy=True)


def _is_injected(node: Any) -> bool:
    return hasattr(node, "hyperparams") and hasattr(node, "inner_state")


def _injected(opt_state: Any) -> list[Any]:
    found: list[Any] = []
    for node in jax.tree.leaves(opt_state, is_leaf=_is_injected):
        if _is_injected(node):
            found += [node, *_injected(node.inner_state)]
    return found


def _with_hyperparameter(
    state: TrainState, control: Control, name: str, value: Callable[[Any], Any]
) -> TrainState:
    nodes = _injected(state.opt_state)
    if not nodes:
        raise ControlRejectedError(
            control,
            "the optimizer keeps no hyperparameters in its state; build it as"
            " `optax.inject_hyperparams(optax.adam)(learning_rate=1e-3)`, or give Supervised the"
            " factory, `optimizer=optax.adam, learning_rate=1e-3`",
        )
    if name in scheduled(state.opt_state):
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
        new = _like(control, name, old, value(old))
        return node._replace(hyperparams={**node.hyperparams, name: new})

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
    if new.step is not old.step and int(new.step) != int(old.step):
        raise ControlRejectedError(
            control,
            f"{who} changed `step` from {old.step} to {new.step}; the loop counts it, so keep it:"
            " `dataclasses.replace(state, params=...)`",
        )

    def place(was: Any, now: Any) -> Any:
        if now is was:
            return now
        return _placed(was, now if isinstance(now, jax.Array) else jax.device_put(now))

    return jax.tree.map(place, old, new)  # type: ignore[no-any-return]  # jax returns Any
