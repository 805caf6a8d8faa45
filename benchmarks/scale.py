"""How does the cost grow: with subscribers, metrics, batches, and types that nobody wants?

- *subscribers*: a loop by hand publishes batches, twenty at a time as training does at fast steps;
  what one more concurrent subscriber costs, training thread and event loop together, is the slope
  between 100 and 1,000 of them, by event.
- *metrics*: `fit` of a tiny model whose task reports 1 to 1,000 metrics, with one subscriber.
- *unwanted*: `fit` of the same with 1,000 subscribers to other types, against none.
- *batches*: one `fit` of many tiny batches, with one concurrent subscriber; its last tenth but one
  against the second and third (the first compiles). 1 means that the cost of a batch is constant.
"""

from __future__ import annotations

import statistics
import time
from itertools import pairwise
from typing import Any

import anyio
import jax.numpy as jnp
import numpy as np
from _harness import Row, check, interleaved, parser, ratios, run_on, show
from _model import epoch_s

import fitbus
from fitbus import BatchEnd, Bus, Event

LOGS = {"accuracy": 0.5, "loss": 0.5}
TOGETHER = 20


class Unwanted(Event):
    """An event that never comes."""


class Tiny:
    """A step that does next to nothing."""

    def __init__(self, metrics: int = 1) -> None:
        self._names = [f"metric_{i:04d}" for i in range(metrics)]

    def train_step(self, state: fitbus.TrainState, batch: fitbus.Batch) -> Any:
        """Adds up its data."""
        value = jnp.sum(batch.x)
        return state, {name: value + i for i, name in enumerate(self._names)}

    def eval_step(self, state: fitbus.TrainState, batch: fitbus.Batch) -> Any:
        """The same."""
        return {"loss": jnp.sum(batch.x)}

    def predict_step(self, state: fitbus.TrainState, batch: fitbus.Batch) -> Any:
        """Its data."""
        return batch.x


def reader() -> Any:
    """A concurrent subscriber that looks at every batch."""
    total = [0.0]

    async def read(event: BatchEnd) -> None:
        total[0] += event.logs["loss"] if "loss" in event.logs else len(event.logs)

    return read


async def publishing(subscribers: int, count: int) -> float:
    """Seconds to publish so many events, and to deliver each to so many subscribers."""
    async with Bus() as bus:
        for _ in range(subscribers):
            bus.add(reader(), BatchEnd)
        publisher = bus.publisher()

        def train() -> None:
            for start in range(0, count, TOGETHER):
                events = [BatchEnd(batch=i, logs=LOGS, batch_logs=LOGS) for i in range(TOGETHER)]
                publisher.publish_all(events, range(start, start + TOGETHER))
                publisher.boundary()
            publisher.close()

        started = time.perf_counter()
        await anyio.to_thread.run_sync(train)
        await bus.drain(None, 600)
        return time.perf_counter() - started


class Fit:
    """Trains the tiny model again and again; compiled before."""

    def __init__(self, steps: int, metrics: int = 1) -> None:
        self.steps = steps
        self._x = np.ones((1000, 1), np.float32)
        self._trainer = fitbus.Trainer(Tiny(metrics), {"w": np.zeros(1, np.float32)})

    async def seconds(self, callbacks: list[Any], unwanted: int = 0) -> float:
        """Seconds of an epoch."""
        run = self._trainer.run(
            self._x, batch_size=1, steps_per_epoch=self.steps, shuffle=False, callbacks=callbacks
        )
        for _ in range(unwanted):
            run.add(reader(), Unwanted, wait=False)
        return await epoch_s(run)


async def tenths(fit: Fit) -> list[float]:
    """The seconds of each tenth of a long epoch but the first one."""
    times: list[float] = []

    def note(event: BatchEnd) -> bool:  # called in the training thread
        if event.batch % (fit.steps // 10) == 0:
            times.append(time.perf_counter())
        return True

    await fit.seconds([fitbus.handler(BatchEnd, where=note)(reader())])
    return [after - before for before, after in pairwise(times[1:])]


def main() -> None:
    """Measures all of them."""
    arguments = parser(__doc__)
    arguments.add_argument("--batches", type=int, default=1_000_000)
    options = arguments.parse_args()
    numbers, events, steps = [0, 1, 10, 100, 1000], 1000, 4000
    if options.smoke:
        options.pairs, options.batches = 1, 5000
        numbers, events, steps = [1, 10, 50, 100], 100, 300
    rows: list[Row] = []

    def on(function: Any, *arguments: Any) -> Any:
        return lambda: run_on(options.loop, lambda: function(*arguments))

    found = interleaved(
        {str(number): on(publishing, number, events) for number in numbers}, options.pairs
    )
    for number in numbers:
        each = [s / events * 1e6 for s in found[str(number)]]
        rows.append(Row.of(f"{number} subscribers, an event", each, "us"))
    few, many = numbers[-2:]
    slope = [
        (b - a) / (many - few) / events * 1e6
        for a, b in zip(found[str(few)], found[str(many)], strict=True)
    ]
    rows.append(Row.of("one more subscriber, an event", slope, "us", 0.5))

    fits = {metrics: Fit(steps, metrics) for metrics in (1, 10, 100, 1000)}
    found = interleaved(
        {str(n): on(lambda f: f.seconds([reader()]), fit) for n, fit in fits.items()}, options.pairs
    )
    for metrics in fits:
        each = [s / steps * 1e6 for s in found[str(metrics)]]
        rows.append(Row.of(f"{metrics} metrics, a step", each, "us"))

    found = interleaved(
        {"none": on(fits[1].seconds, []), "1000": on(fits[1].seconds, [], 1000)}, options.pairs
    )
    name = "1,000 subscribers to other types / none"
    rows.append(Row.of(name, ratios(found, "1000", "none"), "x", 1.05))

    spent: list[float] = run_on(options.loop, lambda: tenths(Fit(options.batches)))
    constant = spent[-1] / statistics.median(spent[:2])
    rows.append(Row.of(f"{options.batches} batches, the end / the beginning", [constant], "x", 1.2))
    show("how the cost grows", rows, options)
    if options.smoke:
        check(rows)


if __name__ == "__main__":
    main()
