"""Every budget in one table: runs the other scripts, and judges the rows that have a budget.

    python benchmarks/budgets.py --json figures.jsonl --write benchmarks/README.md --short README.md

Each script runs in a process of its own, one after the other; those whose figures depend on the
event loop run on each (`--loop`, several times; all three unless given). It takes the better part
of an hour: leave the machine alone meanwhile. A script that fails is told, and its budgets are in
the table as not measured. What is stored by `--json` are the rows of all scripts, a JSON line
each, for `plots.py`; rows that are there already, of scripts and loops that don't run now, are
kept, so that one script can be run again. In the table a cell is a median and its quartiles.
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
    "durability": False,
    "service": False,
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
    Asked("publish, nobody subscribed", "bus", r"nobody subscribed"),
    Asked("delivery to a concurrent subscriber", "bus", r"deliver"),
    Asked("event to handler, median", "latency", r"event to handler"),
    Asked("to a waiting async handler and back", "latency", r"there and back"),
    Asked("to a waiting async handler and back", "bus", r"wait for an async handler"),
    Asked("event-loop lag while training, 99th percentile", "loop_lag", r".*"),
    Asked("one more concurrent subscriber, by event", "scale", r"one more"),
    Asked("1,000 subscribers to other types ÷ none", "scale", r"1,000 subscribers"),
    Asked("a batch at the end of many ÷ at their beginning", "scale", r".* batches"),
    Asked("reads of the device a batch, no subscriber to batches", "facts", r"reads a batch"),
    Asked("compilations of the step in a fit", "facts", r"compilations"),
    Asked("`import fitbus`", "facts", r"import"),
    Asked("modules of JAX that `import fitbus` loads", "facts", r"modules"),
    Asked("memory after many batches, a stuck subscriber", "memory", r".*"),
    Asked("a backup each 1,000 steps ÷ none", "durability", r"backup / "),
    Asked("the journal ÷ none", "durability", r"journal"),
    Asked("training held by a backup ÷ by a copy to the host", "durability", r"held"),
    Asked("training with event streams ÷ without", "service", r".* / none"),
    Asked("a request beside event streams, 99th percentile", "service", r".*the request: 99"),
    Asked("event streams that aren't whole", "service", r".*not whole"),
    Asked("a plain request meanwhile, 99th percentile, over idle", "service", r".*over idle"),
]

# The short table: rows of overhead.py, in words.
SHORT = {
    "no subscriber / bare": "no subscriber",
    "1 concurrent / bare": "1 concurrent handler that reads every batch",
    "10 concurrent / bare": "10 of them",
    "10 concurrent, 32 fused / bare": "10 of them, `steps_per_execution=32`",
    "10 waiting / bare, reading the loss": "10 `def` handlers that training waits for",
    "10 tasks, by hand / bare": "by hand: a thread that tells ten tasks of every batch",
    "best by hand / bare": "by hand: the fastest loop that we know, which tells nobody",
}

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


def missed(row: dict[str, Any]) -> str:
    """By how much a budget is missed; nothing if it is met."""
    median, most, least = row["median"], row.get("budget"), row.get("at_least")
    if least is not None and median < least:
        return f"{1 - median / least:.0%} too little"
    if most is not None and median > most:
        return f"{median / most - 1:.0%} over" if most else f"{median:.3g} too many"
    return ""


def verdict(loops: dict[str, dict[str, Any]], aim: float | None) -> str:
    """Met on all loops, or by how much not on which."""
    misses = {loop: miss for loop, row in loops.items() if (miss := missed(row))}
    if misses:
        return "no: " + ", ".join(f"{miss} on {loop}" for loop, miss in misses.items())
    reached = aim is not None and all(row["median"] <= aim for row in loops.values())
    return "yes, and the aim" if reached else "yes"


def place(row: dict[str, Any], rows: Rows) -> str:
    """Of which step, where a budget has several rows for that."""
    for other in rows:
        same = other["script"] == row["script"] and other["table"] == row["table"]
        if same and other["name"] == "bare, a step":
            return f", a step of {other['median']:.2g} ms"
    return ""


def line(what: str, loops: dict[str, dict[str, Any]], rows: Rows, aim: float | None) -> str:
    """A row of the table: what was measured on each loop."""
    row = next(iter(loops.values()))
    most, least, unit = row.get("budget"), row.get("at_least"), UNITS.get(row["unit"], row["unit"])
    limit = f"≤ {most:g}" if least is None else f"≥ {least:g}"
    measured = [
        f"{loops[loop]['median']:.3g} [{loops[loop]['low']:.3g}, {loops[loop]['high']:.3g}]"
        if loop in loops
        else ""
        for loop in LOOPS
    ]
    cells = [
        what + place(row, rows),
        f"{limit} {unit}".rstrip(),
        "" if aim is None else f"≤ {aim:g}",
        *measured,
        verdict(loops, aim),
        f"`{row['script']}.py`",
    ]
    return f"| {' | '.join(cells)} |"


def table(rows: Rows, asked: Iterable[Asked] = ASKED) -> str:
    """Markdown: what was asked for, in its order; then whatever else has a budget."""
    left: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for row in filter(budgeted, rows):
        left.setdefault((row["script"], row["table"], row["name"]), {})[row["loop"]] = row
    lines = [f"| what | budget | aim | {' | '.join(LOOPS)} | met | script |", f"|{'---|' * 8}"]
    for each in asked:
        keys = [k for k in left if k[0] == each.script and re.match(each.rows, k[2])]
        several = len({name for _, _, name in keys}) > 1
        for key in keys:
            what = f"{each.what}: {key[2]}" if several else each.what
            loops = left.pop(key)
            aims = (row.get("aim") for row in loops.values())
            lines.append(line(what, loops, rows, next(filter(None, aims), each.aim)))
        if not keys:
            lines.append(f"| {each.what} {'| ' * 5}| not measured | `{each.script}.py` |")
    lines += [
        line(f"{title}: {name}", loops, rows, None) for (_, title, name), loops in left.items()
    ]
    return "\n".join(lines)


def short(rows: Rows) -> str:
    """Markdown: what `overhead.py` found on the first loop, a column for each size of step."""
    sizes: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        if row["script"] == "overhead" and row["loop"] == LOOPS[0]:
            sizes.setdefault(row["table"], {})[row["name"]] = row
    columns = sorted(sizes.values(), key=lambda size: size["bare, a step"]["median"])
    heads = [f"{column['bare, a step']['median']:.2g} ms" for column in columns]
    lines = [f"| | {' | '.join(heads)} |", f"|{'---|' * (len(columns) + 1)}"]
    for name, words in SHORT.items():
        found = [column.get(name) for column in columns]
        cells = [
            f"{row['median']:.2f} [{row['low']:.2f}, {row['high']:.2f}]" if row else ""
            for row in found
        ]
        lines.append(f"| {words} | {' | '.join(cells)} |")
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
    options.add_argument("--stored", action="store_true", help="runs none: what --json has stored")
    options.add_argument("--write", type=Path, metavar="FILE", help="fills in the table there")
    options.add_argument("--short", type=Path, metavar="FILE", help="fills in a short one there")
    given = options.parse_args()
    if given.smoke and (given.write or given.short):
        options.error("--write and --short are for real figures: leave out --smoke")
    given.pairs = 1 if given.smoke else given.pairs
    loops = given.loop or (LOOPS[:1] if given.smoke else LOOPS)
    rows: Rows = []
    failed: list[str] = []
    ran: set[tuple[str, str]] = set()
    for script in [] if given.stored else given.script or SCRIPTS:
        for loop in loops if SCRIPTS[script] else loops[:1]:
            arguments = ["--loop", loop, "--pairs", str(given.pairs)]
            arguments += ["--smoke"] if given.smoke else []
            if script == "peers":
                arguments += [f"--peer={peer}" for peer in given.peer]
            found = run(script, arguments)
            rows += found or []
            ran.add((script, loop))
            failed += [f"{script} on {loop}"] if found is None else []
    if given.json and given.json.exists() and not given.smoke:
        stored = (json.loads(line) for line in given.json.read_text(encoding="utf-8").splitlines())
        rows += [row for row in stored if (row["script"], row["loop"]) not in ran]
    rows.sort(key=lambda row: list(SCRIPTS).index(row["script"]))
    if given.json:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        given.json.write_text("".join(lines), encoding="utf-8")
    text = f"{table(rows)}\n\n{machine()}; {given.pairs} rounds."
    print(text)
    if given.write:
        write(given.write, text)
    if given.short:
        write(given.short, short(rows))
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
