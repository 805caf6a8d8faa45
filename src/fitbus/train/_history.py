"""The numbers that a run's record keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

__all__ = ["numbers"]


def numbers(logs: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of logs to which callbacks have added what they like."""
    kinds = int | float | np.generic | np.ndarray | jax.Array
    scalars = {k: np.asarray(v) for k, v in sorted(logs.items()) if isinstance(v, kinds)}
    return {k: float(v) for k, v in scalars.items() if v.ndim == 0 and v.dtype.kind in "biuf"}
