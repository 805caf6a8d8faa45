"""Every budget in one table: runs the other scripts, and judges the rows that have a budget.

    python benchmarks/budgets.py --json figures.jsonl --write benchmarks/README.md

Each script runs in a process of its own, one after the other; those whose figures depend on the
event loop run on each (`--loop`, several times; all three unless given). It takes the better part
of an hour: leave the machine alone meanwhile. A script that fails is told, and its budgets are in
the table as not measured. What is stored by `--json` are the rows of all scripts, a JSON line
each, for `plots.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["BEGIN", "END", "Asked", "run", "table", "write"]

LOOPS = ["asyncio", "uvloop", "trio"]
# By script, whether the event loop matters.
SCRIPTS = {
    "overhead": True,
    "bus": True,
    "latency": True,
    "loop_lag": True,
    "scale": False,
    "memory": False,
    "peers": False,
    "facts": False,
}
UNITS = {"x": "", "us": "µs"}
BEGIN, END = "<!-- budgets.py writes from here -->", "<!-- to here -->"


@dataclass(frozen=True)
class Asked:
    """What has a budget.

    Attributes:
        what: In words.
        script: Which script measures it.
        rows: A pattern for the names of its rows.
        aim: Where it should be, where that is more than the budget asks.
    """

    what: str
    script: str
    rows: str
    aim: float | None = None


ASKED = [
    Asked("`fit` with no subscriber ÷ bare", "overhead", r"no subscriber", 0.95),
    Asked("10 concurrent subscribers ÷ bare", "overhead", r"10 concurrent / ", 1.0),
    Asked("one of the 10 asleep ÷ none asleep", "overhead", r"10 concurrent, one asleep"),
    Asked("10 waiting handlers ÷ bare that reads the loss", "overhead", r"10 waiting"),
    Asked("Keras, 10 callbacks ÷ fitbus, 10 subscribers", "peers", r"Keras, 10 callbacks"),
    Asked("publish, a burst", "bus", r"publish, a burst"),
    Asked("publish, waking an idle loop", "bus", r"publish, waking"),
    Asked("publish, nobody subscribed", "bus", r"(skip|publish), nobody"),
    Asked("delivery to a concurrent subscriber", "bus", r"deliver"),
    Asked("event to handler, median", "latency", r".*event to handler"),
    Asked("to a waiting async handler and back", "bus", r"wait for an async handler"),
    Asked("event-loop lag while training, 99th percentile", "loop_lag", r".*"),
    Asked("reads of the device a batch, no subscriber to batches", "facts", r"reads a batch"),
    Asked("compilations of the step in a fit", "facts", r"compilations"),
    Asked("`import fitbus`", "facts", r"import"),
    Asked("modules of JAX that `import fitbus` loads", "facts", r"modules"),
    Asked("memory after many batches, a stuck subscriber", "memory", r".*"),
]

Rows = list[dict[str, Any]]


def run(script: str, arguments: Sequence[str]) -> Rows | None:
    """The rows that a script prints; None, and a word about it, if it fails."""
    path = Path(__file__).with_name(f"{script}.py")
    print(f"-- {script} {' '.join(arguments)}", file=sys.stderr, flush=True)
    ended = subprocess.run(  # noqa: S603  # scripts of this folder
        [sys.executable, str(path), "--json", *arguments],
        check=False,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    if ended.returncode:
        print(f"-- {script} FAILED with status {ended.returncode}", file=sys.stderr, flush=True)
        return None
    lines = [line for line in ended.stdout.splitlines() if line.startswith("{")]
    return [{"script": script, **json.loads(line)} for line in lines]


def budgeted(row: dict[str, Any]) -> bool:
    """Whether a row has a budget of either kind."""
    return row.get("budget") is not None or row.get("at_least") is not None


def verdict(row: dict[str, Any], aim: float | None) -> str:
    """Met or not, and by how much not."""
    median, most, least = row["median"], row.get("budget"), row.get("at_least")
    if least is not None and median < least:
        return f"no: {1 - median / least:.0%} too little"
    if most is not None and median > most:
        return f"no: {median / most - 1:.0%} over" if most else f"no: {median:.3g} too many"
    return "yes, and the aim" if aim is not None and median <= aim else "yes"


def place(row: dict[str, Any], rows: Rows) -> str:
    """Of which step, or in which table, where a budget has several rows."""
    for other in rows:
        same = other["table"] == row["table"] and other["loop"] == row["loop"]
        if same and other["name"] == "bare, a step":
            return f"a step of {other['median']:.2g} ms"
    return str(row["name"])


def line(what: str, row: dict[str, Any], rows: Rows, aim: float | None) -> str:
    """A row of the table."""
    most, least, unit = row.get("budget"), row.get("at_least"), row["unit"]
    limit = f"≤ {most:g}" if least is None else f"≥ {least:g}"
    cells = [
        what if (where := place(row, rows)) == row["name"] else f"{what}, {where}",
        row["loop"] if SCRIPTS.get(row["script"]) else "",
        f"{limit} {UNITS.get(unit, unit)}".rstrip(),
        "" if aim is None else f"≤ {aim:g}",
        f"{row['median']:.3g}",
        f"{row['low']:.3g} to {row['high']:.3g}",
        verdict(row, aim),
        f"`{row['script']}.py`",
    ]
    return f"| {' | '.join(cells)} |"


def table(rows: Rows, asked: Iterable[Asked] = ASKED) -> str:
    """Markdown: what was asked for, in its order; then whatever else has a budget."""
    left = [row for row in rows if budgeted(row)]
    lines = [
        "| what | loop | budget | aim | median | quartiles | met | script |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in asked:
        found = [r for r in left if r["script"] == each.script and re.match(each.rows, r["name"])]
        several = len({row["name"] for row in found}) > 1
        for row in found:
            what = f"{each.what}: {row['name']}" if several else each.what
            lines.append(line(what, row, rows, each.aim))
        left = [row for row in left if row not in found]
        if not found:
            lines.append(f"| {each.what} | | | | | | not measured | `{each.script}.py` |")
    lines += [line(f"{row['table']}: {row['name']}", row, rows, None) for row in left]
    return "\n".join(lines)


def machine() -> str:
    """What the figures hold for."""
    return (
        f"{os.cpu_count()} CPU cores ({platform.machine()}), {platform.system()}, "
        f"Python {platform.python_version()}, jax {version('jax')}"
    )


def write(path: Path, text: str) -> None:
    """Puts text between the two markers of a file."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path}: found no {BEGIN!r} with {END!r} after it; write both")
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Runs them, and prints the table."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--loop", choices=LOOPS, action="append")
    options.add_argument("--script", choices=list(SCRIPTS), action="append", help="only these")
    options.add_argument("--pairs", type=int, default=9, help="rounds (at least 7 to be quoted)")
    options.add_argument("--peer", action="append", default=[], help="as for peers.py")
    options.add_argument("--smoke", action="store_true", help="only whether all of them run")
    options.add_argument("--json", type=Path, metavar="FILE", help="stores the rows of all scripts")
    options.add_argument("--write", type=Path, metavar="FILE", help="fills in the table there")
    given = options.parse_args()
    if given.smoke and given.write:
        options.error("--write is for real figures: leave out --smoke")
    given.pairs = 1 if given.smoke else given.pairs
    loops = given.loop or (LOOPS[:1] if given.smoke else LOOPS)
    rows: Rows = []
    failed: list[str] = []
    for script in given.script or SCRIPTS:
        for loop in loops if SCRIPTS[script] else loops[:1]:
            arguments = ["--loop", loop, "--pairs", str(given.pairs)]
            arguments += ["--smoke"] if given.smoke else []
            if script == "peers":
                arguments += [f"--peer={peer}" for peer in given.peer]
            found = run(script, arguments)
            rows += found or []
            failed += [f"{script} on {loop}"] if found is None else []
    if given.json:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        given.json.write_text("".join(lines), encoding="utf-8")
    text = f"{table(rows)}\n\n{machine()}; {given.pairs} rounds."
    print(text)
    if given.write:
        write(given.write, text)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
