"""A callback that uses `self.model`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fitbus import Callback

__all__ = ["At"]


class At(Callback):
    """Does something with the model at a hook."""

    def __init__(self, hook: str, action: Callable[[Any], object]) -> None:
        def run_action(*arguments: Any) -> None:
            action(self.model)

        setattr(self, hook, run_action)
