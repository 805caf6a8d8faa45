"""A run as a notebook shows it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fitbus._history import curve_html, table_html
from fitbus._html import box

if TYPE_CHECKING:
    from fitbus.train._driver import Driver

__all__ = ["run_html"]


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
    parts = [] if history is None else [curve_html(history), table_html(history)]
    return box(id, ", ".join(facts), *parts)
