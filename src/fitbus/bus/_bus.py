"""The bus: carries events from training threads to handlers and streams."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, final

import anyio

from fitbus.bus._draining import drained, finish
from fitbus.bus._host import Host
from fitbus.bus._hosting import Hosting
from fitbus.bus._live_runs import LiveRuns
from fitbus.bus._options import Hook, Options
from fitbus.bus._publisher import ApplyControl, Publisher
from fitbus.bus._statistics import BusStatistics, DeliveryReport
from fitbus.bus._subscription import Subscription
from fitbus.bus._surface import Subscribable
from fitbus.bus._tail import Tail
from fitbus.bus._wakeup import Wakeup
from fitbus.bus._watch import Watch
from fitbus.errors import BusClosedError, FitbusError, InvalidArgumentError
from fitbus.events import Event

__all__ = ["Bus"]


@final
class Bus(Subscribable):
    """Carries events to handlers and streams, and their controls back.

    `async with bus:` hosts its handlers; a live run hosts a bus that nobody opened. It lives in one
    event loop at a time. Publishing, `add`, `cancel` and `statistics` are for any thread.

    Order: one handler's calls come in `seq` order within a run and never overlap, over all runs.
    Loss: none with `overflow="block"` but for what a closing deadline cuts off; everything lost is
    counted. Cost: `benchmarks/bus.py` prints it.

    >>> import anyio
    >>> from fitbus.events import EpochEnd
    >>> async def main() -> None:
    ...     async with Bus() as bus:
    ...         bus.add(lambda event: print(event.epoch, event.logs), EpochEnd, wait=False)
    ...         publisher = bus.publisher()
    ...         publisher.publish(EpochEnd(logs={"loss": 0.5}))
    >>> anyio.run(main)
    0 {'loss': 0.5}

    Args:
        tail_size: How many of a run's latest events are kept for `subscribe(after=...)`.

    Raises:
        InvalidArgumentError: `tail_size` is no whole number of at least 1.
    """

    def __init__(self, *, tail_size: int = 1024) -> None:
        if isinstance(tail_size, bool) or not isinstance(tail_size, int) or tail_size < 1:
            raise InvalidArgumentError("tail_size", tail_size, "give a whole number of at least 1")
        self.tail_size = tail_size
        # Guards subscriptions, mailboxes and `seq`. Reentrant: predicates may look around.
        self.lock: Any = threading.RLock()
        self.wakeup = Wakeup(self.lock)
        self.subscriptions: tuple[Subscription[Any], ...] = ()
        self.published = 0
        self.crowded = False  # some lossless mailbox may be full
        self.closed = False
        self.runs = LiveRuns(self.lock)
        self.hosting = Hosting(self)
        self.watch = Watch(self)
        self._own_host: Host | None = None
        self._orders = 0
        self._report: DeliveryReport | None = None

    async def __aenter__(self) -> Self:
        """Hosts the handlers until the block is left."""
        if self.closed:
            raise BusClosedError("this bus was closed; make a new one")
        if self._own_host is not None:
            raise FitbusError("this bus is open already; enter it once")
        self._own_host = Host(self)
        await self._own_host.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the bus as `aclose` does; the body's error leaves as itself."""
        host, self._own_host = self._own_host, None
        assert host is not None
        try:
            with anyio.CancelScope(shield=True):
                await self.aclose()
        finally:  # a native cancellation, which no shield keeps out, comes here too
            await host.__aexit__(kind, error, traceback)

    def hosted(self) -> Host:
        """Hosts the handlers, without closing the bus at the end: `async with bus.hosted():`."""
        if self.closed:
            raise BusClosedError("this bus was closed; make a new one")
        return Host(self)

    async def aclose(self, drain_s: float = 30.0) -> DeliveryReport:
        """Delivers what is there, then ends every handler and stream. Twice is fine.

        Args:
            drain_s: Seconds that handlers get; what they leave is lost, and in the report.

        Returns:
            What each subscriber got, those of live runs that ended before among them.

        Raises:
            InvalidArgumentError: `drain_s` is no number of at least 0.
        """
        if isinstance(drain_s, bool) or not isinstance(drain_s, int | float) or not drain_s >= 0:
            raise InvalidArgumentError("drain_s", drain_s, "give seconds, a number of at least 0")
        if self._report is None:
            with self.lock:
                self.closed = True
            self.runs.ring()
            report = await self.drain(None, drain_s)
            for subscription in self.subscriptions:
                finish(subscription)
            self._report = self._report or report
        return self._report

    async def drain(self, run: str | None, drain_s: float) -> DeliveryReport:
        """Waits until handlers have got through what is in their mailboxes now.

        Args:
            run: Only the subscribers of this run, those of the whole bus among them; None for all.
            drain_s: Seconds at the most.
        """
        with self.lock:
            found = [s for s in self.subscriptions if run is None or s.run in (None, run)]
        return await drained(self, found, run, drain_s)

    def finish_run(self, run: str, *, drained: bool = True) -> None:
        """Ends the subscriptions of a run, and forgets its publisher.

        Args:
            run: The run's id.
            drained: Whether handlers had their time; else they still get what waits for them.
        """
        for subscription in self.subscriptions:
            if subscription.run == run:
                if drained:
                    finish(subscription)
                else:
                    subscription.close()
        self.runs.forget(run)

    def statistics(self) -> BusStatistics:
        """Its counters at this moment. Any thread."""
        with self.lock:
            return BusStatistics(
                published=self.published,
                subscriptions=tuple(s.statistics() for s in self.subscriptions),
                wakes=self.wakeup.wakes,
            )

    def publisher(
        self, *, run: str | None = None, apply: ApplyControl | None = None, flush_s: float = 0.0
    ) -> Publisher:
        """A new run's end of the bus, for a training loop; see `Publisher`."""
        return Publisher(self, run=run, apply=apply, flush_s=flush_s)

    def attach_subscription(
        self,
        kinds: Sequence[type[Event]],
        options: Options,
        *,
        name: str,
        hook: Hook | None = None,
        hooks: Mapping[type[Event], Hook] | None = None,
        run: str | None = None,
    ) -> Subscription[Any]:
        """Makes a handler's subscription, and lets the loop start its task. Any thread."""
        subscription = Subscription[Any](
            self, kinds, options, hook=hook, hooks=hooks, run=run, name=name
        )
        self._attach(subscription)
        if subscription.needs_worker:
            self.hosting.adopt_soon()
        return subscription

    def make_stream(
        self,
        kinds: Sequence[type[Event]],
        options: Options,
        *,
        after: int | None,
        run: str | None = None,
        ended: Publisher | None = None,
    ) -> Subscription[Any]:
        """Makes the subscription of a stream; opening attaches it.

        Args:
            kinds: Its event types.
            options: Its options.
            after: The `seq` after which it replays what is kept; None for nothing.
            run: The run it is limited to.
            ended: Whose events it replays, if that run has ended: it ends with the last of them.
        """
        name = "stream of " + ", ".join(kind.__name__ for kind in kinds)
        return Subscription[Any](self, kinds, options, run=run, name=name, after=after, ended=ended)

    def carries(self, publisher: Publisher) -> bool:
        """Whether it is this bus' publisher."""
        return publisher.bus is self

    def ended_id(self) -> str | None:
        """None: it is the bus that ends."""
        return None

    def open_stream(self, stream: Subscription[Any]) -> None:
        """Attaches a stream, and fills it with what it asked to be replayed."""
        if stream.ended_run is not None:
            with self.lock:
                self._replay(stream, stream.ended_run.tail, stream.ended_run.run)
                stream.close()
            return
        self.hosting.enter_loop()
        with self.lock:
            try:
                self._attach(stream)
            except BaseException:
                self.hosting.exit_loop()
                raise
            if kept := self.runs.tail(stream.run):
                self._replay(stream, *kept)

    def _replay(self, stream: Subscription[Any], tail: Tail, run: str) -> None:
        if stream.after is not None:
            try:
                tail.replay(stream, stream.after, run)
            except BaseException as error:  # noqa: BLE001  # its predicate's, for its consumer
                stream.fail_stream(error)

    def _attach(self, subscription: Subscription[Any]) -> None:
        with self.lock:
            if self.closed:
                raise BusClosedError("this bus was closed; subscribe to a new one")
            subscription.order = self._orders
            self._orders += 1
            self.subscriptions = (*self.subscriptions, subscription)
            self.runs.reroute()

    def forget(self, subscription: Subscription[Any]) -> None:
        """Drops a subscription that has ended. The lock is held."""
        if subscription not in self.subscriptions:
            return
        self.subscriptions = tuple(s for s in self.subscriptions if s is not subscription)
        self.runs.reroute()
        if subscription.is_stream:
            self.hosting.exit_loop()
        if not self.hosting.hosts_subscription(subscription):
            self.runs.retire(subscription)

    def publisher_of(self, event: Event) -> Publisher | None:
        """The publisher of an event's run; None if the run has ended."""
        return self.runs.get(event.run)

    def crowded_by(self, run: str) -> list[Subscription[Any]]:
        """The lossless subscribers of a run that have no room."""
        with self.lock:
            crowded = [s for s in self.subscriptions if s.crowded]
            self.crowded = bool(crowded)
            return [s for s in crowded if s.run in (None, run)]

    def __repr__(self) -> str:
        """Shows its subscribers and runs."""
        state = "closed" if self.closed else "hosted" if self.hosting.hosts else "not hosted"
        return (
            f"<Bus: {state}, {len(self.subscriptions)} subscriptions, {len(self.runs)} live runs>"
        )
