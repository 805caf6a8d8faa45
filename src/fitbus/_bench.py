"""`python -m fitbus bench`: what callbacks of the user's own add to a training step."""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fitbus._specs import Maker, MistakeError, maker
from fitbus.errors import InvalidArgumentError

if TYPE_CHECKING:
    from fitbus.testing import Overhead

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs it; returns the exit status."""
    options = _parser().parse_args(arguments)
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        _bench(options)
    except (MistakeError, InvalidArgumentError) as mistake:
        sys.stderr.write(f"python -m fitbus bench: {mistake}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    return 0


def _bench(options: argparse.Namespace) -> None:
    if options.loop != "asyncio" and importlib.util.find_spec(options.loop) is None:
        raise MistakeError(f"--loop {options.loop}: not installed; pip install {options.loop}")
    named = [(spec, maker(spec)) for spec in options.specs]
    if not options.each:
        together = [make for _, make in named]
        named = [(", ".join(options.specs), lambda: [make() for make in together])]
    for number, (name, make) in enumerate(named):
        with contextlib.redirect_stdout(sys.stderr):  # what the callbacks print
            found = _measured(name, make, options)
        between = "\n\n" if number and not options.json else ""
        sys.stdout.write(f"{between}{found.to_json() if options.json else found}\n")
        sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fitbus bench",
        description="Measures what callbacks and handlers add to a training step, on this machine.",
    )
    parser.add_argument(
        "specs",
        nargs="+",
        metavar="MODULE:NAME",
        help="a Callback class or object, a handler, a list of them, or a function that returns"
        " them; also path/to/file.py:NAME. Several are measured together",
    )
    parser.add_argument("--each", action="store_true", help="measure them one by one")
    parser.add_argument(
        "--step-ms", type=_numbers, default="0.1,1,10", help="how long steps take (0.1,1,10)"
    )
    parser.add_argument("--pairs", type=_whole, default=7, help="with and without, so often (7)")
    parser.add_argument(
        "--train-s", type=_number, default=0.25, help="seconds of each training (0.25)"
    )
    parser.add_argument("--loop", choices=("asyncio", "uvloop", "trio"), default="asyncio")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each step time")
    return parser


def _measured(name: str, make: Maker, options: argparse.Namespace) -> Overhead:
    import anyio

    from fitbus.testing import measure_overhead

    measure = functools.partial(
        measure_overhead,
        make,
        step_s=[milliseconds / 1e3 for milliseconds in options.step_ms],
        pairs=options.pairs,
        train_s=options.train_s,
        name=name,
    )
    return anyio.run(
        measure,
        backend="trio" if options.loop == "trio" else "asyncio",
        backend_options={"use_uvloop": True} if options.loop == "uvloop" else {},
    )


def _numbers(text: str) -> list[float]:
    return [_number(part) for part in text.split(",")]


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)
