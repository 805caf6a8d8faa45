"""Pairs, interleaved: what all benchmarks measure and print with."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Row", "interleaved", "parser", "run_on", "show"]


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: What was measured.
        median: The median: of ratios, or of times.
        low: The first quartile.
        high: The third quartile.
        unit: `"x"` for ratios, or a unit of time.
        budget: The most that is allowed; None where there is no budget.
        at_least: The least that is allowed, where more is better; None where there is none.
    """

    name: str
    median: float
    low: float
    high: float
    unit: str
    budget: float | None = None
    at_least: float | None = None

    @classmethod
    def of(cls, name: str, values: Sequence[float], unit: str, budget: float | None = None) -> Row:
        """Makes a row of measured values."""
        if len(values) == 1:
            return cls(name, values[0], values[0], values[0], unit, budget)
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(name, median, low, high, unit, budget)


def interleaved(cases: dict[str, Callable[[], float]], pairs: int) -> dict[str, list[float]]:
    """Calls each case in turn, round after round, so that a machine's drift hits all alike.

    Args:
        cases: By name, a function that returns seconds.
        pairs: How many rounds; one more runs first and isn't counted.

    Returns:
        The seconds of each case, by round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for counted in range(-1, pairs):
        names = list(cases)
        for name in names if counted % 2 else reversed(names):
            found = cases[name]()
            if counted >= 0:
                seconds[name].append(found)
    return seconds


def ratios(seconds: dict[str, list[float]], case: str, base: str) -> list[float]:
    """The ratio of two cases, round by round."""
    return [a / b for a, b in zip(seconds[case], seconds[base], strict=True)]


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--pairs", type=int, default=9, help="rounds (at least 7 to be quoted)")
    options.add_argument("--json", action="store_true", help="one JSON line a row")
    options.add_argument("--smoke", action="store_true", help="a few seconds: only whether it runs")
    options.add_argument("--loop", choices=["asyncio", "uvloop", "trio"], default="asyncio")
    return options


def run_on(loop: str, main: Callable[[], Any]) -> Any:
    """Runs a coroutine function on an event loop."""
    import anyio

    backend = "trio" if loop == "trio" else "asyncio"
    return anyio.run(
        main, backend=backend, backend_options={"use_uvloop": True} if loop == "uvloop" else {}
    )


def show(title: str, rows: Sequence[Row], options: argparse.Namespace) -> None:
    """Prints rows as a table, or as JSON lines."""
    if options.json:
        for row in rows:
            print(json.dumps({"table": title, "loop": options.loop, **row.__dict__}))
        return
    print(f"\n{title} ({options.loop}, {options.pairs} rounds, Python {platform.python_version()})")
    width = max(len(row.name) for row in rows)
    for row in rows:
        budget = "" if row.budget is None else f"   budget {row.budget:g}"
        budget += "" if row.at_least is None else f"   at least {row.at_least:g}"
        print(
            f"  {row.name:{width}}  {row.median:9.3f} {row.unit:2}"
            f"  [{row.low:.3f} to {row.high:.3f}]{budget}"
        )
