"""The variables of a compiled Keras model, and the state of a training that they correspond to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp
import keras

from fitbus.train import TrainState

__all__ = [
    "OptimizerState",
    "Variables",
    "copied",
    "count_of",
    "keeps_averages",
    "learning_rates",
]


class OptimizerState(NamedTuple):
    """A Keras optimizer's variables, in the shape in which controls find hyperparameters.

    Attributes:
        hyperparams: The learning rate: `learning_rate`, or `learning_rate_<name>` for each inner
            optimizer of several.
        hyperparams_states: The names that a schedule drives.
        inner_state: All other variables, in their order.
    """

    hyperparams: dict[str, Any]
    hyperparams_states: dict[str, Any]
    inner_state: list[Any]

    @property
    def remedy(self) -> str:
        """What to do where a callback is to set what isn't among the hyperparameters."""
        return (
            "of a Keras optimizer's, callbacks and controls set these; where it has several"
            " learning rates, keras.callbacks.ReduceLROnPlateau and"
            " keras.callbacks.LearningRateScheduler set all of them"
        )


@final
class Variables:
    """Reads a model's variables into a state, and writes a state into them.

    Args:
        model: The model, built, with an optimizer that is built.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.trainable: list[Any] = list(model.trainable_variables)
        self.others: list[Any] = list(model.non_trainable_variables)
        self.optimizer: list[Any] = list(model.optimizer.variables)
        self.rates: dict[str, Any] = learning_rates(model.optimizer)
        places = {id(variable): place for place, variable in enumerate(self.optimizer)}
        self._rate_places = {
            name: places[id(rate)]
            for name, rate in self.rates.items()
            if isinstance(rate, keras.Variable)
        }

    @property
    def assignable_rates(self) -> list[Any]:
        """The learning rates that no schedule drives."""
        return [rate for rate in self.rates.values() if isinstance(rate, keras.Variable)]

    @property
    def all(self) -> list[Any]:
        """All of them, in the order of `values`."""
        return [*self.trainable, *self.others, *self.optimizer]

    def same_as(self, other: Variables) -> bool:
        """Whether the model still has the variables that it had."""
        return [*map(id, self.all)] == [*map(id, other.all)]

    def read(self, key: Any, step: Any) -> TrainState:
        """The state that the variables hold; the very arrays."""
        values = [variable.value for variable in self.optimizer]
        return TrainState(
            step=jnp.asarray(step, jnp.int32),
            params=[variable.value for variable in self.trainable],
            opt_state=self.packed(values),
            key=key,
            extra=[variable.value for variable in self.others],
        )

    def values(self, state: TrainState) -> list[Any]:
        """The state's arrays, in the order of `all`."""
        return [*state.params, *state.extra, *self.unpacked(state.opt_state)]

    def averages(self, state: TrainState) -> list[Any] | None:
        """The averages of the trainable variables that the optimizer keeps; None without any."""
        optimizer = _innermost(self.model.optimizer)
        if not getattr(optimizer, "use_ema", False) or hasattr(optimizer, "_inner_optimizers"):
            return None
        kept = dict(zip(map(id, self.optimizer), self.unpacked(state.opt_state), strict=True))
        return [kept[id(v)] for v in optimizer._model_variables_moving_average]  # noqa: SLF001  # there is no public one

    def values_now(self) -> list[Any]:
        """The arrays that the variables hold, in the order of `all`."""
        return [variable.value for variable in self.all]

    def write(self, values: list[Any]) -> None:
        """Puts arrays into the variables."""
        for variable, value in zip(self.all, values, strict=True):
            variable.assign(value)

    def driven(self) -> dict[str, Any]:
        """What schedules give as the learning rates, by name."""
        parts = _with_rates(self.model.optimizer)
        return {
            name: jnp.asarray(parts[name].learning_rate, jnp.float32)
            for name in self.rates
            if name not in self._rate_places
        }

    def packed(self, values: list[Any], driven: Mapping[str, Any] | None = None) -> OptimizerState:
        """The optimizer's state of its variables' values.

        Args:
            values: In the order of its variables.
            driven: The learning rates that schedules give; what they say now unless given.
        """
        places = set(self._rate_places.values())
        driven = self.driven() if driven is None else driven
        rates = {name: values[place] for name, place in self._rate_places.items()}
        return OptimizerState(
            {**rates, **driven},
            dict.fromkeys(driven, ()),
            [value for place, value in enumerate(values) if place not in places],
        )

    def unpacked(self, state: OptimizerState) -> list[Any]:
        """The values of the optimizer's variables, in their order."""
        rest = iter(state.inner_state)
        by_place = {place: state.hyperparams[name] for name, place in self._rate_places.items()}
        return [
            by_place[place] if place in by_place else next(rest)
            for place in range(len(self.optimizer))
        ]


def count_of(optimizer: Any) -> int:
    """How many times an optimizer was applied, accumulations of gradients included."""
    return int(_innermost(optimizer)._iterations.value)  # noqa: SLF001  # the public one counts updates


def learning_rates(optimizer: Any) -> dict[str, Any]:
    """The learning rate of an optimizer, by name: a variable, or what drives it."""
    return {
        name: part._learning_rate  # noqa: SLF001  # the public one is its value
        for name, part in _with_rates(optimizer).items()
    }


def _with_rates(optimizer: Any) -> dict[str, Any]:
    """The optimizer that has a learning rate, by the name of that."""
    optimizer = _innermost(optimizer)
    inner = getattr(optimizer, "_inner_optimizers", None)
    if inner:
        found: dict[str, Any] = {}
        for part in inner:
            for one in _with_rates(part).values():
                name = f"learning_rate_{part.name}"
                found[f"{name}_{len(found)}" if name in found else name] = one
        return found
    return {"learning_rate": optimizer}


def _innermost(optimizer: Any) -> Any:
    """The optimizer itself, within one that scales the loss."""
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return optimizer


def keeps_averages(optimizer: Any) -> bool:
    """Whether it, or one that is in it, keeps averages of the weights."""
    optimizer = _innermost(optimizer)
    parts = getattr(optimizer, "_inner_optimizers", None) or [optimizer]
    return any(part.use_ema for part in parts)


def copied(state: TrainState) -> TrainState:
    """A copy of each array: what is donated to a step must be nobody else's."""
    return jax.tree.map(jnp.copy, state)  # type: ignore[no-any-return]  # jax returns Any
