"""What the tests of checkpoints share: trees of all kinds of leaves, compared bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fitbus
from fitbus.errors import FitbusError
from fitbus.testing import toy_problem
from fitbus.train import TrainState

DTYPES = """
    bool int8 uint8 int16 uint16 int32 uint32 int64 uint64 float16 bfloat16 float32 float64
    complex64
""".split()  # noqa: SIM905  # a table


def array_of(dtype: str, *shape: int) -> np.ndarray[Any, Any]:
    """An array of random bits: NaNs, infinities and denormals too."""
    kind: Any = np.dtype(jnp.bfloat16 if dtype == "bfloat16" else dtype)
    random = np.random.default_rng(len(dtype) + sum(shape))
    if dtype == "bool":
        return random.random(shape) < 0.5
    size = int(np.prod(shape)) * kind.itemsize
    return np.frombuffer(random.bytes(size), kind).reshape(shape).copy()


def bits(tree: Any) -> list[tuple[str, Any, Any, bytes]]:
    """Each leaf's place, dtype, shape and bytes; random keys by their data."""
    found: list[tuple[str, Any, Any, bytes]] = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data, kind = np.asarray(jax.random.key_data(leaf)), leaf.dtype
        else:
            data = np.asarray(leaf)
            kind = data.dtype
        found.append((jax.tree_util.keystr(path), str(kind), data.shape, data.tobytes()))
    return found


def refuses(load: Callable[[Any, Any], Any], path: Path, like: Any) -> bool:
    """Whether an error that names the path comes of loading; otherwise all must be as it was."""
    try:
        back = load(path, like)
    except FitbusError as error:
        return str(path) in str(error)
    assert bits(back) == bits(like)
    return False


def hidden(folder: Path) -> list[str]:
    """What is left in a folder that nobody is to see."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


_TRAINER = fitbus.Trainer(toy_problem().task, toy_problem().params, seed=7)


@pytest.fixture
def state() -> TrainState:
    """A whole state."""
    return _TRAINER.state
