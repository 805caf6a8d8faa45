"""Objects of `keras.callbacks` in a run."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Generator, Mapping
from importlib.util import find_spec
from typing import Any, final

import keras

from fitbus.bus import is_coroutine_function
from fitbus.callbacks import Callback
from fitbus.errors import FitbusError, InvalidArgumentError
from fitbus.keras._link import ModelLink
from fitbus.keras._remembered import Remembered
from fitbus.keras._task import KerasTask
from fitbus.keras._variables import learning_rates
from fitbus.train import Run

__all__ = ["KerasCallback"]

_HOOKS = sorted(name for name in vars(Callback) if name.startswith("on_") and name != "on_error")
_ADD_LEARNING_RATE = ("LearningRateScheduler", "ReduceLROnPlateau")
_NEED_A_MODEL = (
    *("BackupAndRestore", "ModelCheckpoint", "OrbaxCheckpoint", "SwapEMAWeights", "TensorBoard"),
)


@final
class KerasCallback(Callback):
    """An object with Keras' hooks, unmodified, as a callback of a run; `callbacks=[...]` makes it.

    It gets what Keras would give it: the same hooks in the same order, `params`, logs that it may
    add to, and `self.model`. For a `KerasTask` that is the model itself, in step with the run: what
    a hook writes to its weights, its optimizer or its `stop_training` acts at once. For any other
    task it is a `ModelView`, which has what most callbacks need.

    Differs from Keras in four things: hooks of batches are called in order in the training thread,
    never in a pool; `on_train_end` is called on every way out, once `on_train_begin` was (but not
    `BackupAndRestore`'s after a failure or a cancellation: it would delete the backup); a
    `stop_training` that somebody asked for isn't taken back; and one that is set in
    `on_train_begin` or `on_epoch_begin` ends training there, where Keras still does one batch and
    validates: of such an epoch `on_epoch_end` gets no logs, and after `on_train_begin` there is
    none. In a hook, `model.metrics` have no results; `logs` do.

    An object that isn't of Keras' class, or has a `model` of its own, costs a copy of the state at
    each of its hooks; one of Keras' class pays only where it asks for `self.model`.
    What closes over the model, rather than ask for `self.model`, sees the state of that moment in
    all hooks but those of batches; of what it writes in these, only a learning rate counts.

    Args:
        callback: The object. Hooks that it doesn't override cost nothing.

    Raises:
        InvalidArgumentError: It has no `set_model`, or a hook of it isn't callable.
    """

    def __init__(self, callback: Any) -> None:
        if not callable(getattr(callback, "set_model", None)):
            raise InvalidArgumentError("callback", callback, "give a keras.callbacks.Callback")
        self._callback = callback
        self._remembered = Remembered(callback)
        self._begun = False
        self._asks = getattr(type(callback), "model", None) is keras.callbacks.Callback.model
        self._lent: Callable[[str], contextlib.AbstractContextManager[None]] = _as_it_is
        for name in _HOOKS:
            hook = getattr(callback, name, None)
            if hook is None or getattr(hook, "_is_default", False):
                continue
            if not callable(hook):
                raise InvalidArgumentError(f"{type(callback).__name__}.{name}", hook, "a method")
            if is_coroutine_function(hook):
                raise InvalidArgumentError(
                    f"{type(callback).__name__}.{name}",
                    hook,
                    "nobody awaits a hook of Keras; make it `def`, or the class a fitbus.Callback",
                )
            setattr(self, name, self._called(name, hook))

    @property
    def _label(self) -> str:
        """The name of the object's class."""
        return type(self._callback).__qualname__

    @property
    def _kind(self) -> str:
        """The object's class: what one object remembers is never another's."""
        return f"{type(self._callback).__module__}.{type(self._callback).__qualname__}"

    def attach(self, run: Run[Any]) -> None:
        """Subscribes its hooks to a run; `callbacks=[...]` calls it.

        Raises:
            FitbusError: It needs something that isn't installed.
            InvalidArgumentError: It needs a Keras model, or another callback sets the learning rate
                already. Before the first step: a schedule in the optimizer does.
        """
        task = run.trainer.steps.task
        own = type(self._callback).__module__.startswith("keras.")
        if own and self._label in _NEED_A_MODEL and not isinstance(task, KerasTask):
            raise InvalidArgumentError(
                "callbacks",
                self._callback,
                f"keras.callbacks.{self._label} works on a Keras model; train one, with"
                f" fitbus.keras.KerasTask(model), or use fitbus.callbacks.{self._label}",
            )
        if own and self._label == "RemoteMonitor" and find_spec("requests") is None:
            raise self._lacks("requests")  # or it would fail at the end of the first epoch
        super().attach(run)
        self._lent = (
            ModelLink(task, run, self._label, asks=self._asks).lent
            if isinstance(task, KerasTask)
            else _as_it_is
        )
        self._begun = False
        if own and self._label in _ADD_LEARNING_RATE:
            optimizer = task.model.optimizer if isinstance(task, KerasTask) else None
            for rate in ["learning_rate"] if optimizer is None else learning_rates(optimizer):
                run.preparation.added_logs |= {rate}
                if not run.preparation.owner(rate).startswith("keras.callbacks."):
                    run.preparation.claim(rate, f"keras.callbacks.{self._label}")
        elif "on_epoch_end" in vars(self) and (not own or self._label == "LambdaCallback"):
            run.open_logs = True

    def set_model(self, model: Any) -> None:
        """Passes on the model itself, or the view of the run where there is none; then `params`."""
        super().set_model(model)
        task = None if self.run is None else self.run.trainer.steps.task
        shown = model
        if isinstance(task, KerasTask):
            shown = task.model
            shown.history = model.history  # as in Keras, it is there in the hooks
        try:
            self._callback.set_model(shown)
        except ImportError as error:
            raise self._lacks(str(error.name or error)) from error
        if callable(set_params := getattr(self._callback, "set_params", None)):
            set_params(dict(self.params))

    def state_dict(self) -> dict[str, Any]:
        """What the object remembers: the plain attributes that have changed, up to 256 MiB."""
        return self._remembered.changed()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Sets them again."""
        for name, value in state.items():
            with contextlib.suppress(AttributeError):  # of another version of its class, perhaps
                setattr(self._callback, name, value)

    def _called(self, name: str, hook: Callable[..., Any]) -> Callable[..., Any]:
        by_keyword = "batch" in name and not _takes(hook, 2)  # as Keras calls those

        # In an epoch that is gone on with, the backup has the rate that this one set.
        once = name == "on_epoch_begin" and _is_rate_scheduler(self._callback)

        def with_index(index: int, logs: dict[str, Any] | None = None) -> Any:
            if once and self.run is not None and self.run.preparation.began_before(index):
                return None
            with self._lent(name):
                return hook(index, logs=logs) if by_keyword else hook(index, logs)

        def without(logs: dict[str, Any] | None = None) -> Any:
            if name == "on_train_begin":
                self._begun = True
            if name == "on_train_end" and not self._may_end():
                return None
            with self._lent(name):
                return hook(logs)

        return with_index if "batch" in name or "epoch" in name else without

    def _may_end(self) -> bool:
        """Whether the end makes sense to an object for which Keras would call it less often."""
        assert self.run is not None
        failed = self.run.end_reason in ("failed", "cancelled")
        if failed and isinstance(self._callback, keras.callbacks.BackupAndRestore):
            return False
        return self._begun or "on_train_begin" not in vars(self)

    def _lacks(self, module: str) -> FitbusError:
        missing = {"tensorflow": "TensorFlow"}.get(module.partition(".")[0], module)
        return FitbusError(
            f"keras.callbacks.{self._label} needs {missing}, which isn't installed; use"
            f" fitbus.callbacks.{self._label}, which does without"
        )


def _is_rate_scheduler(callback: Any) -> bool:
    """Whether it begins epochs as Keras' own `LearningRateScheduler` does."""
    own = keras.callbacks.LearningRateScheduler
    return getattr(type(callback), "on_epoch_begin", None) is own.on_epoch_begin


def _takes(hook: Callable[..., Any], count: int) -> bool:
    """Whether it can be called with so many arguments by position, as far as can be told."""
    try:
        inspect.signature(hook).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # written in C
        return True
    return True


@contextlib.contextmanager
def _as_it_is(hook: str) -> Generator[None]:
    del hook
    yield
