"""Shows all of it at once: a training on real handwritten digits, watched, steered and stopped.

Training computes in its own thread. In the event loop there run beside it, none waiting for
another: a live progress bar, a handler that prints a line an epoch, one that reads every batch, a
task that lowers the learning rate, and a heartbeat that measures how late the loop is. Only one
handler is waited for: the one that decides when to stop.

    python -m fitbus demo

With `--serve` a page shows the run, and steers it.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import importlib.util
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import anyio
import jax

import fitbus
from fitbus.examples._demo_page import Page, page_of
from fitbus.examples._digits import digits, digits_trainer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

REQUIRED_ACCURACY = 0.95
LEARNING_RATE, LOWERED = 1e-4, 2e-5
PERIOD_S = 0.005
MODULES = {"rich": "rich", "sklearn": "scikit-learn"}
SERVES = ("starlette", "uvicorn", "websockets", "prometheus_client")


class Watcher:
    """Reads every batch, concurrently: training goes on meanwhile.

    Attributes:
        first: The first batch; what was compiled was compiled before it.
        last: The last one.
    """

    def __init__(self) -> None:
        self.first: fitbus.BatchEnd | None = None
        self.last: fitbus.BatchEnd | None = None

    async def __call__(self, event: fitbus.BatchEnd) -> None:
        """Keeps the ends, from which the speed is told."""
        self.first = self.first or event
        self.last = event

    @property
    def speed(self) -> float:
        """Steps a second from the first to the last, validation included."""
        if self.first is None or self.last is None or self.last.time <= self.first.time:
            return 0.0
        return (self.last.step - self.first.step) / (self.last.time - self.first.time)


class Referee:
    """Stops training when the held-out images are recognised no better for some epochs.

    Its handler is `async def` and for the end of an epoch, so training waits for what it returns.

    Args:
        patience: How many epochs.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best = 0.0
        self.since = 0

    async def __call__(self, event: fitbus.EpochEnd) -> fitbus.StopTraining | None:
        """Decides, at the end of an epoch."""
        found = event.logs["val_accuracy"]
        self.since = 0 if found > self.best else self.since + 1
        self.best = max(self.best, found)
        if self.since < self.patience:
            return None
        return fitbus.StopTraining(f"no better on held-out images for {self.patience} epochs")


class Heartbeat:
    """Wants a turn in the event loop every 5 ms.

    Attributes:
        lags: How late it got each, in seconds.
    """

    def __init__(self) -> None:
        self.lags: list[float] = []

    async def run(self) -> None:
        """Beats until it is cancelled."""
        while True:
            due = anyio.current_time() + PERIOD_S
            await anyio.sleep_until(due)
            self.lags.append(anyio.current_time() - due)


async def lower_learning_rate(run: fitbus.Run[Any], console: Console) -> None:
    """Steers from outside, as a request to a service would: training goes on until it acts."""
    try:
        seen = await run.wait_for(
            fitbus.BatchEnd, where=lambda event: event.batch > 20 and event.logs["loss"] < 0.1
        )
        console.print(
            f"[yellow]controller[/]  step {seen.step:>5,}  asks to lower the learning rate,"
            f" from {LEARNING_RATE:g} to {LOWERED:g}"
        )
        asked = anyio.current_time()
        applied = await run.send(fitbus.SetLearningRate(LOWERED), source="controller")
        late_s = anyio.current_time() - asked
    except fitbus.FitbusError as error:
        console.print(f"[yellow]controller[/]  left the learning rate alone: {error}")
        return
    console.print(
        f"[yellow]controller[/]  step {applied.step:>5,}  acknowledged, {late_s * 1000:.1f} ms"
        " after it was sent"
    )


async def show(console: Console, options: argparse.Namespace) -> int:
    """Trains, with everything beside it; then tells how it went. Returns the exit status."""
    async with contextlib.AsyncExitStack() as stack:
        runs = await stack.enter_async_context(fitbus.Runs())
        page = None
        if options.serve:
            page = await stack.enter_async_context(page_of(runs, options.port))
        status = await train(console, runs, page, options)
        if page and not options.quick:
            console.print("The page stays; Ctrl-C ends it.")
            await anyio.sleep_forever()
        return status


