"""JAX's thread-local settings, carried from the caller of `fit` to the training thread."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, final

import jax

__all__ = ["JaxSettings"]

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
    "log_compiles",
    "default_prng_impl",
    "threefry_partitionable",
)


@final
class JaxSettings:
    """The settings in force where it is made: default device, mesh, x64, NaN checks, and the like."""

    def __init__(self) -> None:
        self._values = {
            name: getattr(jax.config, f"jax_{name}")
            for name in _SETTINGS
            if hasattr(jax.config, f"jax_{name}")
        }
        mesh = jax.sharding.get_mesh() if hasattr(jax.sharding, "get_mesh") else None
        self._mesh = None if mesh is None or mesh.empty else mesh

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Puts them in force in this thread."""
        with contextlib.ExitStack() as stack:
            for name, value in self._values.items():
                if getattr(jax.config, f"jax_{name}") != value:
                    stack.enter_context(_manager(name)(value))
            if self._mesh is not None:
                stack.enter_context(jax.set_mesh(self._mesh))
            yield


def _manager(name: str) -> Callable[[Any], AbstractContextManager[Any]]:
    manager = getattr(jax, name, None) or getattr(jax.experimental, name)
    return manager  # type: ignore[no-any-return]  # jax's functions are untyped
