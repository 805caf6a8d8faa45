"""Draws the figures of the README as SVG, from what `budgets.py --json` has stored.

    python benchmarks/budgets.py --json figures.jsonl
    python benchmarks/plots.py figures.jsonl benchmarks/figures

`overhead.svg`: what `fit` takes by what a bare loop takes, by the length of a step. `peers.svg`:
a step of each trainer with 0 and with 10 callbacks. Bars and points are medians, whiskers the
quartiles. The same rows give the same files: no date, no machine, no random names. Needs the
extra `plot`.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from budgets import Rows, run

COLOURS = ["#767676", "#1f77b4", "#d95f02", "#7b3294"]
LINES = {
    "no subscriber": "no subscriber",
    "10 concurrent": "10 async subscribers",
    "10 waiting": "10 waiting handlers (÷ a loop that reads the loss)",
}


def styled() -> Any:
    """Matplotlib, without a screen, and with output that repeats."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update(
        {
            "svg.hashsalt": "fitbus",  # the names of clip paths
            "svg.fonttype": "none",  # text stays text: small files
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans"],  # comes with Matplotlib: the same sizes everywhere
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )
    import matplotlib.pyplot as plt

    return plt


def whiskers(rows: Rows) -> list[list[float]]:
    """From each median down to the first quartile, and up to the third."""
    return [
        [row["median"] - row["low"] for row in rows],
        [row["high"] - row["median"] for row in rows],
    ]


def overhead(rows: Rows, plt: Any) -> Any:
    """Ratios by the length of a step; 1 is the bare loop."""
    rows = [row for row in rows if row["script"] == "overhead" and row["loop"] == "asyncio"]
    steps = {row["table"]: row["median"] for row in rows if row["name"] == "bare, a step"}
    figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    axes.axhline(1, color=COLOURS[0], linewidth=1, label="bare loop")
    for (name, label), colour in zip(LINES.items(), COLOURS[1:], strict=True):
        found = [row for row in rows if row["name"].partition(" / ")[0] == name]
        found.sort(key=lambda row: steps[row["table"]])
        axes.errorbar(
            [steps[row["table"]] for row in found],
            [row["median"] for row in found],
            whiskers(found),
            label=label,
            color=colour,
            marker="o",
            markersize=4,
            linewidth=1.5,
            capsize=2,
        )
    axes.set(xscale="log", xlabel="a step of the bare loop, ms", ylabel="fit ÷ bare loop")
    axes.set_xticks(sorted(steps.values()))
    axes.set_xticklabels([f"{step:.2g}" for step in sorted(steps.values())])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


def peers(rows: Rows, plt: Any) -> Any:
    """Microseconds a step on the linear layer, two bars for each trainer; fitbus in both modes."""
    rows = [row for row in rows if row["script"] == "peers" and row["table"] == "linear: a step"]
    cases = {row["name"]: row for row in rows}
    names = list(dict.fromkeys(str(row["name"]).partition(",")[0] for row in rows))
    lines = [(name, f"{name}, 10 callbacks") for name in names if name != "fitbus"]
    lines.append(("fitbus, concurrent", "fitbus, 10 concurrent"))
    lines.append(("fitbus, waiting", "fitbus, 10 waiting"))
    names = [name for name, _ in lines]
    figure, axes = plt.subplots(figsize=(6.4, 0.6 + 0.4 * len(names)), layout="constrained")
    without = [cases[f"{name.partition(',')[0]}, 0 callbacks"] for name in names]
    with_10 = [cases[case] for _, case in lines]
    for found, offset, label, colour in (
        (without, -0.2, "0 callbacks", "#a6cbe3"),
        (with_10, 0.2, "10 callbacks", COLOURS[1]),
    ):
        at = [y + offset for y in range(len(names))]
        medians = [row["median"] for row in found]
        axes.barh(
            at,
            medians,
            0.36,
            xerr=whiskers(found),
            label=label,
            color=colour,
            error_kw={"linewidth": 0.8},
        )
        for y, row in zip(at, found, strict=True):
            axes.annotate(
                f"{row['median']:.0f}",
                (row["high"], y),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("µs a step, 784 to 10, batches of 64")
    axes.legend(frameon=False, loc="upper right")
    return figure


FIGURES: dict[str, Callable[[Rows, Any], Any]] = {"overhead": overhead, "peers": peers}


def draw(rows: Rows, folder: Path) -> None:
    """Draws the figures whose rows are there."""
    plt = styled()
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in FIGURES.items():
        if not any(row["script"] == name for row in rows):
            print(f"{name}.svg is left out: no row of {name}.py among the figures")
            continue
        path = folder / f"{name}.svg"
        drawn = figure(rows, plt)
        drawn.savefig(path, metadata={"Date": None, "Creator": None}, facecolor="white")
        plt.close(drawn)
        text = path.read_text(encoding="utf-8")
        path.write_text(re.sub(r" +$", "", text, flags=re.MULTILINE), encoding="utf-8")
        print(path)


def main() -> None:
    """Draws what a file of rows has, or a run of `overhead.py --smoke`."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("rows", type=Path, nargs="?", help="what budgets.py --json has stored")
    options.add_argument("folder", type=Path, nargs="?", help="where the figures go")
    options.add_argument("--smoke", action="store_true", help="only whether it draws")
    given = options.parse_args()
    if given.smoke:
        with tempfile.TemporaryDirectory() as folder:
            draw(run("overhead", ["--smoke"]) or [], Path(folder))
        return
    if not given.rows or not given.folder:
        options.error("give a file of rows and a folder")
    lines = given.rows.read_text(encoding="utf-8").splitlines()
    draw([json.loads(line) for line in lines], given.folder)


if __name__ == "__main__":
    main()
