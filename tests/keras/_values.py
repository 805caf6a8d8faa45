"""Draws what callbacks are shown: sequences of values, and arguments."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["Values"]


class Values:
    """Draws sequences of a monitored value, and arguments.

    Args:
        seed: The same one draws the same.
    """

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def one_of(self, *choices: Any) -> Any:
        """One of these, as it is."""
        return choices[int(self.random.integers(len(choices)))]

    def count(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return int(self.random.integers(low, high + 1))

    def chance(self, of_one: float) -> bool:
        """Whether something with this probability happens."""
        return bool(self.random.random() < of_one)

    def sequence(self, length: int, min_delta: float = 0.0) -> list[float]:
        """Walks, plateaus, ties, small improvements, and NaN and infinities among them.

        The first value isn't NaN. Most are float32's, as those of logs are.
        """
        random = self.random
        kind = self.one_of("walk", "fall", "plateau", "ties", "near", "near", "noise", "huge")
        if kind == "walk":
            values = 1 + random.normal(0, 0.3, length).cumsum()
        elif kind == "fall":
            values = 1 / (1 + np.arange(length)) + random.normal(0, 0.05, length)
        elif kind == "plateau":
            values = np.repeat(random.normal(size=length), random.integers(1, 5, length))[:length]
        elif kind == "ties":
            values = random.integers(0, 3, length) / 4
        elif kind == "near":
            # Steps of a whole number of `min_delta`, or beside it by a rounding or so.
            sizes = (abs(min_delta) or 0.1) * random.choice([-2, -1, -1, 0, 1, 1, 2], length)
            beside = random.choice([0, 0, 0, 1e-9, -1e-9, 1e-6, -1e-6], length)
            values = self.one_of(0.3, 1.0, 0.7) + (sizes + beside).cumsum()
        elif kind == "noise":
            values = random.uniform(0, 1, length)
        else:
            values = random.normal(size=length) * self.one_of(1e30, 3e38, 1e39)
        if self.chance(0.7):
            with np.errstate(over="ignore"):
                values = values.astype(np.float32).astype(np.float64)
        if self.chance(0.3):
            where = random.random(length) < 0.25
            values = np.where(
                where, random.choice([np.nan, np.nan, np.inf, -np.inf], length), values
            )
        found = [float(value) for value in values]
        if math.isnan(found[0]):
            found[0] = 1.0
        return found