async def train(
    console: Console, runs: fitbus.Runs, page: Page | None, options: argparse.Namespace
) -> int:
    """Trains; the run can be seen on the page, if there is one."""
    data = digits()
    trainer = digits_trainer(LEARNING_RATE)
    console.print(
        f"A small network learns handwritten digits: {len(data.train[0]):,} images to train,"
        f" {len(data.held_out[0])} held out,\n{len(data.test[0])} for a test at the end."
        f" JAX {jax.__version__} on {jax.devices()[0].device_kind}.\n"
    )
    # A full garbage collection holds every thread; without this, it would search for 0.1 s what the
    # imports have left. A service can do the same before it starts to serve.
    gc.freeze()
    watcher, heartbeat = Watcher(), Heartbeat()
    run = runs.start(
        trainer,
        *data.train,
        batch_size=8,
        epochs=60 if options.quick else 200,
        validation_data=data.held_out,
        callbacks=[fitbus.callbacks.ProgressBar(leave=False, console=console)],
    )

    # `wait=False`: an `async def` for the end of an epoch would otherwise be waited for.
    @run.on(fitbus.EpochEnd, wait=False, name="report")
    async def report(event: fitbus.EpochEnd) -> None:
        logs = event.logs
        console.print(
            f"[green]report[/]      step {event.step:>5,}  epoch {event.epoch + 1:>2}"
            f"  loss {logs['loss']:.4f}  accuracy {logs['accuracy']:.3f}"
            f"  held out {logs['val_accuracy']:.3f}"
        )

    run.add(watcher, fitbus.BatchEnd, name="watcher")
    run.add(Referee(5 if options.quick else 15), fitbus.EpochEnd, name="referee")
    if page:
        url = f"{page.url}#run={run.id}"
        console.print(f"Watch it at {url}\nand steer it with the token {page.token}\n")
        if options.open:
            webbrowser.open(url)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lower_learning_rate, run, console)
        await run.wait_for(fitbus.BatchEnd)  # compiled: from here on it trains
        tasks.start_soon(heartbeat.run)
        await run.wait()
        tasks.cancel_scope.cancel()
    why = run.stop_reason or "all epochs are done"
    console.print(f"[magenta]referee[/]     training {run.status}: {why}.\n")
    logs = await trainer.evaluate(*data.test)
    console.print(results(logs, watcher.speed, heartbeat.lags), costs(run))
    if logs["accuracy"] >= REQUIRED_ACCURACY:
        return 0
    console.print(f"[red]The test accuracy should be at least {REQUIRED_ACCURACY}.[/]")
    return 1


def results(logs: Mapping[str, float], speed: float, lags: Sequence[float]) -> RenderableType:
    """A table of what came of it."""
    from rich.table import Table

    table = Table(show_header=False, title="The result", title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    table.add_row("test accuracy", f"{logs['accuracy']:.4f}")
    table.add_row("steps a second, validation included", f"{speed:,.0f}")
    ranked = sorted(lags)
    for name, place in (("median", 0.5), ("99th percentile", 0.99), ("max", 1.0)):
        late_s = ranked[min(int(len(ranked) * place), len(ranked) - 1)]
        table.add_row(f"event loop's lag while training, {name}", f"{late_s * 1000:.1f} ms")
    return table


def costs(run: fitbus.Run[Any]) -> RenderableType:
    """A table of what each subscriber received and cost; the streams of two `wait_for` aside."""
    from rich.table import Table

    table = Table(title="What each subscriber received and cost", title_justify="left")
    table.add_column("subscriber")
    for name in ("events", "lost", "its time", "an event", "training waited"):
        table.add_column(name, justify="right")
    assert run.report is not None
    for entry in run.report.subscribers:
        if entry.name.startswith("stream"):
            continue
        table.add_row(
            entry.name,
            f"{entry.delivered:,}",
            f"{entry.dropped + entry.undelivered:,}",
            f"{entry.seconds * 1e3:,.1f} ms",
            f"{entry.seconds / max(1, entry.delivered) * 1e6:,.0f} µs",
            f"{entry.held_s * 1e3:,.1f} ms",
        )
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs it; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fitbus demo", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="stop sooner")
    parser.add_argument("--loop", choices=("asyncio", "uvloop", "trio"), default="asyncio")
    parser.add_argument("--serve", action="store_true", help="show it on a page, too")
    parser.add_argument("--port", type=int, default=0, help="the page's (0: a free one)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    options = parser.parse_args(arguments)
    if options.serve and options.loop == "trio":
        parser.error("--serve: uvicorn, which serves the page, runs on asyncio and uvloop only")
    wanted = MODULES | ({} if options.loop == "asyncio" else {options.loop: options.loop})
    wanted |= dict(zip(SERVES, SERVES, strict=True)) if options.serve else {}
    missing = [name for module, name in wanted.items() if importlib.util.find_spec(module) is None]
    if missing:
        extras = '"fitbus[demo,service]"' if options.serve else '"fitbus[demo]"'
        extra = options.loop if missing == [options.loop] else extras
        print(f"The demo needs {' and '.join(missing)}: pip install {extra}", file=sys.stderr)
        return 1
    from rich.console import Console

    name, loop = ("trio", {}) if options.loop == "trio" else ("asyncio", {})
    if options.loop == "uvloop":
        loop["use_uvloop"] = True
    try:
        return anyio.run(
            functools.partial(show, Console(), options), backend=name, backend_options=loop
        )
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
