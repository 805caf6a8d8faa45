"""A Keras model that shows a run's state in the hooks of Keras callbacks, and is listened to."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Generator
from typing import Any, final

import jax
import jax.numpy as jnp

from fitbus.control import SetHyperparameter, SetLearningRate, StopTraining, UpdateState
from fitbus.errors import FitbusError
from fitbus.keras._task import KerasTask
from fitbus.keras._variables import Variables
from fitbus.train import Engine, Position, Run, TrainState, is_lost

__all__ = ["ModelLink"]

_PARTS = ("trainable_variables", "non_trainable_variables", "optimizer_variables")


@final
class ModelLink:
    """Lends a model to the hooks of one Keras callback.

    The state is copied to the model only if a hook asks for it, through `self.model`, or if its
    event is none of a batch: then also what closes over the model sees it. What a hook wrote to
    the model acts at once, as a control: `SetLearningRate`, or `UpdateState`. Of what closes over
    the model in a hook of a batch only a learning rate counts: in Keras, nothing does.

    Args:
        task: The task whose model it is.
        run: The live run.
        source: The callback's name.
        asks: Whether the callback's `model` is Keras' property, which asks for the state.
    """

    def __init__(self, task: KerasTask, run: Run[Any], source: str, *, asks: bool) -> None:
        self._task = task
        self._run = run
        self._source = source
        self._asks = asks

    @contextlib.contextmanager
    def lent(self, hook: str) -> Generator[None]:
        """Shows the state while a hook is called, and takes over what it wrote."""
        engine = self._run.driver.engine
        assert engine is not None
        with self._task.holding.here():
            # What a run beside a training shows must not stay: it is older.
            kept = self._task.variables.values_now() if engine.beside else None
            try:
                with self._shown(engine, hook):
                    yield
            finally:
                if kept is not None:
                    self._task.variables.write(kept)

    @contextlib.contextmanager
    def _shown(self, engine: Engine, hook: str) -> Generator[None]:
        if hook == "on_train_end" and is_lost(engine.state):  # a step that failed took it
            yield
            return
        model = self._task.model
        if hook == "on_train_begin":
            model._initial_epoch = None  # noqa: SLF001  # what an earlier fit left there, Keras' too
        _set(model, "stop_training", engine.stopping)
        _set(model, "stop_evaluating", engine.stop_evaluation)
        _set(model, "stop_predicting", engine.stop_evaluation)
        shown = _Shown(self._task.variables, engine)
        model._jax_state, model._jax_state_synced = shown, False  # noqa: SLF001  # Keras' own way to be asked
        try:
            if "batch" not in hook or not self._asks:
                model.jax_state_sync()
            with self._closures(shown):
                yield
        finally:
            model._jax_state, model._jax_state_synced = None, True  # noqa: SLF001  # likewise
        if shown.asked:
            self._take_over(engine, shown)
        self._heed(engine, hook)

    @contextlib.contextmanager
    def _closures(self, shown: _Shown) -> Generator[None]:
        """Sees to it that a learning rate counts that was set without asking for the state."""
        rates = [(rate, rate.value) for rate in shown.variables.assignable_rates]
        yield
        written = [(rate, rate.value) for rate, old in rates if rate.value is not old]
        if written and not shown.asked:
            self._task.model.jax_state_sync()
            for rate, value in written:
                rate.assign(value)

    def _heed(self, engine: Engine, hook: str) -> None:
        """Takes over what a hook asked for by the model's flags."""
        model = self._task.model
        if model.stop_training and not engine.stopping:
            self._run.post(StopTraining(f"stop_training was set by {self._source}"), self._source)
        if "_test_" in hook:
            engine.stop_evaluation = bool(model.stop_evaluating)
        if "_predict_" in hook:
            engine.stop_evaluation = bool(model.stop_predicting)
        if hook == "on_train_begin" and model._initial_epoch:  # noqa: SLF001  # BackupAndRestore's way
            self._run.start_at(Position(int(model._initial_epoch)))  # noqa: SLF001  # likewise
            model._initial_epoch = None  # noqa: SLF001  # or it would hold for a later fit too

    def _take_over(self, engine: Engine, shown: _Shown) -> None:
        """Sends what differs from the state."""
        model, variables = self._task.model, shown.variables
        if not Variables(model).same_as(variables):
            raise FitbusError(
                f"{self._source} gave the model, or its optimizer, other variables than it was"
                " compiled with (a schedule as its learning rate?); compile the model with them"
            )
        state = variables.values(engine.state)
        for variable, value in zip(variables.all, state, strict=True):
            if variable._value is None:  # noqa: SLF001  # what Keras took failed in the hook
                variable.assign(jnp.copy(value))
        found = variables.values_now()
        if engine.state is shown.state and all(map(operator.is_, found, shown.lent)):
            return  # the usual case: without it, each array is compared on the device
        changed = {
            id(variable)
            for variable, new, old in zip(variables.all, found, state, strict=True)
            if not _same(new, old)
        }
        rates = {name: rate for name, rate in variables.rates.items() if id(rate) in changed}
        if len(rates) < len(changed):
            new = variables.read(engine.state.key, engine.state.step)
            self._send(UpdateState(lambda _: new))
            return
        for name, rate in rates.items():
            value = float(rate.value)
            self._send(
                SetLearningRate(value)
                if name == "learning_rate"
                else SetHyperparameter(name, value)
            )

    def _send(self, control: Any) -> None:
        receipt = self._run.post(control, self._source)
        if receipt.outcome is not None:
            receipt.result()


@final
class _Shown:
    """Stands where Keras keeps the arrays that a model's variables are to be brought up to.

    Copies them when Keras asks: what a hook does to the model must not reach the run's own arrays.

    Attributes:
        variables: The model's.
        asked: Whether Keras asked.
        state: The state that was copied then, and
        lent: its copies, in the order of `variables.all`.
    """

    def __init__(self, variables: Variables, engine: Engine) -> None:
        self.variables = variables
        self.asked = False
        self.state: TrainState | None = None
        self.lent: list[Any] = []
        self._engine = engine
        self._parts: dict[str, list[Any]] = {}

    def get(self, name: str, default: Any = None) -> Any:
        """The arrays of one kind of variables."""
        if not self.asked:
            self.asked = True
            state = self.state = self._engine.state
            optimizer = self.variables.unpacked(state.opt_state)
            parts = _copies((state.params, state.extra, optimizer))
            self._parts = dict(zip(_PARTS, parts, strict=True))
            self.lent = [array for part in parts for array in part]
        return self._parts.get(name, default)


@jax.jit
def _copies(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


def _same(new: Any, old: Any) -> bool:
    if jnp.issubdtype(old.dtype, jnp.inexact):
        return bool(jnp.array_equal(new, old, equal_nan=True))
    return bool(jnp.array_equal(new, old))


def _set(model: Any, name: str, value: bool) -> None:  # as Keras' own flags
    if getattr(model, name, None) is not value:  # setting costs, on a Keras model
        setattr(model, name, value)
