"""`python -m fitbus watch` and `send`: a run of a service, from a terminal."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, final

import anyio

import fitbus.events
from fitbus import client
from fitbus.control import (
    Control,
    Evaluate,
    Pause,
    RestoreCheckpoint,
    Resume,
    SaveCheckpoint,
    ScaleLearningRate,
    SetHyperparameter,
    SetLearningRate,
    StopEpoch,
    StopTraining,
)
from fitbus.errors import ControlRejectedError, FitbusError, InvalidArgumentError
from fitbus.events import (
    BatchEnd,
    Codec,
    ControlApplied,
    ControlRejected,
    EpochEnd,
    Event,
    Lagged,
    TrainBegin,
    TrainEnd,
)

__all__ = ["send", "watch"]

_TOKEN = "FITBUS_TOKEN"  # noqa: S105  # the name of a variable of the environment
_WIDTH, _LINES, _POINTS = 60, 8, 2000
_FINAL = ("completed", "stopped", "cancelled", "failed")
_BLOCKS = "▁▂▃▄▅▆▇█"

_CONTROLS: dict[str, tuple[str, Callable[..., Control], int, int]] = {
    # name: what its arguments are, how it is made, and how many arguments at least and at most
    "stop": ("[REASON]", lambda reason="asked to stop": StopTraining(reason), 0, 1),
    "stop-epoch": ("[REASON]", lambda reason="asked to stop": StopEpoch(reason), 0, 1),
    "pause": ("", Pause, 0, 0),
    "resume": ("", Resume, 0, 0),
    "set-learning-rate": ("VALUE", lambda value: SetLearningRate(float(value)), 1, 1),
    "scale-learning-rate": ("FACTOR", lambda factor: ScaleLearningRate(float(factor)), 1, 1),
    "set-hyperparameter": ("NAME VALUE", lambda n, v: SetHyperparameter(n, float(v)), 2, 2),
    "evaluate": ("", Evaluate, 0, 0),
    "save": ("[TAG]", SaveCheckpoint, 0, 1),
    "restore": ("WHICH", RestoreCheckpoint, 1, 1),
}


def watch(arguments: Sequence[str]) -> int:
    """Shows a run until it ends; 0 if it ended well, 1 if it failed, 2 if it can't be watched."""
    parser = _parser("watch", "Shows a run of a service as it goes on, until its end.")
    parser.add_argument("--json", action="store_true", help="a JSON line for each event")
    parser.add_argument("--types", help="only these, such as EpochEnd,ControlApplied", default="")
    parser.add_argument(
        "--every-s", type=float, default=0.0, metavar="S", help="one of each in S s"
    )
    given = parser.parse_args(arguments)
    kinds: list[type[Event]] = []
    for name in filter(None, given.types.split(",")):
        kind = getattr(fitbus.events, name, None)
        if not (isinstance(kind, type) and issubclass(kind, Event)):
            parser.error(f"--types: found {name!r}; give names of events, such as EpochEnd")
        kinds.append(kind)
    if not given.json and find_spec("rich") is None:
        parser.error("the table needs rich: pip install 'fitbus[demo]'; or give --json")
    show = _show_lines if given.json else _show_table
    return _run(lambda: _watch(given, kinds, show))


def send(arguments: Sequence[str]) -> int:
    """Sends a control; 0 if it acted, 1 if it was rejected, 2 if it can't be sent."""
    width = max(len(f"{name} {needs}") for name, (needs, *_) in _CONTROLS.items())
    listed = [f"  {f'{name} {needs}':{width}}" for name, (needs, *_) in _CONTROLS.items()]
    parser = _parser("send", "Sends a control to a run, and says at which step it acted.")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n".join(["controls:", *(line.rstrip() for line in listed)])
    parser.add_argument("control", choices=list(_CONTROLS), metavar="CONTROL")
    parser.add_argument("arguments", nargs="*", metavar="ARGUMENT")
    parser.add_argument("--timeout", type=float, default=None, metavar="S", help="seconds to wait")
    given = parser.parse_args(arguments)
    needs, make, least, most = _CONTROLS[given.control]
    if not least <= len(given.arguments) <= most:
        parser.error(
            f"{given.control}: found {len(given.arguments)} arguments; give {needs or 'none'}"
        )
    try:
        control = make(*given.arguments)
    except (InvalidArgumentError, ValueError) as error:
        parser.error(f"{given.control}: {error}")
    return _run(lambda: _send(given, control))


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m fitbus {command}", description=description)
    parser.add_argument("url", help="of a run, http://HOST/runs/ID; of a service: its newest run")
    parser.add_argument(
        "--token", default=os.environ.get(_TOKEN), help=f"the service's; default: ${_TOKEN}"
    )
    return parser


def _run(main: Callable[[], Any]) -> int:
    """Runs it; an interrupt by Ctrl-C, and a pipe that nobody reads, end it without a trace."""
    try:
        status: int = anyio.run(main)
    except (FitbusError, TimeoutError) as error:
        sys.stderr.write(f"fitbus: {error}\n")
        return 1 if isinstance(error, ControlRejectedError) else 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to say
        return 0
    return status


