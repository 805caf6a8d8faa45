"""The parameters of a run by their paths, and what TensorBoard shows of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from fitbus.callbacks._tensorboard_summaries import as_float, histogram, image, weight_pixels
from fitbus.train import is_key

__all__ = ["copies_of", "keras_model", "parameters_of", "summaries_of"]

_logger = logging.getLogger("fitbus")


def keras_model(task: Any) -> Any:
    """The Keras model that a task trains, or None."""
    model = getattr(task, "model", None)
    return model if hasattr(model, "get_config") and hasattr(model, "weights") else None


def parameters_of(task: Any, weights: Any) -> dict[str, Any]:
    """The arrays on the device, each under its path, with slashes; of a Keras model, its paths.

    Args:
        task: The task.
        weights: What its weights are in the run's state.
    """
    leaves = jax.tree_util.tree_leaves_with_path(weights)
    names = [jax.tree_util.keystr(p, simple=True, separator="/") or "params" for p, _ in leaves]
    model = keras_model(task)
    if model is not None and len(model.weights) == len(leaves):
        names = [weight.path for weight in model.weights]
    return {
        name.replace(":", "_"): leaf
        for name, (_, leaf) in zip(names, leaves, strict=True)
        if not is_key(leaf)
    }


def copies_of(leaves: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Copies of arrays on the host."""
    for leaf in leaves.values():
        leaf.copy_to_host_async()
    return {name: np.array(leaf, copy=True) for name, leaf in leaves.items()}


def summaries_of(copies: Mapping[str, np.ndarray[Any, Any]], *, images: bool) -> list[Any]:
    """A histogram of each array, and an image where it can be one."""
    values: list[Any] = []
    for path, copy in copies.items():
        array = as_float(copy)
        values.append(histogram(f"{path}/histogram", array))
        left_out = array.size - int(np.count_nonzero(np.isfinite(array)))
        if left_out:
            _logger.warning(
                "TensorBoard: %d of the %d values of %r aren't finite, and in no histogram",
                left_out,
                array.size,
                path,
            )
        pixels = weight_pixels(array) if images else None
        if pixels is not None:
            values.append(image(f"{path}/image", pixels))
    return values
