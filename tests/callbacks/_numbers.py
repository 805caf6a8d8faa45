"""Numbers in the form in which tests compare them."""

from __future__ import annotations

import numpy as np

from fitbus.train import TrainState


def bits(state: TrainState) -> list[bytes]:
    """A state's parameters, bit for bit."""
    return [np.asarray(state.params[name]).tobytes() for name in sorted(state.params)]


def singles(*values: float) -> list[float]:
    """What is left of numbers in float32."""
    return [float(np.float32(value)) for value in values]
