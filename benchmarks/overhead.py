"""What subscribers cost training: `fit` against the loops that people write by hand.

Each row is a ratio to `bare`: the same jitted, donating step in a plain `for` over slices of the
same NumPy arrays, with nothing read back. `best by hand` is the fastest loop that we know for the
case, so that no figure looks better than it is. Waiting handlers are compared with a bare loop that
reads the loss every step, since they see it. `10 tasks, by hand` is what concurrent subscribers are
without a bus: a thread that reads each loss once its step is done, two steps in flight, and tells
the event loop, where ten tasks get it from streams of their own. `guarded` is with a `Guard` that
never trips, compared with the same without one.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import jax
import jax.numpy as jnp
import numpy as np
from _harness import Row, check, parser, run_on, show
from _model import SIZES, Built, bare, build, epoch_s, updating

import fitbus
from fitbus._loops import LoopHandle
from fitbus.callbacks import Guard

READING = "bare, reading the loss"


def flat(state: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Functions that take such a state apart, and put it together again."""
    tree = jax.tree.structure(state)

    def leaves_of(state: Any) -> Any:
        return jax.tree.leaves(dataclasses.replace(state, key=jax.random.key_data(state.key)))

    def built_of(leaves: Any) -> Any:
        state = jax.tree.unflatten(tree, leaves)
        return dataclasses.replace(state, key=jax.random.wrap_key_data(state.key))

    return leaves_of, built_of


def hand_written(built: Built, batch: int, steps: int, loop: str) -> dict[str, Callable[[], float]]:
    """The loops without fitbus: the same update and the same metrics of each batch."""
    task, params, x, y = built
    trainer = fitbus.Trainer(task, params)
    per_pass = len(x) // batch
    update = updating(task, batch)
    step = jax.jit(update, donate_argnums=0)
    bare_step_s = bare(built, batch, steps)

    # The fastest that we know: data on the device, sliced in the step; a flat list of arrays as
    # state, with the random key as its data, which spares JAX work in Python.
    leaves_of, built_of = flat(trainer.state)

    def sliced(leaves: Any, x: Any, y: Any, start: Any) -> Any:
        x, y = (jax.lax.dynamic_slice_in_dim(a, start, batch) for a in (x, y))
        state, metrics = update(built_of(leaves), x, y)
        return leaves_of(state), metrics

    step_on_device = jax.jit(sliced, donate_argnums=0)
    x_device, y_device = jax.device_put((x, y))
    starts = [np.int32(i * batch) for i in range(per_pass)]

    def fresh() -> Any:
        return jax.tree.map(jnp.copy, trainer.state)

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
        state = leaves_of(fresh())
        started = time.perf_counter()
        for i in range(steps):
            state, _ = step_on_device(state, x_device, y_device, starts[i % per_pass])
        jax.block_until_ready(state)
        return time.perf_counter() - started

    return {
        "bare": lambda: bare_step_s() * steps,
        READING: reading,
        "best by hand": best,
        "10 tasks, by hand": tasks_by_hand(built, batch, steps, loop),
    }


def tasks_by_hand(built: Built, batch: int, steps: int, loop: str) -> Callable[[], float]:
    """A thread that trains, and tells ten tasks of the event loop each loss."""
    task, params, x, y = built
    trainer = fitbus.Trainer(task, params)
    starts = range(0, len(x), batch)
    step = jax.jit(updating(task, batch), donate_argnums=0)

    def train(tell: Callable[[float], object]) -> float:
        state = jax.tree.map(jnp.copy, trainer.state)
        out: deque[Any] = deque()
        started = time.perf_counter()
        for i in range(steps):
            at = starts[i % len(starts)]
            state, metrics = step(state, x[at : at + batch], y[at : at + batch])
            out.append(metrics["loss"][0])
            if len(out) == 2:
                tell(float(out.popleft()))
        jax.block_until_ready(state)
        return time.perf_counter() - started

    return lambda: float(run_on(loop, lambda: telling_tasks(train, steps)))


