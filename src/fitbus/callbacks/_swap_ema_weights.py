"""Evaluates and predicts with averaged weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, final

import jax
import numpy as np
import optax

from fitbus.callbacks._arguments import check_flag, is_number
from fitbus.callbacks._callback import Callback, Logs
from fitbus.control import UpdateState
from fitbus.errors import InvalidArgumentError
from fitbus.train import TrainState

if TYPE_CHECKING:
    from fitbus.train import Engine, Run

__all__ = ["SwapEMAWeights"]

_KEEP_THEM = (
    "let the task keep averages of the parameters in `state.extra['ema']` (the docstring of"
    " SwapEMAWeights shows one), or say where they are: `ema=lambda state: ...`"
)


@final
class SwapEMAWeights(Callback):
    """Evaluates and predicts with a moving average of the parameters; training goes on without.

    The averages are put in place of `state.params` when a test or a prediction begins, and the
    parameters back when it ends, also if it fails or is cancelled. The task keeps the averages.
    With Optax, `optax.ema` does it outside of the chain, over the parameters themselves; inside a
    chain it averages updates, which is another thing, and isn't looked at:

    >>> import dataclasses, fitbus, optax
    >>> from fitbus.testing import toy_problem
    >>> average = optax.ema(0.9)
    >>> class Averaged:
    ...     def __init__(self, task):
    ...         self.task, self.eval_step = task, task.eval_step
    ...         self.predict_step = task.predict_step
    ...     def init(self, params, key):
    ...         opt_state = self.task.optimizer.init(params)
    ...         return fitbus.TrainState(0, params, opt_state, key, {"ema": average.init(params)})
    ...     def train_step(self, state, batch):
    ...         new, metrics = self.task.train_step(state, batch)
    ...         _, ema = average.update(new.params, state.extra["ema"])
    ...         return dataclasses.replace(new, extra={"ema": ema}), metrics
    >>> problem = toy_problem()
    >>> trainer = fitbus.Trainer(Averaged(problem.task), problem.params)
    >>> swap = fitbus.callbacks.SwapEMAWeights(decay=0.9)
    >>> history = trainer.fit_sync(
    ...     problem.x, problem.y, validation_data=(problem.x, problem.y), callbacks=[swap]
    ... )

    Differs from Keras in three things: the parameters are back after a prediction too, and after a
    test that failed; the averages themselves are never written to; and a backup that is taken while
    averages are in place (`swap_on_epoch`) has the parameters as well.

    Args:
        swap_on_epoch: Whether the averages are in place from the end of each epoch to the beginning
            of the next one, so that a callback after this one saves them. After the last epoch they
            stay, unless training failed or was cancelled.
        ema: `(state) ->` the averages, a pytree as `state.params`, or an `optax.EmaState` of one.
            Otherwise the task's `averages(state)` gives them, where it has that method, as a
            `KerasTask` does; or else `state.extra["ema"]`, or `state.extra` itself, is such.
        decay: That of an `optax.EmaState`, which begins at zero: it is divided by
            1 - decay ** count, as `optax.ema(decay, debias=True)` does.

    Raises:
        InvalidArgumentError: An argument is of the wrong kind; when a run begins: there are no
            averages, or of other shapes than the parameters.

    Source: Keras' `SwapEMAWeights`; B. Polyak and A. Juditsky, "Acceleration of stochastic
    approximation by averaging", 1992; Optax' `ema`.
    """

    adds_logs: ClassVar[bool | frozenset[str]] = False

    def __init__(
        self,
        swap_on_epoch: bool = False,
        *,
        ema: Callable[[TrainState], Any] | None = None,
        decay: float | None = None,
    ) -> None:
        check_flag("SwapEMAWeights", "swap_on_epoch", swap_on_epoch)
        if ema is not None and not callable(ema):
            raise InvalidArgumentError("SwapEMAWeights.ema", ema, "give a function of the state")
        if decay is not None and not (is_number(decay) and 0 <= decay < 1):
            raise InvalidArgumentError(
                "SwapEMAWeights.decay", decay, "give a number of at least 0 and below 1"
            )
        self.swap_on_epoch = swap_on_epoch
        self._ema = ema
        self._decay = decay
        self._own: list[Any] | None = None  # the parameters, while the averages are in place
        self._until_epoch = False  # whether they are until the next epoch begins

    def attach(self, run: Run[Any]) -> None:
        """Subscribes to a run, and sees to it that the parameters are back whatever ends it."""
        super().attach(run)
        self._own, self._until_epoch = None, False
        run.preparation.unwinding.append(self._unwind)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Refuses a training without averages."""
        self._averages(self.model.state)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Puts the parameters back."""
        self._swap_back()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Puts the averages in place, if asked to."""
        if self.swap_on_epoch:
            self._swap_in()
            self._until_epoch = True

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Puts the averages in place."""
        self._swap_in()

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Puts the parameters back."""
        self._swap_back()

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Puts the averages in place."""
        self._swap_in()

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """Puts the parameters back."""
        self._swap_back()

    def state_dict(self) -> dict[str, Any]:
        """The parameters, if the averages are in their place."""
        own = None if self._own is None else [np.array(leaf, copy=True) for leaf in self._own]
        return {"own": own, "until_epoch": self._until_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes them back."""
        self._own, self._until_epoch = state["own"], state["until_epoch"]

    def _swap_in(self) -> None:
        if self._own is None:
            state = self.model.state
            averages = self._averages(state)
            self._replace(averages)
            self._own = jax.tree.leaves(state.params)  # nobody donates what is in no state

    def _swap_back(self) -> None:
        if self._own is not None:
            tree = jax.tree.structure(self.model.state.params)
            self._replace(jax.tree.unflatten(tree, self._own))
        self._own, self._until_epoch = None, False

    def _unwind(self, engine: Engine, error: BaseException | None) -> None:
        """The same on any way out, where no hook is called any more."""
        if self._own is None or (self._until_epoch and error is None):
            return
        tree = jax.tree.structure(engine.state.params)
        params = jax.tree.unflatten(tree, self._own)
        engine.restore(dataclasses.replace(engine.state, params=params))
        self._own, self._until_epoch = None, False

    def _replace(self, params: Any) -> None:
        assert self.run is not None
        update = UpdateState(lambda state: dataclasses.replace(state, params=params))
        self.run.post(update, self._label).result()

    def _averages(self, state: TrainState) -> Any:
        assert self.run is not None
        task_s: Callable[[TrainState], Any] | None = getattr(
            self.run.trainer.steps.task, "averages", None
        )
        if self._ema is not None:
            found = self._ema(state)
        else:
            found = _kept(state.extra) if task_s is None else task_s(state)
        if found is None:
            raise InvalidArgumentError(
                "SwapEMAWeights",
                "a task that keeps no averages" if self._ema is None else None,
                _KEEP_THEM,
            )
        if isinstance(found, optax.EmaState):
            found = self._corrected(found, state)
        wanted: Any
        leaves, wanted = jax.tree.flatten(state.params)
        given, structure = jax.tree.flatten(found)
        shapes = [np.shape(leaf) for leaf in leaves]
        if structure != wanted or [np.shape(leaf) for leaf in given] != shapes:
            raise InvalidArgumentError(
                "SwapEMAWeights",
                f"averages of the structure {structure}",
                f"they must be those of the parameters, {wanted}, of the same shapes; {_KEEP_THEM}",
            )
        return jax.tree.map(lambda new, old: new.astype(old.dtype), found, state.params)

    def _corrected(self, kept: optax.EmaState, state: TrainState) -> Any:
        if self._decay is None:
            raise InvalidArgumentError(
                "SwapEMAWeights.decay",
                None,
                "an optax.EmaState begins at zero; give its decay, so that it can be corrected, or"
                " `ema=lambda state: state.extra['ema'].ema` to take it as it is",
            )
        count: Any = kept.count
        missing = self._decay ** int(count)
        if missing == 1:
            return state.params  # there is nothing to average yet
        return jax.tree.map(lambda leaf: leaf / (1 - missing), kept.ema)


def _kept(extra: Any) -> Any:
    if isinstance(extra, optax.EmaState):
        return extra
    return extra.get("ema") if isinstance(extra, Mapping) else None