async def _send(given: argparse.Namespace, control: Control) -> int:
    async with client.connect(given.url, token=given.token) as run:
        applied = await run.send(control, given.timeout)
    result = "" if applied.result is None else f": {applied.result}"
    name = type(control).__name__
    sys.stdout.write(f"{name} acted at step {applied.step}, epoch {applied.epoch}{result}\n")
    return 0


async def _watch(
    given: argparse.Namespace, kinds: Sequence[type[Event]], show: Callable[..., Any]
) -> int:
    async with client.connect(
        given.url, token=given.token, types=kinds, every_s=given.every_s, after=-1
    ) as run:
        events = run.subscribe(Event, Lagged, after=-1, overflow="drop_oldest", buffer_size=100_000)
        await show(run, events, tuple(kinds))
    return 1 if run.status == "failed" else 0


async def _show_lines(_run: client.RemoteRun, events: Any, kinds: tuple[type[Event], ...]) -> None:
    codec = Codec()
    async with events:
        async for event in events:
            if not kinds or isinstance(event, (*kinds, Lagged)):
                sys.stdout.write(f"{codec.to_json(event).decode()}\n")
                sys.stdout.flush()


async def _show_table(run: client.RemoteRun, events: Any, _kinds: Any) -> None:
    from rich.console import Console
    from rich.live import Live

    view = View(run)
    console = Console()
    live = Live(get_renderable=view.drawn, console=console, refresh_per_second=4)
    async with events:
        if console.is_terminal:
            with live:
                async for event in events:
                    view.take(event)
            return
        async for event in events:  # a file, or a pipe: line by line, and all at the end
            for line in view.take(event):
                sys.stdout.write(f"{line}\n")
                sys.stdout.flush()
        console.print(view.drawn())


@final
class View:
    """What is shown of a run.

    Args:
        run: The run.
    """

    def __init__(self, run: fitbus.RunHandle) -> None:
        self._run = run
        self._losses: list[float] = []
        self._notices: deque[str] = deque(maxlen=_LINES)
        self._epochs = self._batches = 0
        self._epoch = self._batch = 0
        self._logs: Mapping[str, float] = {}

    def take(self, event: Event) -> list[str]:
        """Takes an event in; gives what there is to say of it, a line or none."""
        told: list[str] = []
        match event:
            case TrainBegin():
                self._epochs, self._batches = event.epochs, event.steps_per_epoch or 0
            case BatchEnd():
                self._epoch, self._batch, self._logs = event.epoch, event.batch + 1, event.logs
                self._losses.append(event.batch_logs.get("loss", math.nan))
                if len(self._losses) > _POINTS:
                    self._losses = self._losses[::2]
            case EpochEnd():
                self._logs = event.logs
                logs = "  ".join(f"{name} {value:.4g}" for name, value in event.logs.items())
                told.append(f"epoch {event.epoch}: {logs}")
            case ControlApplied():
                told.append(f"step {event.step}: {event.control} from {event.source}")
            case ControlRejected():
                said = f"{event.control} was rejected: {event.why}"
                told.append(f"step {event.step}: {said}")
            case TrainEnd():
                told.append(f"{event.reason} {event.detail}".strip())
            case Lagged():
                told.append(f"{event.count} events are missing here")
            case _:
                pass
        self._notices += told
        return told

    def drawn(self) -> Any:
        """What is shown now."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        found = self._run.statistics()
        lost = "" if getattr(self._run, "is_connected", True) else ", not connected: trying again"
        if self._run.status in _FINAL:
            lost = ""
        rows = [("run", f"{self._run.id}, {self._run.status}{lost}")]
        rows.append(("epoch", f"{self._epoch}{f' of {self._epochs}' if self._epochs else ''}"))
        of = f" of {self._batches}" if self._batches else ""
        rows.append(("step", f"{found.step}, batch {self._batch}{of} of the epoch"))
        if found.step_s:
            rows.append(("a step takes", f"{found.step_s * 1e3:.3g} ms{self._left(found)}"))
        rows += [(name, f"{value:.5g}") for name, value in self._logs.items()]
        table = Table.grid(padding=(0, 2))
        for name, value in rows:
            table.add_row(Text(name, style="dim"), Text(value))
        curve = Text(f"loss  {sparkline(self._losses, _WIDTH)}", style="cyan", no_wrap=True)
        return Group(table, curve, *(Text(line) for line in self._notices))

    def _left(self, found: fitbus.bus.RunStatistics) -> str:
        left = self._epochs * self._batches - self._epoch * self._batches - self._batch
        if left <= 0 or self._run.status not in ("running", "paused"):
            return ""
        return f", {time.strftime('%H:%M:%S', time.gmtime(left * found.step_s))} left"


def sparkline(values: Sequence[float], width: int) -> str:
    """A line of so many characters, as high as the means of the values in their places.

    >>> sparkline([3.0, 2.0, 1.0], 3)
    '█▅▁'
    """
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return ""
    size = max(1, -(-len(known) // width))
    means = [
        sum(part) / len(part) for i in range(0, len(known), size) if (part := known[i : i + size])
    ]
    low, high = min(means), max(means)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((mean - low) * scale)] for mean in means)
