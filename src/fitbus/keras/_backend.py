"""Whether Keras is there, and on JAX."""

from __future__ import annotations

from fitbus.errors import FitbusError

__all__ = ["check_backend"]


def check_backend() -> None:
    """Refuses to go on without Keras 3 on its JAX backend.

    Raises:
        FitbusError: Says what to install, or to set.
    """
    try:
        import keras
    except ImportError as error:
        raise FitbusError(
            f'fitbus.keras can\'t import Keras ({error}): pip install "fitbus[keras]", and set'
            " KERAS_BACKEND=jax in the environment before anything imports keras"
        ) from error
    major = int(keras.__version__.split(".")[0])
    if major < 3:
        raise FitbusError(f"fitbus.keras needs Keras 3, found {keras.__version__}")
    backend = keras.backend.backend()
    if backend != "jax":
        raise FitbusError(
            f"Keras runs on its {backend!r} backend, and fitbus trains on JAX: set"
            " KERAS_BACKEND=jax in the environment before anything imports keras"
        )
