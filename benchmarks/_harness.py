"""Pairs, interleaved: what all benchmarks measure and print with."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Row",
    "check",
    "interleaved",
    "machine",
    "parser",
    "quantile",
    "ratios",
    "run_on",
    "show",
]

TIMES = {"s", "ms", "us"}
SLACK = 10  # how much wider than the budget a smoke run may be


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: What was measured.
        median: The median: of ratios, or of times.
        low: The first quartile.
        high: The third quartile.
        unit: `"x"` for ratios, a unit of time, or what is counted.
        budget: The most that is allowed; None where there is no budget.
        at_least: The least that is allowed, where more is better; None where there is none.
        aim: Where it should be, where that is better than the budget; None where there is none.
    """

    name: str
    median: float
    low: float
    high: float
    unit: str
    budget: float | None = None
    at_least: float | None = None
    aim: float | None = None

    @classmethod
    def of(
        cls,
        name: str,
        values: Sequence[float],
        unit: str,
        budget: float | None = None,
        *,
        aim: float | None = None,
    ) -> Row:
        """Makes a row of measured values."""
        if len(values) == 1:
            return cls(name, values[0], values[0], values[0], unit, budget, aim=aim)
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(name, median, low, high, unit, budget, aim=aim)

    @property
    def met(self) -> bool | None:
        """Whether the median is within the budget; None where there is no budget."""
        if self.budget is None and self.at_least is None:
            return None
        most = math.inf if self.budget is None else self.budget
        least = -math.inf if self.at_least is None else self.at_least
        return least <= self.median <= most


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


def quantile(values: Sequence[float], q: float) -> float:
    """The value that a share `q` of the values doesn't exceed; 1 gives the largest."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


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


def machine() -> dict[str, Any]:
    """What the figures hold for. JAX is named, with its device, if the script has loaded it."""
    found: dict[str, Any] = {
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
    }
    if "jax" in sys.modules:
        import jax

        found |= {"jax": jax.__version__, "device": jax.devices()[0].device_kind}
    return found


def show(title: str, rows: Sequence[Row], options: argparse.Namespace) -> None:
    """Prints rows as a table, or as JSON lines."""
    about = machine()
    if options.json:
        shared = {"table": title, "loop": options.loop, "rounds": options.pairs, "machine": about}
        for row in rows:
            print(json.dumps({**shared, **row.__dict__, "met": row.met}), flush=True)
        return
    print(f"\n{title} ({options.loop}, {options.pairs} rounds, Python {about['python']})")
    width = max(len(row.name) for row in rows)
    for row in rows:
        judged = "" if row.met is None or options.smoke else "   met   " if row.met else "   MISSED"
        judged += "" if row.budget is None else f" budget {row.budget:g}"
        judged += "" if row.at_least is None else f" at least {row.at_least:g}"
        judged += "" if row.aim is None else f" (aim {row.aim:g})"
        print(
            f"  {row.name:{width}}  {row.median:9.3f} {row.unit:2}"
            f"  [{row.low:.3f} to {row.high:.3f}]{judged}",
            flush=True,
        )


def check(rows: Sequence[Row], bounds: Mapping[str, tuple[float, float]] | None = None) -> None:
    """Ends a smoke run with an error where a figure is badly wrong.

    Ratios and counts may be ten times over their budgets (or a tenth of the least); times aren't
    judged, since the machine may be busy.

    Args:
        rows: What was measured.
        bounds: By the beginning of a row's name, the least and the most for rows without a budget.

    Raises:
        SystemExit: A figure is out of its wide bounds, or isn't a number.
    """
    wrong: list[str] = []
    for row in rows:
        least, most = -math.inf, math.inf
        if row.unit not in TIMES:
            most = most if row.budget is None else row.budget * SLACK
            least = least if row.at_least is None else row.at_least / SLACK
        for beginning, bound in (bounds or {}).items():
            if row.name.startswith(beginning):
                least, most = bound
        if not least <= row.median <= most or math.isnan(row.median):
            wrong.append(f"{row.name}: {row.median:g} {row.unit}, not in {least:g} to {most:g}")
    if wrong:
        raise SystemExit("badly wrong:\n  " + "\n  ".join(wrong))
