"""JAX's thread-local settings, carried from the caller of `fit` to the training thread."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from typing import Any, final

import jax
import jax.experimental
import numpy as np

__all__ = ["JaxSettings", "begin_fetch", "fetched", "ones", "sent", "takes_along"]

# Each setting with the public context manager of its name.
_SETTINGS = (
    "default_device",
    "enable_x64",
    "debug_nans",
    "debug_infs",
    "default_matmul_precision",
    "transfer_guard_host_to_device",
    "transfer_guard_device_to_device",
    "transfer_guard_device_to_host",
    "numpy_rank_promotion",
    "numpy_dtype_promotion",
    "check_tracer_leaks",
    "disable_jit",
    "log_compiles",
    "default_prng_impl",
    "threefry_partitionable",
)


@final
class JaxSettings:
    """The settings in force where it is made: default device, mesh, x64, NaN checks, and so on."""

    def __init__(self) -> None:
        self._values = {
            name: getattr(jax.config, f"jax_{name}")
            for name in _SETTINGS
            if hasattr(jax.config, f"jax_{name}")
        }
        mesh = jax.sharding.get_mesh() if hasattr(jax.sharding, "get_mesh") else None
        self._mesh = None if mesh is None or mesh.empty else mesh

    @contextlib.contextmanager
    def applied(self) -> Generator[None, None, None]:
        """Puts them in force in this thread."""
        with contextlib.ExitStack() as stack:
            for name, value in self._values.items():
                if getattr(jax.config, f"jax_{name}") != value:
                    stack.enter_context(_manager(name)(value))
            if self._mesh is not None:
                sharding: Any = jax.sharding  # which has it in JAX 0.7.0
                use = jax.set_mesh if hasattr(jax, "set_mesh") else sharding.use_mesh
                stack.enter_context(use(self._mesh))
            yield


def sent(tree: Any) -> Any:
    """Puts a batch's host arrays on the device, if a transfer guard keeps the step from doing so.

    Without a guard that would be slower than to let the step take them along.
    """
    return tree if takes_along() else jax.device_put(tree)


def takes_along() -> bool:
    """Whether a step may take host arrays along: no transfer guard is in the way."""
    guard: str | None = jax.config.jax_transfer_guard_host_to_device  # type: ignore[attr-defined]  # jax declares them at run time
    return guard in (None, "allow")


def begin_fetch(array: Any) -> None:
    """Begins to copy a device array to the host, so that `fetched` finds it there."""
    guard: str | None = jax.config.jax_transfer_guard_device_to_host  # type: ignore[attr-defined]  # jax declares them at run time
    if guard in (None, "allow"):
        array.copy_to_host_async()


def ones(size: int) -> Any:
    """Weights of 1, float32, on the device: batches share them, and none sends its own."""
    return jax.device_put(np.ones(size, np.float32))


def fetched(array: Any) -> np.ndarray[Any, Any]:
    """The values of a device array; explicitly, if a transfer guard asks for that."""
    guard: str | None = jax.config.jax_transfer_guard_device_to_host  # type: ignore[attr-defined]  # jax declares them at run time
    return np.asarray(array if guard in (None, "allow") else jax.device_get(array))


def _manager(name: str) -> Callable[[Any], AbstractContextManager[Any]]:
    # Not `or`: these objects have no truth value.
    home = jax if hasattr(jax, name) else jax.experimental
    return getattr(home, name)  # type: ignore[no-any-return]  # jax's functions are untyped
