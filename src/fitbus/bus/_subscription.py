"""One subscriber: its types, filters, mailbox and counters."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, final

import anyio
import anyio.lowlevel

from fitbus.bus._calls import Passed
from fitbus.bus._intake import Intake
from fitbus.bus._options import Hook, Options
from fitbus.bus._statistics import SubscriberReport, SubscriptionStatistics
from fitbus.errors import FitbusError
from fitbus.events import Event, Lagged

if TYPE_CHECKING:
    from fitbus.bus._bus import Bus
    from fitbus.bus._publisher import Publisher

__all__ = ["Subscription"]

E_co = TypeVar("E_co", bound=Event, covariant=True)
_YIELD_AFTER = 64  # events in a row, after which a busy stream lets other tasks run


@final
class Subscription(Intake, Generic[E_co]):
    """What `Bus.add` and `Bus.subscribe` return: a handler's subscription, or a stream to pull.

    A stream holds events only while it is open in a `with`; events come in `seq` order within a
    run, each once, whichever of several tasks takes it. What a full mailbox does is the `overflow`
    policy; each loss is counted, and becomes a `Lagged` for those who subscribed to it.

        async with bus.subscribe(EpochEnd) as events:
            async for event in events:
                ...

    Attributes:
        name: What it is called in reports and warnings.
        kinds: The event types, subclasses included.
        run: The run it is limited to; None for all runs of the bus.
        options: Its options.
    """

    def __init__(
        self,
        bus: Bus,
        kinds: Sequence[type[Event]],
        options: Options,
        *,
        hooks: Mapping[type[Event], Hook] | None = None,
        hook: Hook | None = None,
        run: str | None = None,
        name: str,
        after: int | None = None,
        ended: Publisher | None = None,
    ) -> None:
        own = [hook] if hook else [*(hooks or {}).values()]
        super().__init__(
            bus,
            name,
            options,
            wants_lagged=any(issubclass(Lagged, kind) for kind in kinds),
            one_by_one=options.batched or any(not h.is_async and not h.wait for h in own),
        )
        self.name = name
        self.after = after
        self.ended_run = ended  # whose events it replays
        self.order = -1  # its place among all subscribers, set when it is attached
        self.kinds = tuple(kinds)
        self.run = run
        self.options = options
        self.is_stream = hook is None and hooks is None
        self.has_hooks = bool(hooks)
        self._hook = hook
        self._hooks = hooks or {}
        # Whether a task calls it; else only the training thread does.
        self.needs_worker = any(h.is_async or not h.wait for h in own)
        # A concurrent `async def` handler that is awaited for each event, without further ado.
        plain = hook is not None and hook.is_async and not hook.wait
        plain = plain and not options.batched and options.timeout is None
        self.direct = hook.function if hook is not None and plain else None
        self._failure: BaseException | None = None  # raised by a stream's own predicate
        self._opened = not self.is_stream
        self.scope: anyio.CancelScope | None = None  # the worker's, while there is one
        self.coroutine: Any = None  # the worker's
        self.turn: Any = threading.RLock()  # one `def` call at a time, over all runs

    def cancel(self) -> None:
        """Ends it: nothing but what is in flight is delivered any more. Idempotent, any thread."""
        with self._lock:
            if self.ended:
                return
            self.ended = self.closing = True
            self.undelivered += len(self.mailbox)
            markers = self.mailbox.clear()
            self.give_up(markers)
            self._end()
        self._bus.wakeup.flush()
        self._runs.ring()

    def mark(self) -> Callable[[float], bool]:
        """Marks the place after all that came so far. Any thread; doesn't wait.

        Returns:
            Waits so many seconds at most until the handler is through with what was before, or
            has ended; tells whether it is. Not in the event loop, which the handler may need.
        """
        passed = Passed()
        self.put_marker(passed)
        self._bus.wakeup.flush()
        return passed.wait

    def statistics(self) -> SubscriptionStatistics:
        """Its counters at this moment; they add up. Any thread."""
        with self._lock:
            return SubscriptionStatistics.of(self, self._runs.seconds(self.run))

    async def __aenter__(self) -> Self:
        """Opens the stream: from here on it holds events."""
        if not self.is_stream:
            raise FitbusError(f"{self!r} calls a handler; a stream comes from `subscribe`")
        if self._opened or self.ended:
            raise FitbusError(f"{self!r} was opened before; `subscribe` again for another stream")
        self._bus.open_stream(self)
        self._opened = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the stream; what was not taken is lost, and counted."""
        self.cancel()

    def __aiter__(self) -> Self:
        """The stream itself."""
        return self

    async def __anext__(self) -> E_co:
        """The next event; waits for it. Cancelling the wait neither loses nor doubles one.

        Raises:
            FitbusError: The stream was not opened with `async with`.
            StopAsyncIteration: The stream, its run or the bus has ended, and all was handed out.
        """
        if not self._opened or not self.is_stream:
            raise FitbusError(
                f"{self!r} is not open; write `async with bus.subscribe(...) as events:`"
            )
        if self.unyielded >= _YIELD_AFTER:
            self.unyielded = 0  # first: whoever only looks, without waiting, is cancelled here
            await anyio.lowlevel.checkpoint()
        while True:
            item = self.take()
            if isinstance(item, Event):
                self.unyielded += 1
                if not isinstance(item, Lagged):
                    self.delivered += 1
                return item  # type: ignore[return-value]  # what was offered is of its kinds
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            if self.closing:
                raise StopAsyncIteration
            await self.wait_for_change()

    def hook_for(self, kind: type[Event]) -> Hook | None:
        """How it is called for a type; None for a stream."""
        return self._hook or self._hooks.get(kind)

    def matches(self, kind: type[Event], run: str) -> bool:
        """Whether it wants a type of a run."""
        if self.closing or self.run not in (None, run):
            return False
        return kind in self._hooks if self._hooks else issubclass(kind, self.kinds)

    def ends_at(self, error: BaseException) -> bool:
        """Whether it gets no further event after what its handler or predicate raised."""
        return self.is_stream or self.options.on_error != "log" or not isinstance(error, Exception)

    def close(self) -> None:
        """Takes no more events; what it has is still handed out."""
        with self._lock:
            self.closing = True
            self._end()
        self._bus.wakeup.flush()
        self._runs.ring()

    def fail_stream(self, error: BaseException) -> None:
        """Hands the error of a stream's predicate to its consumer."""
        self._failure = error
        self.close()

    def report(self) -> SubscriberReport:
        """What it got in the end."""
        with self._lock:
            return SubscriberReport.made(self.statistics(), self.undelivered)

    def _end(self) -> None:
        """Leaves the bus, and lets its worker or consumer know."""
        is_in_use = self._bus.hosting.in_use
        self._bus.forget(self)
        if is_in_use:
            self._arm()
        else:
            self._bus.wakeup.drop(self)

    def __repr__(self) -> str:
        """Shows its types and where it stands."""
        kinds = ", ".join(kind.__name__ for kind in self.kinds)
        state = "ended" if self.ended else "closing" if self.closing else "open"
        if not self._opened:
            state = "not opened"
        return f"<Subscription {self.name!r} to {kinds}: {state}, {len(self.mailbox)} queued>"

    def __del__(self) -> None:
        """Warns about a stream that was opened and never closed."""
        if self.__dict__.get("is_stream") and self._opened and not self.ended:
            warnings.warn(f"{self!r} was not closed; use `async with`", ResourceWarning, 2)
