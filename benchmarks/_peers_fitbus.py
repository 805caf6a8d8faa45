"""fitbus as one of the peers."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from _harness import run_on
from _peer import BATCH, RATE, Array, Peer, Reader, finished, readers, the_loss
from _peers_jax import Layers, apply

import fitbus


def load(name: str, loop: str) -> tuple[str, Callable[[Layers, Array, Array], Peer]]:
    """What it is called, and what makes it."""
    return f"{name} {fitbus.__version__} on JAX {jax.__version__}", partial(Fitbus, loop)


class Fitbus:
    """`trainer.fit` as it comes; its subscribers read `logs` as Keras' callbacks do."""

    def __init__(self, loop: str, layers: Layers, x: Array, y: Array) -> None:
        self.loop = loop
        self.x, self.y = x, y
        task = fitbus.Supervised(
            apply=apply,
            loss=optax.softmax_cross_entropy_with_integer_labels,
            optimizer=optax.sgd,
            learning_rate=RATE,
        )
        self.trainer = fitbus.Trainer(task, layers)

    def epoch(self, callbacks: str) -> float:
        """From `EpochBegin` to `EpochEnd`, or until the last subscriber had the last event."""
        all_readers = readers(callbacks, len(self.x) // BATCH)
        times: list[float] = []

        def note(event: fitbus.EpochBegin | fitbus.EpochEnd) -> None:
            times.append(time.perf_counter())

        def concurrent(reader: Reader) -> Any:
            async def read(event: fitbus.BatchEnd) -> None:
                reader.take(the_loss(event.logs))

            return read

        def waiting(reader: Reader) -> Any:
            def read(event: fitbus.BatchEnd) -> None:
                reader.take(the_loss(event.logs))

            return read

        handlers = [(waiting if "waiting" in callbacks else concurrent)(r) for r in all_readers]

        async def main() -> None:
            await self.trainer.fit(
                self.x, self.y, batch_size=BATCH, shuffle=False, callbacks=[note, *handlers]
            )

        run_on(self.loop, main)
        return finished(all_readers, times[1]) - times[0]

    def parameters(self) -> list[Array]:
        """Of the trainer's state."""
        return [np.asarray(part) for layer in self.trainer.state.params for part in layer]
