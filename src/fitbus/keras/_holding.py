"""Who may use a Keras model while a run has it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator
from typing import Any, final

import keras

from fitbus.errors import FitbusError, TrainerBusyError, WrongThreadError

__all__ = ["Holding", "is_empty"]

_CALLS = {
    "make_train_function": "fit",
    "make_test_function": "evaluate",
    "make_predict_function": "predict",
    "_get_jax_state": "fit, evaluate or predict",
    "jax_state_sync": "fit, evaluate or predict",
}  # what Keras' own calls go through before they take arrays, and before they write some back

_lock = threading.Lock()
_live: list[Holding] = []


@final
class Holding:
    """Keeps a model, and the models in it, for the thread of one run.

    Keras' own `fit`, `evaluate` and `predict` take the arrays out of a model's variables, and write
    arrays back when they end. Beside a run those would be old ones: so they are refused in other
    threads, before they have taken anything. In the run's own thread, in a hook, they work.

    Args:
        model: The model.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._lending = threading.RLock()
        self._threads: set[int] = set()  # that may use the model
        self._owner: int | None = None
        self.learns: set[int] = set()  # ids: of the model, and of what a run trains
        self.has: set[int] = set()  # and with the rest of its variables
        self._put: list[tuple[dict[str, Any], str, Any, Any]] = []

    @property
    def mine(self) -> bool:
        """Whether the run of the current thread has the model."""
        return self._owner == threading.get_ident()

    def begin(self) -> None:
        """Takes the model for the current thread.

        Raises:
            TrainerBusyError: Another run has it, or one that trains variables of it.
            FitbusError: A call of Keras' own has its arrays.
        """
        with self._lending:  # nor a hook of a run beside it
            self._begin()

    def end(self) -> None:
        """Gives the model back, if the current thread's run has it."""
        if not self.mine:
            return
        for attributes, name, guard, before in reversed(self._put):
            if attributes.get(name) is guard:
                del attributes[name]
                if before is not None:
                    attributes[name] = before
        self._put = []
        self._threads.discard(threading.get_ident())
        with _lock:
            self._owner = None
            _live.remove(self)

    @contextlib.contextmanager
    def here(self) -> Generator[None]:
        """Lets the current thread use the model; others wait until it has done so."""
        thread = threading.get_ident()
        with self._lending:
            new = thread not in self._threads
            self._threads.add(thread)
            try:
                yield
            finally:
                if new:
                    self._threads.discard(thread)

    def _begin(self) -> None:
        model = self.model
        learns = {id(model), *map(id, model.trainable_variables)}
        has = learns | {*map(id, model.non_trainable_variables)}
        with _lock:
            for other in _live:
                if learns & other.has or has & other.learns:
                    raise TrainerBusyError(
                        f"another run has the Keras model {other.model.name!r}, and trains"
                        " variables of this one; wait for that run, train one after the other, or"
                        " give each a model of its own: keras.models.clone_model(model)"
                    )
            self.learns, self.has = learns, has
            self._owner = threading.get_ident()
            _live.append(self)
        self._threads.add(threading.get_ident())
        parts = [p for p in model._flatten_layers() if isinstance(p, keras.Model)]  # noqa: SLF001  # has all of them
        for part in {id(part): part for part in (model, *parts)}.values():
            for name in _CALLS:
                self._guard(part, name)
        if is_empty(model):
            self.end()
            raise FitbusError(
                "the model's variables are empty: model.fit, evaluate or predict is under way in"
                " another thread and has their arrays; wait for it. If it has failed there,"
                " model.jax_state_sync() brings them back, or else load the weights anew"
            )

    def _guard(self, model: Any, name: str) -> None:
        found: Callable[..., Any] | None = getattr(model, name, None)
        if found is None:
            return
        attributes, call = vars(model), _CALLS[name]

        def guarded(*args: Any, **options: Any) -> Any:
            if threading.get_ident() not in self._threads:
                if name == "jax_state_sync" and (
                    not getattr(model, "_jax_state", None) or model._jax_state_synced  # noqa: SLF001  # as Keras asks
                ):
                    return None
                raise WrongThreadError(
                    f"a run has this model, and model.{call} in another thread would bring back"
                    " old weights; use `await run.predict(x)`, `await run.evaluate(x, y)` or"
                    " `await run.snapshot()`, or wait for the run"
                )
            return found(*args, **options)

        self._put.append((attributes, name, guarded, attributes.get(name)))
        attributes[name] = guarded  # past Keras, which would look at what is set


def is_empty(model: Any) -> bool:
    """Whether a call of Keras' own has taken the arrays out of variables."""
    optimizer = [] if model.optimizer is None else model.optimizer.variables
    variables = (*model.trainable_variables, *model.non_trainable_variables, *optimizer)
    return any(getattr(variable, "_value", variable) is None for variable in variables)
