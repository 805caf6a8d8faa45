"""A stop that was asked for."""

from __future__ import annotations

from typing import NamedTuple

from fitbus.control import StopTraining

__all__ = ["Stop"]


class Stop(NamedTuple):
    """A stop that was asked for."""

    control: StopTraining
    source: str

    @property
    def reason(self) -> str:
        """Why, in words."""
        return self.control.reason

    @property
    def validate(self) -> bool:
        """Whether the epoch that it cuts short is still validated."""
        return self.control.validate and not self.control.resumable
