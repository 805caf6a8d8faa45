"""A run and its history as a notebook shows them."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from fitbus._html import box, curve, leading, number, ordered, table

if TYPE_CHECKING:
    from fitbus.train._driver import Driver
    from fitbus.train._history import History

__all__ = ["history_html", "run_html"]

_NAMES = 12  # of logs, in a table


def history_html(history: History, title: str = "History") -> str:
    """The curve of the loss, and for each name the last, the least and the greatest value."""
    count = len(history.epoch)
    return box(
        title, f"{count:,} epoch{'' if count == 1 else 's'}", _curve(history), _table(history)
    )


def run_html(driver: Driver, id: str) -> str:
    """Where a run stands at this moment; in any state, from any thread. Never waits."""
    engine, history = driver.engine, driver.record
    facts: list[str] = [driver.status]
    if engine is not None:
        if engine.stops and engine.stops[0].reason:
            facts[0] += f" ({engine.stops[0].reason})"
        if history is not None and not driver.life.final:
            epochs = driver.params["epochs"]  # when the last one ends, there is no next
            facts.append(f"epoch {min(engine.epoch + 1, epochs):,} of {epochs:,}")
        facts += [f"step {engine.updates:,}", f"{engine.publisher.ledger.seconds:,.1f} s"]
    if driver.life.error is not None:
        facts.append(f"{type(driver.life.error).__name__}: {driver.life.error}")
    if not driver.life.final:
        facts.append(f"as of {time.strftime('%H:%M:%S')}")
    parts = [] if history is None else [_curve(history), _table(history)]
    return box(id, ", ".join(facts), *parts)


def _curve(history: History) -> str:
    """Over the epochs, counted from 1, as they are shown elsewhere."""
    found = dict(history.history)  # a copy: the training thread may be adding to it
    epochs = [epoch + 1 for epoch in history.epoch]
    return curve({name: _placed(epochs, found[name]) for name in leading(found)}, "epoch")


def _placed(epochs: list[int], values: Sequence[Any]) -> list[tuple[float, float]]:
    """Values with their epochs; of fewer, as where not every epoch is validated, spread evenly."""
    values = list(values)
    count, of = len(epochs), max(1, len(values))
    return [
        (epochs[(place + 1) * count // of - 1], float(value))
        for place, value in enumerate(values[:count])
        if isinstance(value, Real)  # another kind, an array for one, might be on a device
    ]


def _table(history: History) -> str:
    found = dict(history.history)
    names = ordered(found)
    rows: list[list[object]] = [["", "last", "least", "greatest"]]
    for name in names[:_NAMES]:
        values = [value for value in list(found[name]) if isinstance(value, Real)]
        finite = [value for value in values if math.isfinite(value)]
        ends = [number(min(finite)), number(max(finite))] if finite else ["", ""]
        rows.append([name, number(values[-1]) if values else "no number", *ends])
    if len(names) > _NAMES:
        rows.append([f"… {len(names) - _NAMES} more", "", "", ""])
    return table(rows) if found else ""
