"""What subscribers got and cost, as a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from fitbus import _html
from fitbus._columns import columns

__all__ = ["Entry", "html_table", "table"]

_HEADER = ("subscriber", "events", "lost", "errors", "in handler", "training waited", "of the run")


class Entry(NamedTuple):
    """A line of it."""

    name: str
    events: int
    lost: int
    errors: int
    seconds: float
    held_s: float
    held_share: float


def table(entries: Iterable[Entry]) -> str:
    """Plain text, a line each; first those that training waited for longest."""
    return "\n".join(columns(_rows(entries)))


def html_table(entries: Iterable[Entry]) -> str:
    """The same for a notebook."""
    return _html.table(_rows(entries))


def _rows(entries: Iterable[Entry]) -> list[tuple[str, ...]]:
    ranked = sorted(entries, key=lambda entry: (-entry.held_s, -entry.seconds))
    rows = [
        (
            entry.name,
            *(f"{count:,}" for count in (entry.events, entry.lost, entry.errors)),
            f"{entry.seconds:,.3f} s",
            f"{entry.held_s:,.3f} s",
            f"{entry.held_share * 100:.1f} %",
        )
        for entry in ranked
    ]
    return [_HEADER, *rows]
