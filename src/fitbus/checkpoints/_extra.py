"""The libraries that write: an extra."""

from __future__ import annotations

import importlib.util
from typing import Literal

from fitbus.errors import FitbusError

__all__ = ["check_installed"]


def check_installed(user: str, library: Literal["orbax.checkpoint", "safetensors"]) -> None:
    """Refuses to go on without a library; tells how to get it. It isn't loaded yet.

    Args:
        user: What needs it, for the message.
        library: Which one.

    Raises:
        FitbusError: It isn't installed.
    """
    try:
        found = importlib.util.find_spec(library)
    except ModuleNotFoundError:  # of a package that `library` would be in
        found = None
    if found is None:
        raise FitbusError(
            f'{user} needs {library}, which isn\'t installed: pip install "fitbus[checkpoint]"'
        )
