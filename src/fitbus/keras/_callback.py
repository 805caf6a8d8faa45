"""Objects of `keras.callbacks` in a run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any, final

from fitbus.callbacks import Callback
from fitbus.errors import FitbusError, InvalidArgumentError
from fitbus.keras._link import ModelLink
from fitbus.keras._task import KerasTask
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

    Differs from Keras in three things: hooks of batches are called in order in the training thread,
    never in a pool; `on_train_end` is called on every way out; a `stop_training` that somebody
    asked for isn't taken back. In a hook, `model.metrics` have no results; `logs` do.

    Args:
        callback: The object. Hooks that it doesn't override cost nothing.

    Raises:
        InvalidArgumentError: It has no `set_model`, or a hook of it isn't callable.
    """

    def __init__(self, callback: Any) -> None:
        if not callable(getattr(callback, "set_model", None)):
            raise InvalidArgumentError("callback", callback, "give a keras.callbacks.Callback")
        self._callback = callback
        self._lent: Callable[[str], contextlib.AbstractContextManager[None]] = _as_it_is
        for name in _HOOKS:
            hook = getattr(callback, name, None)
            if hook is None or getattr(hook, "_is_default", False):
                continue
            if not callable(hook):
                raise InvalidArgumentError(f"{type(callback).__name__}.{name}", hook, "a method")
            setattr(self, name, self._called(name, hook))

    @property
    def name(self) -> str:
        """The name of the object's class."""
        return type(self._callback).__qualname__

    def attach(self, run: Run[Any]) -> None:
        """Subscribes its hooks to a run; `callbacks=[...]` calls it.

        Raises:
            FitbusError: It needs something that isn't installed.
        """
        task = run.trainer.steps.task
        own = type(self._callback).__module__.startswith("keras.")
        if own and self.name in _NEED_A_MODEL and not isinstance(task, KerasTask):
            raise InvalidArgumentError(
                "callbacks",
                self._callback,
                f"keras.callbacks.{self.name} works on a Keras model; train one, with"
                f" fitbus.keras.KerasTask(model), or use fitbus.callbacks.{self.name}",
            )
        super().attach(run)
        self._lent = (
            ModelLink(task, run, self.name).lent if isinstance(task, KerasTask) else _as_it_is
        )
        if own and self.name in _ADD_LEARNING_RATE:
            run.preparation.added_logs |= {"learning_rate"}
        elif not own and "on_epoch_end" in vars(self):
            run.open_logs = True

    def set_params(self, params: Any) -> None:
        """Passes them on."""
        super().set_params(params)
        self._callback.set_params(dict(params))

    def set_model(self, model: Any) -> None:
        """Passes on the model itself, or the view of the run where there is none."""
        super().set_model(model)
        task = None if self.run is None else self.run.trainer.steps.task
        shown = task.model if isinstance(task, KerasTask) else model
        try:
            self._callback.set_model(shown)
        except ImportError as error:
            missing = {"tensorflow": "TensorFlow"}.get(str(error.name), str(error.name or error))
            raise FitbusError(
                f"keras.callbacks.{self.name} needs {missing}, which isn't installed; use"
                f" fitbus.callbacks.{self.name}, which does without"
            ) from error

    def _called(self, name: str, hook: Callable[..., Any]) -> Callable[..., Any]:
        def with_index(index: int, logs: dict[str, Any] | None = None) -> Any:
            with self._lent(name):
                return hook(index, logs)

        def without(logs: dict[str, Any] | None = None) -> Any:
            with self._lent(name):
                return hook(logs)

        return with_index if "batch" in name or "epoch" in name else without


@contextlib.contextmanager
def _as_it_is(hook: str) -> Generator[None]:
    del hook
    yield
