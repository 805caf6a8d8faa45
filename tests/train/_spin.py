"""Time that passes: what is measured, where a test is about seconds."""

from __future__ import annotations

import time

__all__ = ["spin"]


def spin(seconds: float) -> None:
    """Takes so long, or longer."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass
