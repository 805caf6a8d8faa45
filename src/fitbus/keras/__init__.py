"""Keras 3 beside fitbus: compiled models, unmodified callbacks, and the events of a plain `fit`.

Needs the extra `keras`, and Keras on its JAX backend: set `KERAS_BACKEND=jax` in the environment
before anything imports keras.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fitbus.keras._callback import KerasCallback
    from fitbus.keras._publishing import PublishEvents
    from fitbus.keras._task import KerasTask

__all__ = ["KerasCallback", "KerasTask", "PublishEvents"]


def __getattr__(name: str) -> Any:
    """Loads what needs Keras when it is first asked for; says what is missing."""
    if name in __all__:
        from fitbus.keras._backend import check_backend

        check_backend()
        from fitbus.keras import _callback, _publishing, _task

        for module in (_callback, _publishing, _task):
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module 'fitbus.keras' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return __all__
