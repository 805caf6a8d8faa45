"""What `measure_overhead` returns, and its table."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Self, final

import msgspec

from fitbus._columns import columns

__all__ = ["Overhead", "Spread", "StepOverhead", "SubscriberOverhead"]

HOW_TO_READ = (
    "Figures are medians [quartiles] of the pairs: a difference that has 0 between its quartiles,\n"
    "or a ratio that has 1 between them, is no more than this machine's noise."
)


@final
@dataclasses.dataclass(frozen=True)
class Spread:
    """A median, and the quartiles around it.

    Attributes:
        median: The median.
        low: The first quartile.
        high: The third quartile.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """That of some values, of at least one."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


@final
@dataclasses.dataclass(frozen=True)
class SubscriberOverhead:
    """What one subscriber had, over all fits that were counted.

    Attributes:
        name: Its name, as in `run.report`.
        delivered: Events that it got.
        dropped: Events that were lost to a full mailbox, or still waited when draining gave up.
        seconds: Time inside its handler, from call to return.
        held_s: Time that training waited for it, in seconds.
    """

    name: str
    delivered: int
    dropped: int
    seconds: float
    held_s: float


@final
@dataclasses.dataclass(frozen=True)
class StepOverhead:
    """What the callbacks add where a step takes about so long.

    Attributes:
        asked_s: Seconds that a step was to take.
        step_s: Seconds that a step takes without the callbacks, the median.
        added_s: Seconds that they add to a step. What handlers still had to do when training was
            over counts too: a longer training would have had to wait for it.
        ratio: Seconds of a step with the callbacks by those without.
        epoch_s: Seconds that they add to an epoch beside its steps: begin, end and validation.
        fit_s: Seconds that they add to a training beside its epochs: begin and end.
        steps: Steps that were trained with the callbacks, over all fits that were counted.
        subscribers: What each subscriber had.
    """

    asked_s: float
    step_s: float
    added_s: Spread
    ratio: Spread
    epoch_s: Spread
    fit_s: Spread
    steps: int
    subscribers: tuple[SubscriberOverhead, ...]

    @property
    def delivered(self) -> int:
        """Events that all subscribers got."""
        return sum(entry.delivered for entry in self.subscribers)

    @property
    def dropped(self) -> int:
        """Events that they lost."""
        return sum(entry.dropped for entry in self.subscribers)


@final
@dataclasses.dataclass(frozen=True)
class Overhead:
    """What `measure_overhead` found; `print` it, or take `to_json`.

    Attributes:
        name: What was measured.
        steps: One entry for each step time.
        pairs: How many pairs each figure is of.
        loop: The event loop: `"asyncio"`, `"uvloop"` or `"trio"`.
        device: The kind of device, as JAX calls it.
        versions: Of Python and of JAX.
    """

    name: str
    steps: tuple[StepOverhead, ...]
    pairs: int
    loop: str
    device: str
    versions: str

    def to_json(self) -> str:
        """One line of JSON for each step time: its fields, and those of the whole."""
        whole = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "steps"
        }
        lines = [
            msgspec.json.encode(
                whole
                | {"delivered": step.delivered, "dropped": step.dropped}
                | dataclasses.asdict(step)
            )
            for step in self.steps
        ]
        return "\n".join(line.decode() for line in lines)

    def table(self) -> str:
        """Plain text: what they add, then what each subscriber had, and how to read it."""
        added = [("a step of", "takes", "they add", "ratio", "and to an epoch", "and once")]
        had = [("subscriber", "a step of", "events", "lost", "in handler", "training waited")]
        for step in self.steps:
            asked = f"{step.asked_s * 1e3:g} ms"
            added.append(
                (
                    asked,
                    f"{step.step_s * 1e3:.3g} ms",
                    _spread(step.added_s, 1e6, " µs", "+,.1f"),
                    _spread(step.ratio, 1, "", ".2f"),
                    _spread(step.epoch_s, 1e3, " ms", "+,.2f"),
                    _spread(step.fit_s, 1e3, " ms", "+,.2f"),
                )
            )
            had += [
                (
                    entry.name,
                    asked,
                    f"{entry.delivered:,}",
                    f"{entry.dropped:,}",
                    f"{entry.seconds:.4f} s",
                    f"{entry.held_s:.4f} s",
                )
                for entry in step.subscribers
            ]
        about = f"{self.name} ({self.loop}, {self.device}, {self.versions}, {self.pairs} pairs)"
        return "\n".join([about, "", *columns(added), "", *columns(had), "", HOW_TO_READ])

    def __str__(self) -> str:
        """The table."""
        return self.table()


def _spread(found: Spread, unit: float, suffix: str, form: str) -> str:
    median, low, high = (value * unit for value in dataclasses.astuple(found))
    return f"{median:{form}}{suffix} [{low:{form}}, {high:{form}}]"