async def telling_tasks(train: Callable[[Callable[[float], object]], float], steps: int) -> float:
    """Carries a training out in a thread; what it tells goes to ten tasks, in streams."""
    handle = LoopHandle()
    sending: list[Any] = []
    total = seconds = 0.0

    async def read(stream: Any) -> None:
        nonlocal total
        async for loss in stream:
            total += loss

    def send(loss: float) -> None:
        for stream in sending:
            stream.send_nowait(loss)

    async with anyio.create_task_group() as group:
        for _ in range(10):
            stream, receiving = anyio.create_memory_object_stream[float](steps)
            sending.append(stream)
            group.start_soon(read, receiving)
        seconds = await anyio.to_thread.run_sync(
            train, lambda loss: handle.call_soon(partial(send, loss))
        )
        for stream in sending:
            stream.close()
    return seconds


def with_fitbus(built: Built, batch: int, steps: int, loop: str) -> dict[str, Callable[[], float]]:
    """The same training as `fit`, with subscribers of several kinds."""
    task, params, x, y = built
    trainer = fitbus.Trainer(task, params)

    def fit(make: Callable[[], list[Any]], fused: int = 1) -> Callable[[], float]:
        options: Any = {"batch_size": batch, "shuffle": False, "steps_per_execution": fused}

        async def main() -> float:
            await trainer.fit(x, y, steps_per_epoch=2, **options)
            run = trainer.run(x, y, steps_per_epoch=steps, callbacks=make(), **options)
            return await epoch_s(run)

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
        "guarded": fit(lambda: [Guard()]),
        "guarded, 10 concurrent": fit(lambda: [Guard(), *(concurrent() for _ in range(10))]),
        "no subscriber, 32 fused": fit(list, 32),
        "10 concurrent, 32 fused": fit(lambda: [concurrent() for _ in range(10)], 32),
    }


def against(base: Callable[[], float], case: Callable[[], float], pairs: int) -> list[float]:
    """Ratios of a case to the runs of its base right before and right after it."""
    base()
    case()
    before = base()
    found: list[float] = []
    for _ in range(pairs):
        seconds = case()
        after = base()
        found.append(2 * seconds / (before + after))
        before = after
    return found


# Each row: what is measured, what it is compared with, and how much that may be; of these, of
# steps of 0.1 ms and more, and of 1 ms and more.
ROWS: list[tuple[str, str, float | None, float | None]] = [
    ("best by hand", "bare", None, None),
    (READING, "bare", None, None),
    ("no subscriber", "bare", 1.02, 1.02),
    ("1 concurrent", "bare", None, None),
    ("10 concurrent", "bare", 1.05, 1.01),
    ("10 tasks, by hand", "bare", None, None),
    ("10 concurrent, one asleep", "10 concurrent", 1.02, 1.02),
    ("10 waiting", READING, 1.10, 1.10),
    ("guarded", "no subscriber", None, None),
    ("guarded, 10 concurrent", "10 concurrent", None, None),
    ("no subscriber, 32 fused", "bare", None, None),
    ("10 concurrent, 32 fused", "bare", None, None),
]


def main() -> None:
    """Measures all sizes."""
    arguments = parser(__doc__)
    arguments.add_argument("--size", choices=list(SIZES), action="append")
    arguments.add_argument("--only", action="append", help="rows whose names begin so")
    options = arguments.parse_args()
    sizes = options.size or list(SIZES)
    if options.smoke:
        options.pairs, sizes = 1, ["0.1 ms"]
    for size in sizes:
        width, batch, steps = SIZES[size]
        if options.smoke:
            steps = 100
        built = build(width, batch, steps)
        cases = hand_written(built, batch, steps, options.loop)
        cases |= with_fitbus(built, batch, steps, options.loop)
        cases["bare"]()
        bare_ms = [cases["bare"]() / steps * 1e3 for _ in range(options.pairs)]
        rows = [Row.of("bare, a step", bare_ms, "ms")]
        for case, base, from_100_us, from_1_ms in ROWS:
            if options.only and not case.startswith(tuple(options.only)):
                continue
            budget = {"0.05 ms": None, "0.1 ms": from_100_us, "0.3 ms": from_100_us}
            found = against(cases[base], cases[case], options.pairs)
            rows.append(Row.of(f"{case} / {base}", found, "x", budget.get(size, from_1_ms)))
        device = jax.devices()[0].device_kind
        show(f"overhead at steps of about {size} on {device}", rows, options)
        if options.smoke:
            check(rows)


if __name__ == "__main__":
    main()
