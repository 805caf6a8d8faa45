"""Keras' interface: an object with hooks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from fitbus.bus import Hook, OnError, Options, Overflow
from fitbus.callbacks._hooks import HOOKS, hook, warn_of_misspelt
from fitbus.errors import InvalidArgumentError
from fitbus.events import EpochEnd, Event

if TYPE_CHECKING:
    from fitbus.train import ModelView, Restored, Run

__all__ = ["Callback", "Logs"]

Logs = dict[str, Any]

_logger = logging.getLogger("fitbus")


class Callback:
    """Has Keras' hooks, each `def` or `async def`; those that are overridden are subscribed.

    A `def` hook runs in the training thread, at its event, and may use `self.model`. An `async def`
    hook runs on the event loop: training waits for begin and end hooks; batch hooks run
    concurrently, in order. One object's hooks never overlap. A hook may return a control, or a list
    of them; whatever else it returns is ignored, as in Keras. It belongs to one run at a time, and
    can be used again when that has ended.

    The `def` hooks of one event share one private copy of `logs`, which they may add to; `fit`'s
    history records that copy.

        class StopWhenGood(fitbus.Callback):
            def on_epoch_end(self, epoch, logs=None):
                if logs["val_loss"] < 0.1:
                    self.model.stop_training = True

    Attributes:
        run: The live run; None before.
        model: A Keras-shaped view of it, for `def` hooks; see `ModelView`.
        params: `verbose`, `epochs` and `steps`, as in Keras.
        overflow: What a full mailbox of the concurrent hooks does.
        buffer_size: What that mailbox holds.
        on_error: What an error of a hook does.
        adds_logs: Whether its `on_epoch_end` may add names to the logs, or the names that it may
            add. A monitor of a name that nobody can add is refused before the first step; if it
            can't be told what may be added, since this is True, a warning is logged instead.
    """

    overflow: ClassVar[Overflow] = "block"
    buffer_size: ClassVar[int] = 1024
    on_error: ClassVar[OnError] = "raise"
    adds_logs: ClassVar[bool | frozenset[str]] = True

    run: Run[Any] | None = None
    params: Mapping[str, Any] = {}  # replaced, never changed
    _model: ModelView | None = None

    @property
    def _label(self) -> str:
        """What it is called in reports, and as the source of its controls.

        Not `name`: that is for subclasses to use, as they can in Keras.
        """
        return type(self).__qualname__

    @property
    def _kind(self) -> str:
        """The name under which a checkpoint keeps what it remembers."""
        return type(self).__qualname__

    @property
    def model(self) -> Any:
        """The Keras-shaped view of the run; typed loosely, since Keras' own may stand here."""
        return self._model

    def set_params(self, params: Mapping[str, Any]) -> None:
        """Takes `verbose`, `epochs` and `steps`."""
        self.params = params

    def set_model(self, model: Any) -> None:
        """Takes the view of the run."""
        self._model = model

    def attach(self, run: Run[Any]) -> None:
        """Subscribes the hooks to a run; `callbacks=[...]` calls it.

        Raises:
            InvalidArgumentError: It is attached to this run already, or another one that is live
                has it: `self.run` and `self.model` are those of one run.
            InvalidHandlerError: A hook can't be called with what it gets.
        """
        name = self._label
        had = self.run
        live = ("running", "paused", "finishing")
        if had is not None and (had.status in live or (had is run and had.status == "pending")):
            raise InvalidArgumentError(
                "callbacks",
                self,
                f"run {had.id!r} has it, and hasn't ended; give each run an object of its own",
            )
        self.run = run
        self.set_params(run.params)
        self.set_model(run.model(name))
        hooks: dict[type[Event], Hook] = {}
        for kind, names in HOOKS.items():
            for name_of_hook in names:
                function = self._overridden(name_of_hook)
                if function is not None:
                    hooks[kind] = hook(kind, function, type(self).__name__, name_of_hook)
                    break
        warn_of_misspelt(self, lambda name: self._overridden(name) is None)
        run.preparation.check_logs(self._check_names)
        run.preparation.callbacks.append((self._kind, self))
        if type(self).restore is not Callback.restore:
            run.preparation.restorers.append(self.restore)
        if hooks:
            run.attach_subscription(
                tuple(hooks),
                Options(
                    overflow=self.overflow, buffer_size=self.buffer_size, on_error=self.on_error
                ),
                name=name,
                hooks=hooks,
            )
            end = hooks.get(EpochEnd)
            if end is not None and not end.is_async:
                if isinstance(self.adds_logs, frozenset):
                    run.preparation.added_logs |= self.adds_logs
                elif self.adds_logs:
                    run.open_logs = True

    def check_log_names(self, names: frozenset[str]) -> None:
        """Called before the first step with all the names that logs can have, where that is known.

        Raise `InvalidArgumentError` here if what the callback monitors isn't among them.
        """

    def restore(self) -> Restored | None:
        """Called in the training thread before the run begins: a backup to go on with, or None."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the callback: plain values and arrays."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""

    def pending_writes(self) -> Callable[[float], bool] | None:
        """What a backup waits for before it counts, so that no file lacks what came before it.

        Called in the training thread, after `state_dict`; must not wait.

        Returns:
            Called in another thread: waits so many seconds at most until all that the callback has
            been told so far is written, or never will be; tells whether it is. None: nothing to
            wait for.
        """
        return None

    def _check_names(self, names: frozenset[str]) -> None:
        if self.run is None:
            return
        try:
            self.check_log_names(names | self.run.preparation.added_logs)
        except InvalidArgumentError as error:
            if not self.run.open_logs:
                raise
            _logger.warning("unless a callback adds it (`adds_logs` says which may): %s", error)

    def _overridden(self, name: str) -> Callable[..., Any] | None:
        """A hook that isn't this class' own."""
        own = vars(self).get(name)
        if own is not None:
            return own  # type: ignore[no-any-return]  # set on the object, as in Keras
        if getattr(type(self), name) is not getattr(Callback, name):
            return getattr(self, name)  # type: ignore[no-any-return]  # a bound method
        return None

    # The hooks. `logs` is never None; it is in their signatures as in Keras'.

    def on_train_begin(self, logs: Logs | None = None) -> Any:
        """Training begins; `logs` is empty."""

    def on_train_end(self, logs: Logs | None = None) -> Any:
        """Training ended, on every way out; `logs` are the last epoch's."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> Any:
        """An epoch begins; `logs` is empty."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> Any:
        """An epoch ended; `logs` are its means, and `val_*` where it was validated."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> Any:
        """A training batch begins; `logs` is empty."""

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> Any:
        """A training batch ended; `logs` are running means since the epoch began."""

    def on_batch_begin(self, batch: int, logs: Logs | None = None) -> Any:
        """The old name of `on_train_batch_begin`."""

    def on_batch_end(self, batch: int, logs: Logs | None = None) -> Any:
        """The old name of `on_train_batch_end`."""

    def on_test_begin(self, logs: Logs | None = None) -> Any:
        """An evaluation begins; `logs` is empty."""

    def on_test_end(self, logs: Logs | None = None) -> Any:
        """An evaluation ended; `logs` are its means."""

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> Any:
        """A batch of an evaluation begins; `logs` is empty."""

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> Any:
        """A batch of an evaluation ended; `logs` are running means."""

    def on_predict_begin(self, logs: Logs | None = None) -> Any:
        """A prediction begins; `logs` is empty."""

    def on_predict_end(self, logs: Logs | None = None) -> Any:
        """A prediction ended; `logs` is empty."""

    def on_predict_batch_begin(self, batch: int, logs: Logs | None = None) -> Any:
        """A batch of a prediction begins; `logs` is empty."""

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> Any:
        """A batch of a prediction ended; `logs` has its `outputs`."""
