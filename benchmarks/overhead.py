"""What subscribers cost training: `fit` against the loops that people write by hand.

Each row is a ratio to `bare`: the same jitted, donating step in a plain `for` over slices of the
same NumPy arrays, with nothing read back. Waiting handlers are compared with a bare loop that reads
the loss every step, since they see it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _harness import Row, interleaved, parser, ratios, run_on, show

import fitbus

# (width, batch size, steps) by how long a step takes, about, on two CPU cores.
SIZES = {
    "0.05 ms": (16, 32, 4000),
    "0.1 ms": (64, 96, 2000),
    "0.3 ms": (144, 96, 1000),
    "1 ms": (320, 128, 500),
    "5 ms": (768, 256, 100),
}
FEATURES = 64


def build(width: int, batch: int, steps: int) -> tuple[fitbus.Supervised, Any, Any, Any]:
    """A network of two layers, and data for so many steps."""
    random = np.random.default_rng(0)
    rows = min(batch * steps, 200_000 // batch * batch)
    x = random.normal(size=(rows, FEATURES)).astype(np.float32)
    y = random.integers(0, 10, rows).astype(np.int32)
    params = {
        "w1": random.normal(size=(FEATURES, width)).astype(np.float32) / 8,
        "w2": random.normal(size=(width, width)).astype(np.float32) / width**0.5,
        "w3": random.normal(size=(width, 10)).astype(np.float32) / width**0.5,
    }

    def apply(params: Any, x: Any) -> Any:
        return jax.nn.relu(jax.nn.relu(x @ params["w1"]) @ params["w2"]) @ params["w3"]

    task = fitbus.Supervised(
        apply=apply,
        loss=optax.softmax_cross_entropy_with_integer_labels,
        optimizer=optax.sgd,
        learning_rate=0.01,
        metrics={"accuracy": lambda p, y: (p.argmax(-1) == y).astype(jnp.float32)},
    )
    return task, params, x, y


def hand_written(
    task: fitbus.Supervised, params: Any, x: Any, y: Any, batch: int, steps: int
) -> dict[str, Callable[[], float]]:
    """The loops without fitbus: the same update and the same metrics of each batch."""
    trainer = fitbus.Trainer(task, params)
    per_pass = len(x) // batch
    ones = np.ones(batch, np.float32)

    def update(state: Any, x: Any, y: Any) -> Any:
        state, metrics = task.train_step(state, fitbus.Batch(x, y, ones))
        return dataclasses.replace(state, step=state.step + 1), metrics

    step = jax.jit(update, donate_argnums=0)

    def sliced(state: Any, x: Any, y: Any, start: Any) -> Any:
        x, y = (jax.lax.dynamic_slice_in_dim(a, start, batch) for a in (x, y))
        return update(state, x, y)

    step_on_device = jax.jit(sliced, donate_argnums=0)
    x_device, y_device = jax.device_put((x, y))
    starts = [np.int32(i * batch) for i in range(per_pass)]

    def fresh() -> Any:
        return jax.tree.map(jnp.copy, trainer.state)

    def bare() -> float:
        state = fresh()
        started = time.perf_counter()
        for i in range(steps):
            at = i % per_pass * batch
            state, _ = step(state, x[at : at + batch], y[at : at + batch])
        jax.block_until_ready(state)
        return time.perf_counter() - started

    def reading() -> float:
        state = fresh()
        started = time.perf_counter()
        for i in range(steps):
            at = i % per_pass * batch
            state, metrics = step(state, x[at : at + batch], y[at : at + batch])
            float(metrics["loss"][0])
        jax.block_until_ready(state)
        return time.perf_counter() - started

    def best() -> float:
        state = fresh()
        started = time.perf_counter()
        for i in range(steps):
            state, _ = step_on_device(state, x_device, y_device, starts[i % per_pass])
        jax.block_until_ready(state)
        return time.perf_counter() - started

    return {"bare": bare, "bare, reading the loss": reading, "best by hand": best}


def with_fitbus(
    task: fitbus.Supervised, params: Any, x: Any, y: Any, batch: int, steps: int, loop: str
) -> dict[str, Callable[[], float]]:
    """The same training as `fit`, with subscribers of several kinds."""
    trainer = fitbus.Trainer(task, params)

    def fit(make: Callable[[], list[Any]]) -> Callable[[], float]:
        async def main() -> float:
            await trainer.fit(x, y, batch_size=batch, steps_per_epoch=2, shuffle=False)
            run = trainer.run(
                x, y, batch_size=batch, steps_per_epoch=steps, shuffle=False, callbacks=make()
            )
            times: list[float] = []
            run.add(lambda event: times.append(time.perf_counter()), fitbus.EpochBegin)
            run.add(lambda event: times.append(time.perf_counter()), fitbus.EpochEnd)
            async with run:
                await run.wait()
            return times[1] - times[0]

        return lambda: float(run_on(loop, main))

    total = [0.0]

    def concurrent() -> Any:
        async def read(event: fitbus.BatchEnd) -> None:
            total[0] += event.logs["loss"]

        return read

    def waiting() -> Any:
        def read(event: fitbus.BatchEnd) -> None:
            total[0] += event.logs["loss"]

        return read

    async def sleeper(event: fitbus.BatchEnd) -> None:
        import anyio

        await anyio.sleep(0.05)

    def slow() -> list[Any]:
        return [
            *(concurrent() for _ in range(9)),
            fitbus.handler(fitbus.BatchEnd, overflow="latest")(sleeper),
        ]

    return {
        "no subscriber": fit(list),
        "1 concurrent": fit(lambda: [concurrent()]),
        "10 concurrent": fit(lambda: [concurrent() for _ in range(10)]),
        "10 concurrent, one asleep": fit(slow),
        "10 waiting": fit(lambda: [waiting() for _ in range(10)]),
    }


def main() -> None:
    """Measures all sizes."""
    arguments = parser(__doc__)
    arguments.add_argument("--size", choices=list(SIZES), action="append")
    options = arguments.parse_args()
    sizes = options.size or list(SIZES)
    if options.smoke:
        options.pairs, sizes = 1, sizes[:1]
    for size in sizes:
        width, batch, steps = SIZES[size]
        if options.smoke:
            steps = 50
        built = build(width, batch, steps)
        cases = hand_written(*built, batch, steps)
        cases |= with_fitbus(*built, batch, steps, options.loop)
        seconds = interleaved(cases, options.pairs)
        step_ms = [value / steps * 1e3 for value in seconds["bare"]]
        small = size == "0.1 ms"

        def row(case: str, base: str, budget: float | None, seconds: Any = seconds) -> Row:
            return Row.of(f"{case} / {base}", ratios(seconds, case, base), "x", budget)

        reading = "bare, reading the loss"
        show(
            f"overhead on {jax.devices()[0].device_kind}, width {width}, batches of {batch}",
            [
                Row.of("bare, a step", step_ms, "ms"),
                row("best by hand", "bare", None),
                row(reading, "bare", None),
                row("no subscriber", "bare", 1.02),
                row("1 concurrent", "bare", None),
                row("10 concurrent", "bare", 1.05 if small else 1.01),
                row("10 concurrent, one asleep", "10 concurrent", 1.02),
                row("10 waiting", reading, 1.10),
            ],
            options,
        )


if __name__ == "__main__":
    main()
