"""The bus: carries events from training threads to handlers and streams."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, final

import anyio

from fitbus._loops import LoopHandle
from fitbus.bus._calls import Mark
from fitbus.bus._host import Host
from fitbus.bus._options import Hook, Options
from fitbus.bus._publisher import ApplyControl, Publisher
from fitbus.bus._statistics import BusStatistics, DeliveryReport
from fitbus.bus._subscription import Subscription
from fitbus.bus._surface import Subscribable
from fitbus.bus._wakeup import Wakeup
from fitbus.control import Control, StopTraining
from fitbus.errors import BusClosedError, FitbusError, InvalidArgumentError
from fitbus.events import Event, HandlerFailed, Lagged

__all__ = ["Bus"]

_logger = logging.getLogger("fitbus")


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
        self.holding: set[Publisher] = set()  # those that stand still for room
        self.closed = False
        self._publishers: dict[str, Publisher] = {}
        self._latest: Publisher | None = None
        self._hosts: list[Host] = []
        self._host_of: dict[Subscription[Any], Host] = {}
        self._own_host: Host | None = None
        self._users = 0  # hosts and open streams in the loop
        self._orders = 0
        self._runs = 0
        self._report: DeliveryReport | None = None

    # Its life.

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
        with anyio.CancelScope(shield=True):
            await self.aclose()
        host, self._own_host = self._own_host, None
        assert host is not None
        await host.__aexit__(kind, error, traceback)

    def hosted(self) -> Host:
        """Hosts the handlers too, without closing the bus at the end: `async with bus.hosted():`."""
        if self.closed:
            raise BusClosedError("this bus was closed; make a new one")
        return Host(self)

    async def aclose(self, drain_s: float = 30.0) -> DeliveryReport:
        """Delivers what is there, then ends every handler and stream. Twice is fine.

        Args:
            drain_s: Seconds that handlers get; what they leave is lost, and in the report.

        Returns:
            What each subscriber got.
        """
        if self._report is None:
            Options(timeout=drain_s)
            with self.lock:
                self.closed = True
                publishers = tuple(self._publishers.values())
            for publisher in publishers:
                publisher.ring()
            report = await self.drain(None, drain_s)
            for subscription in self.subscriptions:
                self._finish(subscription)
            self._report = self._report or report
        return self._report

    async def drain(self, run: str | None, drain_s: float) -> DeliveryReport:
        """Waits until handlers have got through what is in their mailboxes now.

        Args:
            run: Only the subscribers of this run, those of the whole bus among them; None for all.
            drain_s: Seconds at the most.
        """
        started = time.perf_counter()
        with self.lock:
            subscriptions = [s for s in self.subscriptions if run is None or s.run in (None, run)]
        marks: list[Mark] = []
        for subscription in subscriptions:
            if subscription.needs_worker and subscription in self._host_of:
                mark = Mark()
                subscription.put_marker(mark)
                marks.append(mark)
        self.wakeup.flush()
        with anyio.move_on_after(drain_s):
            for mark in marks:
                await mark.wait()
        seconds = time.perf_counter() - started
        former = [] if run is None else self._publishers[run].retired
        entries = [(s.order, s.report()) for s in subscriptions]
        entries = sorted([*former, *entries], key=lambda entry: entry[0])
        errors = () if run is None else self._publishers[run].failures.notes
        return DeliveryReport(tuple(report for _, report in entries), seconds, errors)

    def finish_run(self, run: str, *, drained: bool = True) -> None:
        """Ends the subscriptions of a run, and forgets its publisher.

        Args:
            run: The run's id.
            drained: Whether handlers had their time; else they still get what waits for them.
        """
        for subscription in self.subscriptions:
            if subscription.run == run:
                if drained:
                    self._finish(subscription)
                else:
                    subscription.close()
        with self.lock:
            self._publishers.pop(run, None)

    def _finish(self, subscription: Subscription[Any]) -> None:
        if subscription.is_stream:
            subscription.close()
            return
        scope = subscription.scope
        busy = subscription.statistics().in_flight
        subscription.cancel()
        if busy and scope is not None:
            _logger.warning("handler %r was cancelled: it ran on past drain_s", subscription.name)
            scope.cancel()

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

    # Subscribing.

    def attach_subscription(
        self,
        kinds: Sequence[type[Event]],
        options: Options,
        *,
        name: str,
        hook: Hook | None = None,
        hooks: dict[type[Event], Hook] | None = None,
        run: str | None = None,
    ) -> Subscription[Any]:
        """Makes a handler's subscription, and lets the loop start its task. Any thread."""
        subscription = Subscription[Any](
            self, kinds, options, hook=hook, hooks=hooks, run=run, name=name
        )
        self._attach(subscription)
        if subscription.needs_worker and self._hosts and self.wakeup.loop is not None:
            if self.wakeup.loop.is_current():
                self.adopt()
            else:
                self.wakeup.loop.call_soon(self.adopt)
        return subscription

    def make_stream(
        self,
        kinds: Sequence[type[Event]],
        options: Options,
        *,
        after: int | None,
        run: str | None = None,
    ) -> Subscription[Any]:
        """Makes the subscription of a stream; opening attaches it."""
        name = "stream of " + ", ".join(kind.__name__ for kind in kinds)
        return Subscription[Any](self, kinds, options, run=run, name=name, after=after)

    def ended_id(self) -> str | None:
        """None: it is the bus that ends."""
        return None

    def open_stream(self, stream: Subscription[Any]) -> None:
        """Attaches a stream, and fills it with what it asked to be replayed."""
        self.enter_loop()
        try:
            with self.lock:
                self._attach(stream)
                if stream.after is not None:
                    self._replay(stream, stream.after)
        except BaseException:
            self.exit_loop()
            raise

    def _replay(self, stream: Subscription[Any], after: int) -> None:
        publisher = self._latest if stream.run is None else self._publishers.get(stream.run)
        if publisher is None:
            return
        for event in publisher.tail.after(after, stream.kinds, stream.name, publisher.run):
            if isinstance(event, Lagged):
                stream.mailbox.put_loss(event)
            else:
                stream.offer(event)

    def _attach(self, subscription: Subscription[Any]) -> None:
        with self.lock:
            if self.closed:
                raise BusClosedError("this bus was closed; subscribe to a new one")
            subscription.order = self._orders
            self._orders += 1
            self.subscriptions = (*self.subscriptions, subscription)
            self._reroute()

    def forget(self, subscription: Subscription[Any]) -> None:
        """Drops a subscription that has ended. The lock is held."""
        if subscription not in self.subscriptions:
            return
        self.subscriptions = tuple(s for s in self.subscriptions if s is not subscription)
        self._reroute()
        if subscription.is_stream:
            self.exit_loop()
        if subscription not in self._host_of:
            self._retire(subscription)

    def _retire(self, subscription: Subscription[Any]) -> None:
        for publisher in self._publishers.values():
            if subscription.run in (None, publisher.run):
                publisher.retired.append((subscription.order, subscription.report()))

    def _reroute(self) -> None:
        for publisher in self._publishers.values():
            publisher.reroute()

    # Hosting: in the loop.

    def enter_loop(self) -> None:
        """Binds the bus to the running loop, or checks that it is the one it lives in."""
        loop = LoopHandle()
        with self.lock:
            if self._users == 0 or self.wakeup.loop is None:
                self.wakeup.bind(loop)
            elif not self.wakeup.loop.is_current():
                raise FitbusError(
                    "this bus is in use in another event loop; a bus lives in one at a time"
                )
            self._users += 1

    def exit_loop(self) -> None:
        """Undoes `enter_loop`."""
        self._users -= 1

    def add_host(self, host: Host) -> None:
        """Lets a host take the handlers that have none."""
        self._hosts.append(host)
        self.adopt()

    def remove_host(self, host: Host) -> None:
        """Gives a host no further handlers."""
        self._hosts.remove(host)

    def adopt(self) -> None:
        """Starts the task of each handler that has none."""
        if not self._hosts:
            return
        for subscription in self.subscriptions:
            if (
                not subscription.is_stream
                and subscription.needs_worker
                and subscription not in self._host_of
            ):
                host = self._hosts[-1]
                self._host_of[subscription] = host
                host.start(subscription)

    def leaving(self, subscription: Subscription[Any]) -> bool:
        """Whether the host of a handler is being left."""
        return self._host_of[subscription].leaving

    def worker_left(self, subscription: Subscription[Any]) -> None:
        """Notes that a handler's task has ended; another host may take it."""
        host = self._host_of.pop(subscription)
        host.left(subscription)
        if subscription.ended:
            with self.lock:
                self._retire(subscription)
        else:
            self.adopt()

    def check_hosted(self, event: Event) -> None:
        """Refuses to wait for handlers that nobody would call."""
        if not self._hosts and not self.closed:
            raise FitbusError(
                f"handlers that wait for {type(event).__name__} run on the event loop, and nobody"
                " hosts the bus; write `async with bus:` around the training"
            )

    # For publishers and workers.

    def new_run_id(self, kind: str) -> str:
        """A run id that this bus has not used: the same one in every run of a program."""
        with self.lock:
            self._runs += 1
            return f"{kind}-{self._runs}"

    def attach(self, publisher: Publisher) -> None:
        """Takes in a new run's publisher."""
        with self.lock:
            if publisher.run in self._publishers:
                raise InvalidArgumentError(
                    "run", publisher.run, "a run of this id is live on the bus; choose another"
                )
            self._publishers[publisher.run] = publisher
            self._latest = publisher

    def answered(
        self,
        subscription: Subscription[Any],
        event: Event,
        controls: Sequence[Control],
        error: BaseException | None,
    ) -> None:
        """Passes on what a concurrent handler returned or raised. Any thread."""
        publisher = self._publishers.get(event.run)
        if error is not None:
            if publisher is not None:
                self.handler_failed(publisher, subscription, event, error)
            else:
                subscription.errors += 1
                _logger.error("%s, after its run ended", subscription.name, exc_info=error)
        elif publisher is not None:
            for control in controls:
                publisher.post(control, subscription.name)

    def handler_failed(
        self,
        publisher: Publisher,
        subscription: Subscription[Any],
        event: Event,
        error: BaseException,
    ) -> None:
        """Does with a handler's error what its `on_error` says. Any thread."""
        if subscription.is_stream:
            subscription.fail_stream(error)
            return
        policy = subscription.options.on_error
        subscription.errors += 1
        what = f"{type(error).__name__}: {error}"
        note = f"{subscription.name} raised {what}, at {type(event).__name__} (seq {event.seq})"
        if policy != "log" or not isinstance(error, Exception):
            subscription.cancel()
        if policy in ("log", "unsubscribe"):
            _logger.error("%s", note, exc_info=error)
        publisher.failures.add(event.seq, subscription.order, error, note, fatal=policy == "raise")
        publisher.publish(
            HandlerFailed(subscriber=subscription.name, error=what, event_seq=event.seq)
        )
        if policy == "stop":
            publisher.post(StopTraining(note), subscription.name)
        publisher.flush()
        publisher.ring()

    def crowded_by(self, run: str) -> list[Subscription[Any]]:
        """The lossless subscribers of a run that have no room."""
        with self.lock:
            crowded = [s for s in self.subscriptions if s.crowded]
            self.crowded = bool(crowded)
            return [s for s in crowded if s.run in (None, run)]

    def hold(self, publisher: Publisher) -> None:
        """Notes that a thread stands still for room."""
        with self.lock:
            self.holding.add(publisher)

    def release(self, publisher: Publisher) -> None:
        """Notes that it goes on."""
        with self.lock:
            self.holding.discard(publisher)

    def ring(self) -> None:
        """Lets all threads that stand still look again."""
        for publisher in tuple(self._publishers.values()):
            publisher.ring()

    def __repr__(self) -> str:
        """Shows its subscribers and runs."""
        state = "closed" if self.closed else "hosted" if self._hosts else "not hosted"
        return (
            f"<Bus: {state}, {len(self.subscriptions)} subscriptions,"
            f" {len(self._publishers)} live runs>"
        )
