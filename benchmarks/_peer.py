"""One peer of `peers.py`, in a process of its own: trains an epoch for each line that it is sent.

It is started by `peers.py` with the interpreter of the peer's environment, where neither fitbus nor
JAX need be installed: only NumPy and the standard library are imported here. Requests and answers
are JSON, one a line.
"""

from __future__ import annotations

import importlib
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = [
    "BATCH",
    "RATE",
    "Array",
    "Batches",
    "Peer",
    "Reader",
    "finished",
    "readers",
    "the_loss",
]

Array = npt.NDArray[Any]

BATCH = 64
RATE = 0.01
SIZES = {"linear": (784, 10), "mlp": (784, 128, 10)}
MODULES = {
    "bare": "_peers_jax",
    "flax": "_peers_jax",
    "keras": "_peers_jax",
    "fitbus": "_peers_fitbus",
    "torch": "_peers_torch",
    "ignite": "_peers_torch",
    "lightning": "_peers_torch",
}


class Peer(Protocol):
    """One way to train the model: in it the parameters live on from epoch to epoch."""

    def epoch(self, callbacks: str) -> float:
        """Trains an epoch, and returns its seconds: from its begin to its end, all computed."""
        ...

    def parameters(self) -> list[Array]:
        """Weights and biases, layer by layer, of whichever shape."""
        ...


class Reader:
    """What each of the ten callbacks does: adds up the losses, and notes when it had the last."""

    def __init__(self, steps: int) -> None:
        self.left = steps
        self.total = 0.0
        self.ended = 0.0

    def take(self, loss: float) -> None:
        """A batch has ended."""
        self.total += loss
        self.left -= 1
        if not self.left:
            self.ended = time.perf_counter()


def readers(callbacks: str, steps: int) -> list[Reader]:
    """Those of an epoch; `callbacks` starts with how many there are."""
    return [Reader(steps) for _ in range(int(callbacks.split(maxsplit=1)[0]))]


def the_loss(logs: Any) -> float:
    """The loss among the logs of a batch."""
    return float(logs["loss"])


def finished(readers: Sequence[Reader], ended: float) -> float:
    """When the last of the work was done; refuses readers that missed a batch."""
    for reader in readers:
        if reader.left or not math.isfinite(reader.total):
            raise RuntimeError(f"a callback missed {reader.left} batches, or saw no loss")
    return max([ended, *(reader.ended for reader in readers)])


class Batches:
    """Slices of arrays, made one by one as they are asked for; can be iterated again."""

    def __init__(self, x: Any, y: Any) -> None:
        self.x = x
        self.y = y

    def __len__(self) -> int:
        return len(self.x) // BATCH

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        x, y = self.x, self.y
        for at in range(0, len(x), BATCH):
            yield x[at : at + BATCH], y[at : at + BATCH]


def data(steps: int) -> tuple[Array, Array]:
    """As many examples as so many batches hold: float32 of (examples, 784), int32 classes."""
    random = np.random.default_rng(0)
    x = random.standard_normal((steps * BATCH, 784), np.float32)
    return x, random.integers(0, 10, steps * BATCH, np.int32)


def initial(model: str) -> list[tuple[Array, Array]]:
    """Weights, of (inputs, outputs), and biases of each layer."""
    random = np.random.default_rng(1)
    sizes = SIZES[model]
    return [
        (
            random.standard_normal((inputs, outputs), np.float32) / np.float32(inputs**0.5),
            np.zeros(outputs, np.float32),
        )
        for inputs, outputs in itertools.pairwise(sizes)
    ]


def moved(before: list[tuple[Array, Array]], after: list[Array]) -> float:
    """How far training went, whichever way round a peer keeps its weights."""
    total = 0.0
    for old, new in zip([part for layer in before for part in layer], after, strict=True):
        seen = new if new.shape == old.shape else new.T
        total += float(np.square(seen.astype(np.float64) - old).sum())
    return math.sqrt(total)


def serve(name: str, loop: str) -> None:
    """Answers until its input ends."""
    answers = os.fdopen(os.dup(1), "w")  # what libraries print must not come between

    def answer(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=answers, flush=True)

    os.dup2(2, 1)
    try:
        module = importlib.import_module(MODULES[name])
        version, make = module.load(name, loop)
    except ImportError as error:
        answer({"missing": str(error)})
        return
    answer({"version": version})
    peers: dict[str, Peer] = {}
    for line in sys.stdin:
        request = json.loads(line)
        model = request["model"]
        if model not in peers:
            peers.clear()
            layers = initial(model)
            peers[model] = make(layers, *data(request["steps"]))
            seconds = peers[model].epoch("0")
            answer({"seconds": seconds, "moved": moved(layers, peers[model].parameters())})
        else:
            answer({"seconds": peers[model].epoch(request["callbacks"])})


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])
