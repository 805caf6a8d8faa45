"""What another process finds a function by."""

from __future__ import annotations

import inspect
import pickle
import sys
from collections.abc import Callable
from typing import Any

from fitbus.errors import InvalidArgumentError

__all__ = ["name_of_factory", "pickled"]

_REMEDY = (
    "the child imports it by its name: give a function at the top of a module that can be imported,"
    " or its name as 'module:function'"
)


def name_of_factory(factory: Callable[..., Any] | str) -> str:
    """The name of a factory, as `module:function`.

    Raises:
        InvalidArgumentError: It has none by which another process could import it.
    """
    if isinstance(factory, str):
        module, colon, name = factory.partition(":")
        if not (module and colon and name):
            raise InvalidArgumentError("factory", factory, "write it as 'module:function'")
        return factory
    if not inspect.isfunction(factory) or "<" in factory.__qualname__:
        raise InvalidArgumentError("factory", factory, _REMEDY)
    module = factory.__module__
    if module == "__main__":
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        if spec is None:
            raise InvalidArgumentError(
                "factory", factory, f"it is in the script that is run; {_REMEDY}"
            )
        module = spec.name
    return f"{module}:{factory.__qualname__}"


def pickled(*values: object) -> bytes:
    """What the child is given, for the way there; nothing comes back like that.

    Raises:
        InvalidArgumentError: It can't be pickled.
    """
    try:
        return pickle.dumps(values)
    except Exception as error:
        raise InvalidArgumentError(
            "args", values, f"they have to be pickled for the child ({error})"
        ) from error
