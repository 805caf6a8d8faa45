"""What isn't a matter of speed in the loop: the import, what is compiled, what is read back.

- The import: fresh interpreters that import fitbus, less fresh ones that import nothing, in pairs.
- Compilations: how often JAX compiled the step that trains, by what it tells of itself
  (`jax.monitoring`), in a first fit with a short last batch and five `SetLearningRate`.
- Reads: calls in the training thread that bring a value from the device to the host, counted by a
  profile function. What an epoch of 200 batches has more than one of 20 is the batches' own; the
  one read that makes the logs of the epoch isn't. The same count with a subscriber to every batch
  shows that reads are seen where there are some.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import jax
import numpy as np
import optax
from _harness import Row, interleaved, parser, show

import fitbus

READS = {
    "__array__",
    "__float__",
    "_value",
    "block_until_ready",
    "copy_to_host_async",
    "device_get",
    "item",
    "tolist",
}


def problem() -> tuple[fitbus.Supervised, Any, Any, Any]:
    """A small task, its parameters, and 200 batches of 32."""
    x = np.random.default_rng(0).standard_normal((200 * 32, 4), np.float32)
    task = fitbus.Supervised(
        apply=lambda params, x: x @ params["w"],
        loss=optax.squared_error,
        optimizer=optax.sgd,
        learning_rate=0.01,
    )
    return task, {"w": np.zeros(4, np.float32)}, x, x.sum(1)


def started(program: str) -> float:
    """Seconds of a fresh interpreter."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)  # noqa: S603  # written here
    return time.perf_counter() - begun


def imports(pairs: int) -> list[Row]:
    """Seconds, and what of JAX is loaded."""
    seconds = interleaved(
        {"with": lambda: started("import fitbus"), "without": lambda: started("pass")}, pairs
    )
    program = "import fitbus, sys; print(sum(n.partition('.')[0] == 'jax' for n in sys.modules))"
    loaded = subprocess.run(  # noqa: S603  # written here
        [sys.executable, "-c", program], check=True, capture_output=True
    )
    spent = [a - b for a, b in zip(seconds["with"], seconds["without"], strict=True)]
    return [
        Row.of("import fitbus", spent, "s", 0.15),
        Row.of("modules of JAX that it loads", [float(loaded.stdout)], "", 0.0),
    ]


def compilations() -> float:
    """How often the step was compiled; named `jit(step)` by JAX, and seen at least once."""
    names: list[str] = []

    def listen(event: str, duration_secs: float, **about: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(str(about.get("fun_name")))

    def steer(event: fitbus.BatchEnd) -> fitbus.SetLearningRate | None:
        early = event.epoch == 0 and event.batch < 5
        return fitbus.SetLearningRate(0.01 / (event.batch + 1)) if early else None

    applied: list[fitbus.ControlApplied] = []

    def note(event: fitbus.ControlApplied) -> None:
        applied.append(event)

    task, params, x, y = problem()
    trainer = fitbus.Trainer(task, params)
    jax.monitoring.register_event_duration_secs_listener(listen)
    trainer.fit_sync(x[:199], y[:199], epochs=2, callbacks=[steer, note])
    jax.monitoring.unregister_event_duration_listener(listen)
    count = names.count("jit(step)")
    if len(applied) != 5 or not count:
        raise SystemExit(f"applied {len(applied)} of 5 controls, and compiled {names}")
    return float(count)


def reads(trainer: fitbus.Trainer, x: Any, y: Any, batches: int, callbacks: list[Any]) -> int:
    """Calls that bring values to the host, in a fit of one epoch of so many batches."""
    count = 0

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal count
        if event == "c_call":
            count += arg.__name__ in READS
        elif event == "call" and "jax" in frame.f_code.co_filename:
            count += frame.f_code.co_name in READS

    threading.setprofile(profile)  # of threads that start from now on: training has its own
    try:
        trainer.fit_sync(x, y, shuffle=False, steps_per_epoch=batches, callbacks=callbacks)
    finally:
        threading.setprofile(None)
    return count


def reads_a_batch(make: Callable[[], list[Any]]) -> float:
    """The slope: what each batch adds."""
    task, params, x, y = problem()
    trainer = fitbus.Trainer(task, params)
    trainer.fit_sync(x, y, shuffle=False, steps_per_epoch=2, callbacks=make())  # compiles
    few, many = (reads(trainer, x, y, batches, make()) for batches in (20, 200))
    return (many - few) / 180


def main() -> None:
    """Measures all of them."""
    options = parser(__doc__).parse_args()
    if options.smoke:
        options.pairs = 1

    async def read(event: fitbus.BatchEnd) -> None:
        pass

    listened = reads_a_batch(lambda: [read])
    if listened < 0.5:
        raise SystemExit(f"only {listened} reads a batch were seen with a subscriber: who reads?")
    rows = [
        *imports(options.pairs),
        Row.of("compilations of the step in a fit", [compilations()], "", 1.0),
        Row.of("reads a batch, no subscriber to batches", [reads_a_batch(list)], "", 0.0),
        Row.of("reads a batch, one subscriber", [listened], ""),
    ]
    show("facts", rows, options)


if __name__ == "__main__":
    main()
