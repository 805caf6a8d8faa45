"""The logs of the epochs: what a training leaves behind, wherever it went on. Internal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, final

from fitbus._html import box, curve, leading, number, ordered, table

__all__ = ["History", "curve_html", "table_html"]

_NAMES = 12  # of logs, in a table


@final
class History:
    """The logs of each epoch, as `fit` returns them.

    Attributes:
        epoch: The epochs that ended, from 0.
        history: For each name, the values in order; what a callback added to the logs included.
        params: What Keras keeps there too: `verbose`, `epochs` and `steps`.
    """

    def __init__(self, params: Mapping[str, Any] | None = None) -> None:
        self.params: dict[str, Any] = dict(params or {})
        self.epoch: list[int] = []
        self.history: dict[str, list[float]] = {}

    def record(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Adds an epoch."""
        self.epoch.append(epoch)
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)

    def go_on(self, epochs: Sequence[int], values: Mapping[str, Sequence[float]]) -> None:
        """Begins with what a training recorded that is gone on with."""
        self.epoch = list(epochs)
        self.history = {name: list(found) for name, found in values.items()}

    def __repr__(self) -> str:
        """Shows the last value of each name."""
        last = ", ".join(f"{name}={values[-1]:.6g}" for name, values in self.history.items())
        return f"<History of {len(self.epoch)} epochs{': ' if last else ''}{last}>"

    def _repr_html_(self) -> str:
        """Shows the curve of the loss in a notebook, and what the values were."""
        return _history_html(self)


def _history_html(history: History, title: str = "History") -> str:
    """The curve of the loss, and for each name the last, the least and the greatest value."""
    count = len(history.epoch)
    return box(
        title,
        f"{count:,} epoch{'' if count == 1 else 's'}",
        curve_html(history),
        table_html(history),
    )


def curve_html(history: History) -> str:
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


def table_html(history: History) -> str:
    """For each name the last, the least and the greatest value."""
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
