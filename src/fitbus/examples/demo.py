"""A watched, steered and early-stopped training on real handwritten digits (extra `demo`)."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import anyio
import jax
import jax.numpy as jnp
import numpy as np
import optax

import fitbus
from fitbus import BatchEnd, EpochEnd, SetLearningRate, StopTraining

REQUIRED_ACCURACY = 0.95
_NEEDS = 'The demo needs scikit-learn and rich; install them with `pip install "fitbus[demo]"`.'


def digits() -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """The digits that scikit-learn ships: 1,797 images of 8 by 8, split for training and test."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        (images / 16).astype(np.float32),
        labels.astype(np.int32),
        test_size=0.2,
        stratify=labels,
        random_state=0,
    )
    return (x_train, y_train), (x_test, y_test)


def network(key: Any, sizes: Sequence[int] = (64, 128, 64, 10)) -> list[dict[str, Any]]:
    """The parameters of a small network: a weight and a bias for each layer."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        {
            "w": jax.random.normal(key, (inputs, outputs)) * jnp.sqrt(2 / inputs),
            "b": jnp.zeros(outputs),
        }
        for key, inputs, outputs in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def apply(params: list[dict[str, Any]], x: Any) -> Any:
    """Logits of shape (batch, 10) for images of shape (batch, 64)."""
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"]


def accuracy(logits: Any, labels: Any) -> Any:
    """1 for each image that was recognised, else 0."""
    return (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)


async def heartbeat(lags: list[float]) -> None:
    """Measures how late the event loop wakes a task that asked for a millisecond."""
    while True:
        before = time.perf_counter()
        await anyio.sleep(0.001)
        lags.append(time.perf_counter() - before - 0.001)


async def controller(run: fitbus.Run[Any], console: Any, at_epoch: int) -> None:
    """Lowers the learning rate while training runs, as a request to a service would."""
    await run.wait_for(EpochEnd, where=lambda event: event.epoch == at_epoch)
    applied = await run.send(SetLearningRate(5e-4), source="controller")
    console.print(
        f"[cyan]controller[/]: learning rate set to 5e-4, acknowledged at step {applied.step:,}"
    )


async def train(*, quick: bool) -> int:
    """Trains, with everybody watching; returns the exit status."""
    from rich.console import Console

    from fitbus.callbacks import ProgressBar

    console = Console()
    (x_train, y_train), (x_test, y_test) = digits()
    console.print(
        f"{len(x_train):,} images to train on, {len(x_test):,} to test on;"
        f" JAX on {jax.devices()[0].device_kind}"
    )
    trainer = fitbus.Trainer(
        fitbus.Supervised(
            apply=apply,
            loss=optax.softmax_cross_entropy_with_integer_labels,
            optimizer=optax.adam,
            learning_rate=3e-3,
            metrics={"accuracy": accuracy},
        ),
        network(jax.random.key(0)),
    )

    async def reporter(event: EpochEnd) -> None:
        """A concurrent subscriber: training doesn't wait for it."""
        logs = event.logs
        console.print(
            f"[green]reporter[/]: epoch {event.epoch + 1}, loss {logs['loss']:.4f},"
            f" accuracy {logs['accuracy']:.3f}, held out {logs['val_accuracy']:.3f}"
        )

    seen: list[float] = []

    async def observer(event: BatchEnd) -> None:
        """Reads the logs of every batch, on the event loop, while training runs ahead."""
        seen.append(event.logs["loss"])

    async def referee(event: EpochEnd) -> StopTraining | None:
        """Decides on the early stop; training waits for its answer, so the decision is exact."""
        if event.logs["val_accuracy"] >= 0.975 and event.epoch > 10:  # noqa: PLR2004  # the goal
            return StopTraining(f"held-out accuracy is {event.logs['val_accuracy']:.3f}")
        return None

    lags: list[float] = []
    async with anyio.create_task_group() as tasks:
        run = trainer.run(
            x_train,
            y_train,
            batch_size=32,
            epochs=30 if quick else 60,
            validation_split=0.15,
            callbacks=[ProgressBar(console)],
        )
        run.add(reporter, EpochEnd, wait=False, name="reporter")
        run.add(observer, BatchEnd, name="observer")
        run.add(referee, EpochEnd, name="referee")
        async with run:
            tasks.start_soon(controller, run, console, 8)
            await run.wait_for(fitbus.BatchEnd)  # compiled: from here on it is training
            tasks.start_soon(heartbeat, lags)
            started, first = time.perf_counter(), run.statistics().step
            await run.wait()
            seconds, steps = time.perf_counter() - started, run.statistics().step - first
        tasks.cancel_scope.cancel()
    console.print(f"Training {run.status}: {run.stop_reason or 'all epochs are done'}.")
    found = await trainer.evaluate(x_test, y_test)
    _table(console, run, found["accuracy"], steps / seconds, lags)
    if found["accuracy"] < REQUIRED_ACCURACY:
        console.print(f"[red]The test accuracy is below {REQUIRED_ACCURACY}.[/]")
        return 1
    return 0


def _table(
    console: Any, run: fitbus.Run[Any], test_accuracy: float, speed: float, lags: list[float]
) -> None:
    from rich.table import Table

    summary = Table("result", "value", title="What came out")
    summary.add_row("test accuracy", f"{test_accuracy:.4f}")
    summary.add_row("steps a second, validation included", f"{speed:,.0f}")
    if len(lags) > 1:
        ranked = statistics.quantiles(lags, n=100)
        summary.add_row(
            "event loop's lag while training, ms",
            f"median {ranked[49] * 1e3:.2f}, 99th percentile {ranked[98] * 1e3:.2f},"
            f" worst {max(lags) * 1e3:.2f}",
        )
    console.print(summary)
    costs = Table(
        "subscriber", "events", "skipped", "handler, ms", "training waited, ms", title="What it cost"
    )
    report = run.report
    assert report is not None
    for entry in report.subscribers:
        if entry.name.startswith("stream"):
            continue  # the controller's own waits
        costs.add_row(
            entry.name,
            f"{entry.delivered:,}",
            f"{entry.dropped + entry.undelivered:,}",
            f"{entry.seconds * 1e3:.1f}",
            f"{entry.held_s * 1e3:.1f}",
        )
    console.print(costs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m fitbus demo", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="at most 30 epochs")
    parser.add_argument("--loop", choices=["asyncio", "uvloop", "trio"], default="asyncio")
    options = parser.parse_args(arguments)
    try:
        import rich  # noqa: F401  # only looked for
        import sklearn  # noqa: F401  # only looked for
    except ImportError:
        print(_NEEDS, file=sys.stderr)
        return 1
    backend = "trio" if options.loop == "trio" else "asyncio"
    backend_options = {"use_uvloop": True} if options.loop == "uvloop" else {}

    async def demo() -> int:
        return await train(quick=options.quick)

    return anyio.run(demo, backend=backend, backend_options=backend_options)


if __name__ == "__main__":
    sys.exit(main())
