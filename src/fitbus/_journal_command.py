"""`python -m fitbus journal`: lists, filters and exports a journal."""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import msgspec

from fitbus.errors import FitbusError
from fitbus.events import Codec, ControlApplied, ControlRejected, Event, UnknownEvent
from fitbus.journal import read

__all__ = ["main"]

_ENVELOPE = ("run", "seq", "time", "step", "epoch")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs it; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        events = _wanted(options)
        if options.jsonl:
            codec = Codec()
            for event in events:
                sys.stdout.write(f"{codec.to_json(event).decode()}\n")
        elif options.csv:
            _write_csv(lambda: (e for e in _wanted(options) if isinstance(_logs(e), dict)))
        else:
            for event in events:
                sys.stdout.write(f"{_line(event)}\n")
        sys.stdout.flush()
    except BrokenPipeError:  # `| head`: the rest is wanted by nobody, nor a word at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (FitbusError, OSError) as mistake:
        sys.stderr.write(f"python -m fitbus journal: {mistake}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fitbus journal",
        description="Lists what fitbus.callbacks.Journal wrote, a line for each event.",
    )
    parser.add_argument("path", help="the journal's directory, or one of its files")
    parser.add_argument(
        "--type", action="append", metavar="NAME", help="only events of this type (may be repeated)"
    )
    parser.add_argument("--run", metavar="ID", help="only the run of this id")
    parser.add_argument("--from-step", type=int, metavar="N", help="only from this step on")
    parser.add_argument("--to-step", type=int, metavar="N", help="only up to this step")
    parser.add_argument(
        "--controls", action="store_true", help="only controls, applied and rejected"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--jsonl", action="store_true", help="a line of JSON for each event")
    form.add_argument("--csv", action="store_true", help="a table of the logs, of those that have")
    return parser


def _wanted(options: argparse.Namespace) -> Iterator[Event]:
    return (e for e in read(options.path, run=options.run) if _is_wanted(e, options))


def _is_wanted(event: Event, options: argparse.Namespace) -> bool:
    if options.controls and not isinstance(event, ControlApplied | ControlRejected):
        return False
    if options.from_step is not None and event.step < options.from_step:
        return False
    if options.to_step is not None and event.step > options.to_step:
        return False
    return not options.type or _name(event) in options.type


def _name(event: Event) -> str:
    return event.tag if isinstance(event, UnknownEvent) else type(event).__name__


def _line(event: Event) -> str:
    when = datetime.fromtimestamp(event.time, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    own = event.fields if isinstance(event, UnknownEvent) else msgspec.structs.asdict(event)
    fields = " ".join(
        f"{name}={_shown(value)}"
        for name, value in own.items()
        if name not in _ENVELOPE and value not in (None, "", {})
    )
    head = f"{event.run} {event.seq:>7} {when} step {event.step} epoch {event.epoch}"
    return f"{head}  {_name(event)} {fields}".rstrip()


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_shown(item)}" for name, item in value.items()) + "}"
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


def _write_csv(rows: Callable[[], Iterator[Event]]) -> None:
    """A row for each event with logs; a column for each name of them, of the whole journal.

    The journal is read twice, which takes memory for one row. One that is being written has grown
    meanwhile; that is left out, as there may be no columns for it.
    """
    count = 0
    names: set[str] = set()
    for event in rows():
        count += 1
        names.update(_logs(event))
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["type", *_ENVELOPE, *sorted(names)])
    for event in islice(rows(), count):
        logs = _logs(event)
        envelope = [getattr(event, name) for name in _ENVELOPE]
        table.writerow([_name(event), *envelope, *(logs.get(name, "") for name in sorted(names))])


def _logs(event: Event) -> Any:
    return getattr(event, "logs", None)
