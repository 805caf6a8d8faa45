"""How long from an event to its handler, there and back, and from a control to where it acts?

Three questions, each at real jitted steps of about 0.1, 1 and 5 ms (the bare step is measured and
printed):

- *event to handler*: from the moment at which the training thread published a `BatchEnd`
  (`event.time`) to the first line of a concurrent async handler. An event is published once its
  values are there, and those of short steps together every `flush_s`: that wait comes before
  `event.time` and isn't in the figure.
- *there and back*: from the training thread to a waiting async handler and back into the training
  thread. The clock starts in the subscription's `where=`, which runs in the training thread, and
  stops in a `def` handler of the same event, which runs there after all async ones. Beside it, the
  same on a bus where nothing else goes on (a thread that calls `barrier`).
- *control to step*: from `await run.send(SetLearningRate(...))` to its acknowledgement, and how
  many steps lie between the step that the sender had last seen and the one at which it acted.

Of each round, the median and the 99th percentile are taken; a row tells the median of these over
all rounds, and the quartiles. The 99th percentile of a loaded machine is mostly the machine's.
"""

from __future__ import annotations

import time
from typing import Any

import anyio
from _harness import Row, check, parser, quantile, run_on, show
from _model import SIZES, Built, bare, build

import fitbus
from fitbus import BatchEnd, SetLearningRate

Found = dict[str, float]
Table = dict[str, list[float]]


async def to_handler(trainer: fitbus.Trainer, data: Any, steps: int) -> Found:
    """From `event.time` to a concurrent handler, in microseconds."""
    late: list[float] = []

    async def handle(event: BatchEnd) -> None:
        late.append(time.time() - event.time)

    await trainer.fit(**data, steps_per_epoch=steps, callbacks=[handle])
    return both("event to handler", late)


async def there_and_back(trainer: fitbus.Trainer, data: Any, steps: int) -> Found:
    """Training thread, waiting async handler, training thread, in microseconds."""
    begun = 0.0
    spent: list[float] = []

    def begin(event: BatchEnd) -> bool:
        nonlocal begun
        begun = time.perf_counter()
        return True

    async def handle(event: BatchEnd) -> None:
        pass

    def end(event: BatchEnd) -> None:
        spent.append(time.perf_counter() - begun)

    run = trainer.run(**data, steps_per_epoch=steps)
    run.add(handle, BatchEnd, wait=True, where=begin)
    run.add(end, BatchEnd)
    async with run:
        await run.wait()
    return both("there and back, within a run", spent)


async def idle_there_and_back(count: int) -> Found:
    """The same on a bus where nothing else goes on."""
    spent: list[float] = []
    async with fitbus.Bus() as bus:

        async def handle(event: BatchEnd) -> None:
            pass

        bus.add(handle, BatchEnd, wait=True)
        publisher = bus.publisher()

        def work() -> None:
            for i in range(count):
                event = BatchEnd(batch=i, logs={"loss": 0.5}, batch_logs={"loss": 0.5})
                started = time.perf_counter()
                publisher.barrier(event)
                spent.append(time.perf_counter() - started)

        await anyio.to_thread.run_sync(work)
        publisher.close()
    return both("there and back, idle bus", spent)


async def to_step(trainer: fitbus.Trainer, data: Any, controls: int) -> Found:
    """From sending a control to its acknowledgement; and the steps until it acted."""
    seen = 0
    spent: list[float] = []
    steps: list[float] = []

    async def look(event: BatchEnd) -> None:
        nonlocal seen
        seen = event.step

    run = trainer.run(**data, steps_per_epoch=10_000_000, callbacks=[look])
    async with run:
        await run.wait_for(BatchEnd)
        for i in range(controls):
            await anyio.sleep(0.003 + i % 7 * 0.0005)  # at no fixed place of a step
            before, started = seen, time.perf_counter()
            applied = await run.send(SetLearningRate(0.01 + i * 1e-6))
            spent.append(time.perf_counter() - started)
            steps.append(float(applied.step - before))
        run.post(fitbus.StopTraining("all were sent"))
        await run.wait()
    name = "control to step"
    return both(name, spent) | {
        f"{name}, steps: median": quantile(steps, 0.5),
        f"{name}, steps: worst": max(steps),
    }


def both(name: str, seconds: list[float]) -> Found:
    """The median and the 99th percentile, in microseconds."""
    return {
        f"{name}: median": quantile(seconds, 0.5) * 1e6,
        f"{name}: 99th percentile": quantile(seconds, 0.99) * 1e6,
    }


def measure(built: Built, batch: int, steps: int, controls: int, options: Any) -> Table:
    """All rounds of one size, after one that isn't counted."""
    trainer = fitbus.Trainer(built.task, built.params)
    data = {"x": built.x, "y": built.y, "batch_size": batch, "shuffle": False}
    seconds = bare(built, batch, steps)
    table: Table = {}
    for counted in range(-1, options.pairs):
        found = {"bare, a step": seconds() * 1e3}

        async def main() -> Found:
            return {
                **await to_handler(trainer, data, steps),
                **await there_and_back(trainer, data, steps),
                **await to_step(trainer, data, controls),
                **await idle_there_and_back(steps),
            }

        found |= run_on(options.loop, main)
        for name, value in found.items() if counted >= 0 else ():
            table.setdefault(name, []).append(value)
    return table


def row(name: str, values: list[float], size: str) -> Row:
    """A row with its unit, and its budget where it has one."""
    unit = "ms" if name.startswith("bare") else "steps" if ", steps" in name else "us"
    budget = 150.0 if name.startswith("there and back") and name.endswith("median") else None
    if name == "event to handler: median" and size in ("1 ms", "5 ms"):
        budget = 500.0
    return Row.of(name, values, unit, budget)


def main() -> None:
    """Measures all sizes."""
    arguments = parser(__doc__)
    sizes = ["0.1 ms", "1 ms", "5 ms"]
    arguments.add_argument("--size", choices=sizes, action="append")
    options = arguments.parse_args()
    chosen = options.size or sizes
    if options.smoke:
        options.pairs, chosen = 1, ["0.1 ms"]
    for size in chosen:
        width, batch, steps = SIZES[size]
        steps, controls = (100, 10) if options.smoke else (max(steps, 200), 100)
        built = build(width, batch, steps)
        table = measure(built, batch, steps, controls, options)
        rows = [row(name, values, size) for name, values in table.items()]
        show(f"latency at steps of about {size}", rows, options)
        if options.smoke:
            # At most 64 steps are in flight; ten times that, and a loaded machine, is no defect.
            check(rows, {"control to step, steps": (0, 5000)})


if __name__ == "__main__":
    main()
