"""What every handle of a run has, wherever the run is: here, in a child process, on a service."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, final, overload, runtime_checkable

from fitbus._costs import html_table, table
from fitbus.bus._options import Overflow
from fitbus.bus._statistics import SubscriptionStatistics
from fitbus.bus._subscription import Subscription
from fitbus.control import Applied, Control, Receipt
from fitbus.events import Event

__all__ = ["RunHandle", "RunStatistics", "RunStatus"]

A = TypeVar("A", bound=Event)
B = TypeVar("B", bound=Event)
C = TypeVar("C", bound=Event)

RunStatus: TypeAlias = Literal[
    "pending", "running", "paused", "finishing", "completed", "stopped", "cancelled", "failed"
]


@final
@dataclasses.dataclass(frozen=True)
class RunStatistics:
    """A run at one moment.

    Attributes:
        seconds: Wall-clock seconds since it began, or from then to its last event; 0 before.
        step: Completed optimizer updates that were dispatched.
        examples: Examples that this run's steps took in; padding isn't counted.
        input_s: Seconds that its thread waited for their batches: to come, to be put together, and
            to be sent to the device. As steps run ahead, the device may have been busy meanwhile.
        steps_in_flight: How many steps may run ahead at present: so late a control can act.
        steps_per_execution: How many steps are fused into one call of the device at present.
        step_s: Seconds a step, measured lately; 0 before that.
        subscriptions: The counters of its subscribers, those of the whole bus among them; of these
            what they counted since the run began.
    """

    seconds: float
    step: int
    examples: int
    input_s: float
    steps_in_flight: int
    steps_per_execution: int
    step_s: float
    subscriptions: tuple[SubscriptionStatistics, ...]

    def table(self) -> str:
        """What its subscribers got and cost until now, as a table; see `DeliveryReport.table`."""
        return table(entry.entry for entry in self.subscriptions)

    def _repr_html_(self) -> str:
        """The table, in a notebook."""
        return html_table(entry.entry for entry in self.subscriptions)


@runtime_checkable
class RunHandle(Protocol):
    """Watches and steers a run. What takes one works with a `Run` and with one from elsewhere.

    Attributes:
        id: The run's id, in the envelope of each of its events.
        status: Where it stands; the last four of `RunStatus` are final.
    """

    @property
    def id(self) -> str: ...

    @property
    def status(self) -> RunStatus: ...

    def statistics(self) -> RunStatistics:
        """Its counters, as they are known here at this moment; never waits."""
        ...

    @overload
    def subscribe(
        self,
        kind: type[A],
        /,
        *,
        where: Callable[[A], object] | None = ...,
        every: int = ...,
        overflow: Overflow = ...,
        buffer_size: int = ...,
        after: int | None = ...,
    ) -> Subscription[A]: ...

    @overload
    def subscribe(
        self,
        kind: type[A],
        kind2: type[B],
        /,
        *,
        where: Callable[[A | B], object] | None = ...,
        every: int = ...,
        overflow: Overflow = ...,
        buffer_size: int = ...,
        after: int | None = ...,
    ) -> Subscription[A | B]: ...

    @overload
    def subscribe(
        self,
        kind: type[A],
        kind2: type[B],
        kind3: type[C],
        /,
        *,
        where: Callable[[A | B | C], object] | None = ...,
        every: int = ...,
        overflow: Overflow = ...,
        buffer_size: int = ...,
        after: int | None = ...,
    ) -> Subscription[A | B | C]: ...

    @overload
    def subscribe(
        self,
        kind: type[Event],
        kind2: type[Event],
        kind3: type[Event],
        kind4: type[Event],
        /,
        *kinds: type[Event],
        where: Callable[[Any], object] | None = ...,
        every: int = ...,
        overflow: Overflow = ...,
        buffer_size: int = ...,
        after: int | None = ...,
    ) -> Subscription[Event]: ...

    def subscribe(
        self,
        *kinds: type[Event],
        where: Callable[[Any], object] | None = None,
        every: int = 1,
        overflow: Overflow = "drop_oldest",
        buffer_size: int = 1024,
        after: int | None = None,
    ) -> Subscription[Any]:
        """A stream of events, to be opened with `async with` and read with `async for`."""
        ...

    @overload
    async def wait_for(
        self,
        kind: type[A],
        /,
        *,
        where: Callable[[A], object] | None = ...,
        timeout: float | None = ...,
    ) -> A: ...

    @overload
    async def wait_for(
        self,
        kind: type[A],
        kind2: type[B],
        /,
        *,
        where: Callable[[A | B], object] | None = ...,
        timeout: float | None = ...,
    ) -> A | B: ...

    @overload
    async def wait_for(
        self,
        kind: type[A],
        kind2: type[B],
        kind3: type[C],
        /,
        *,
        where: Callable[[A | B | C], object] | None = ...,
        timeout: float | None = ...,
    ) -> A | B | C: ...

    @overload
    async def wait_for(
        self,
        kind: type[Event],
        kind2: type[Event],
        kind3: type[Event],
        kind4: type[Event],
        /,
        *kinds: type[Event],
        where: Callable[[Any], object] | None = ...,
        timeout: float | None = ...,
    ) -> Event: ...

    async def wait_for(
        self,
        *kinds: type[Event],
        where: Callable[[Any], object] | None = None,
        timeout: float | None = None,
    ) -> Event:
        """Waits for the next matching event; `RunEndedError` if the run ends first."""
        ...

    def post(self, control: Control, source: str = "") -> Receipt:
        """Sends a control, and doesn't wait; after the end it is rejected, "too late"."""
        ...

    async def send(
        self, control: Control, timeout: float | None = None, *, source: str = ""
    ) -> Applied:
        """Sends a control, and waits until it acted; `ControlRejectedError` says why it didn't."""
        ...
