"""Hooks given as functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from fitbus.callbacks._callback import Callback
from fitbus.errors import InvalidArgumentError, one_of

__all__ = ["LambdaCallback"]

_NAMES = sorted(name for name in vars(Callback) if name.startswith("on_") and name != "on_error")


@final
class LambdaCallback(Callback):
    """Makes a callback of functions, `def` or `async def`; Keras' semantics.

    Differs from Keras in one thing: a name that is no hook is refused, not silently kept.

    >>> callback = LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs["loss"]))

    Args:
        on_epoch_begin: `(epoch, logs)`.
        on_epoch_end: `(epoch, logs)`.
        on_train_begin: `(logs)`.
        on_train_end: `(logs)`.
        on_train_batch_begin: `(batch, logs)`.
        on_train_batch_end: `(batch, logs)`.
        hooks: Any other hook, by name.

    Raises:
        InvalidArgumentError: A name is no hook, or a hook can't be called.
    """

    def __init__(
        self,
        on_epoch_begin: Callable[..., Any] | None = None,
        on_epoch_end: Callable[..., Any] | None = None,
        on_train_begin: Callable[..., Any] | None = None,
        on_train_end: Callable[..., Any] | None = None,
        on_train_batch_begin: Callable[..., Any] | None = None,
        on_train_batch_end: Callable[..., Any] | None = None,
        **hooks: Callable[..., Any] | None,
    ) -> None:
        given = {
            "on_epoch_begin": on_epoch_begin,
            "on_epoch_end": on_epoch_end,
            "on_train_begin": on_train_begin,
            "on_train_end": on_train_end,
            "on_train_batch_begin": on_train_batch_begin,
            "on_train_batch_end": on_train_batch_end,
            **hooks,
        }
        for name, hook in given.items():
            if name not in _NAMES:
                raise InvalidArgumentError("LambdaCallback", name, one_of(_NAMES))
            if hook is None:
                continue
            if not callable(hook):
                raise InvalidArgumentError(f"LambdaCallback.{name}", hook, "give a function")
            setattr(self, name, hook)
