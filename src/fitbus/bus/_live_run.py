"""The live handle of a run: what it has wherever the training goes on."""

from __future__ import annotations

import abc
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from fitbus._checks import check_timeout
from fitbus.bus._options import Hook, Options
from fitbus.bus._subscription import Subscription
from fitbus.bus._surface import Subscribable
from fitbus.bus._worker import stands_in
from fitbus.control import Applied, Control, Inbox, Receipt
from fitbus.errors import RunEndedError, WouldDeadlockError
from fitbus.events import Event

if TYPE_CHECKING:
    from fitbus.bus._bus import Bus
    from fitbus.bus._handle import RunStatus
    from fitbus.bus._life import Block
    from fitbus.bus._publisher import Publisher
    from fitbus.bus._statistics import DeliveryReport, SubscriptionStatistics

__all__ = ["LiveRun"]

ResultT = TypeVar("ResultT")


class LiveRun(Subscribable, Generic[ResultT]):
    """Events, controls and the end of one run, which lives in a block.

    Args:
        id: Its id.
        bus: The bus that carries its events.

    Attributes:
        id: Its id, in the envelope of each of its events.
        bus: The bus that carries them.
        inbox: The controls that wait; for the trainer and its parts.
    """

    def __init__(self, id: str, bus: Bus) -> None:
        self.id = id
        self.bus = bus
        self.inbox = Inbox()
        self._streams: weakref.WeakSet[Subscription[Any]] = weakref.WeakSet()

    @property
    @abc.abstractmethod
    def publisher(self) -> Publisher | None:
        """Its end of the bus; None before the start."""

    @property
    @abc.abstractmethod
    def block(self) -> Block:
        """Where it lives."""

    @property
    @abc.abstractmethod
    def status(self) -> RunStatus:
        """Where it stands; the last four of `RunStatus` are final."""

    @abc.abstractmethod
    async def __aenter__(self) -> Self:
        """Starts it."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Waits for it, or cancels it."""
        await self.block.leave(error)

    @property
    def report(self) -> DeliveryReport | None:
        """What each subscriber got; None until the run has ended."""
        return self.block.report

    async def wait(self) -> ResultT:
        """Waits until it has ended and its subscribers are drained.

        A pending run starts only when its block is entered: before, this waits for that too.

        Returns:
            The `History` of a fit, the logs of an evaluation, the outputs of a prediction.

        Raises:
            BaseException: The error that ended it, as itself; the others are in its notes.
            WouldDeadlockError: Called by a waiting handler of the run.
        """
        self.check_not_standing("wait")
        result: ResultT = await self.block.life.wait()
        return result

    def post(self, control: Control, source: str = "") -> Receipt:
        """Sends a control, from any thread; never blocks. After the end: rejected, "too late".

        Args:
            control: The control; anything else raises `InvalidArgumentError`.
            source: Who sends it, for `ControlApplied.source`; a text, or that error is raised.
        """
        return (self.publisher or self.inbox).post(control, source)

    async def send(
        self, control: Control, timeout: float | None = None, *, source: str = ""
    ) -> Applied:
        """Sends a control, and waits until it acted; on a pending run, until its block is entered.

        Args:
            control: The control.
            timeout: Seconds; None waits as long as it takes.
            source: Who sends it.

        Raises:
            InvalidArgumentError: As of `post`, or of `timeout`; nothing was sent.
            ControlRejectedError: It was rejected or superseded; says why, and what to do.
            TimeoutError: Not acknowledged in time; it may still be applied.
            WouldDeadlockError: Called, through the loop, by a `def` handler in the training thread.
        """
        publisher = self.publisher
        if publisher is not None and stands_in(publisher):
            raise WouldDeadlockError(
                "run.send inside a `def` handler waits for the thread that it blocks; use run.post"
            )
        check_timeout(timeout)
        return await self.post(control, source).wait(timeout)

    def subscribers(self) -> tuple[SubscriptionStatistics, ...]:
        """The counters of its subscribers, those of the whole bus among them. Any thread."""
        publisher = self.publisher
        with self.bus.lock:
            found = [s for s in self.bus.subscriptions if s.run in (None, self.id)]
            return tuple(
                s.statistics() if publisher is None else publisher.ledger.statistics(s)
                for s in found
            )

    def publish(self, event: Event) -> None:
        """Publishes an event of your own in this run. Any thread; never blocks.

        It is stamped, and delivered, like those of training. Before the start and after the end it
        is lost: nobody is there to number it.
        """
        if self.publisher is not None:
            self.publisher.publish(event)

    def attach_subscription(
        self,
        kinds: Sequence[type[Event]],
        options: Options,
        *,
        name: str,
        hook: Hook | None = None,
        hooks: Mapping[type[Event], Hook] | None = None,
    ) -> Subscription[Any]:
        """For callbacks: attaches hooks to this run's events; a handler is attached by `add`."""
        self._check_alive()
        return self.bus.attach_subscription(
            kinds, options, name=name, hook=hook, hooks=hooks, run=self.id
        )

    def make_stream(
        self, kinds: Sequence[type[Event]], options: Options, *, after: int | None
    ) -> Subscription[Any]:
        """For `subscribe`: a stream of this run's events; after its end, of those kept."""
        ended = self.publisher if self.block.life.final else None
        if ended is None or after is None:
            self._check_alive()
        stream = self.bus.make_stream(kinds, options, after=after, run=self.id, ended=ended)
        self._streams.add(stream)
        return stream

    def end_streams(self) -> None:
        """For the trainer: closes all streams, unopened ones too; what they have is handed out."""
        for stream in tuple(self._streams):
            stream.close()

    def carries(self, publisher: Publisher) -> bool:
        """For the bus: whether it is this run's publisher."""
        return publisher is self.publisher

    def ended_id(self) -> str | None:
        """For `wait_for`: the run's id."""
        return self.id

    def at_end(self, function: Callable[[], object]) -> None:
        """Calls a function in the event loop when the run has ended, whatever ended it."""
        self.block.at_end.append(function)

    def _check_alive(self) -> None:
        if self.block.life.final:
            raise RunEndedError(self.id, "it could be subscribed to")

    def __repr__(self) -> str:
        """Shows where it stands."""
        return f"<{type(self).__name__} {self.id!r}: {self.status}>"
