"""How one subscribes: the methods that a bus and a run share."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

import anyio

from fitbus.bus._options import (
    Handler,
    HandlerOptions,
    Hook,
    Options,
    Overflow,
    check_decorator,
    check_event_type,
    declared,
    event_types,
    name_of,
)
from fitbus.bus._subscription import Subscription
from fitbus.bus._worker import stood_for
from fitbus.errors import InvalidArgumentError, RunEndedError, WouldDeadlockError
from fitbus.events import Event

if TYPE_CHECKING:
    from fitbus.bus._publisher import Publisher

__all__ = ["Subscribable"]

A = TypeVar("A", bound=Event)
B = TypeVar("B", bound=Event)
C = TypeVar("C", bound=Event)
H = TypeVar("H", bound=Callable[..., Any])


class Subscribable(abc.ABC):
    """Where handlers and streams are attached: a `Bus`, or a `Run` for its own events."""

    @abc.abstractmethod
    def attach_subscription(
        self,
        kinds: Sequence[type[Event]],
        options: Options,
        *,
        name: str,
        hook: Hook | None = None,
        hooks: Mapping[type[Event], Hook] | None = None,
    ) -> Subscription[Any]:
        """Makes a subscription for a handler, or for the hooks of a callback, and attaches it."""

    @abc.abstractmethod
    def make_stream(
        self, kinds: Sequence[type[Event]], options: Options, *, after: int | None
    ) -> Subscription[Any]:
        """Makes the subscription of a stream that isn't open yet."""

    @abc.abstractmethod
    def carries(self, publisher: Publisher) -> bool:
        """Whether the events of this publisher can come here."""

    @abc.abstractmethod
    def ended_id(self) -> str | None:
        """Of what it is said that it ended: a run's id, or None for the bus."""

    def add(
        self, handler: Handler, *kinds: type[Event], **options: Unpack[HandlerOptions]
    ) -> Subscription[Any]:
        """Subscribes a handler, strongly referenced until `cancel()`.

        The handler takes one event and returns None, a control, or a list of controls, which count
        as sent by it. Calls of one handler never overlap, and come in `seq` order within a run.

        Args:
            handler: A function or a coroutine function of one event.
            kinds: Event types; subclasses are included. None given: those of `fitbus.handler`, else
                of the annotation.
            options: See `HandlerOptions`; they go before those declared with `fitbus.handler`.

        Raises:
            InvalidHandlerError: The handler doesn't take one event, or its types can't be told.
            InvalidArgumentError: An event type, an option or a pair of options makes no sense.
            BusClosedError: The bus was closed.
        """
        known, declared_options = declared(handler)
        resolved = event_types(handler, kinds or known)
        given: HandlerOptions = {**declared_options, **options}
        hook, checked = Options.checked(handler, resolved, given)
        name = given.get("name", name_of(handler))
        return self.attach_subscription(resolved, checked, name=name, hook=hook)

    def on(self, *kinds: type[Event], **options: Unpack[HandlerOptions]) -> Callable[[H], H]:
        """The same as `add`, as a decorator; the function stays what it was.

        >>> import fitbus
        >>> bus = fitbus.Bus()
        >>> @bus.on(fitbus.EpochEnd)
        ... async def report(event: fitbus.EpochEnd) -> None: ...
        """
        check_decorator("bus.on", kinds)

        def subscribe(handler: H) -> H:
            self.add(handler, *kinds, **options)
            return handler

        return subscribe

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
        """A stream of events, to be opened with `async with` and read with `async for`.

        It holds events only while it is open. Order: `seq` within a run. Loss: as `overflow` says,
        counted, and told by a `Lagged` in its place if that type is subscribed to as well.

        Args:
            kinds: Event types; subclasses are included.
            where: A predicate; runs in the publishing thread. If it raises, so does the stream.
            every: Takes each n-th matching event.
            overflow: What a full mailbox does; `"block"` holds training at the next step boundary.
            buffer_size: How many events it holds.
            after: Replays the retained events after this `seq` (of the bus' latest run), then goes
                on live without gap or duplicate; -1 for all of them. Too old: a `Lagged` first. Of
                a run that has ended, too: then the stream ends with the last of them.

        Raises:
            InvalidArgumentError: An argument makes no sense.
            RunEndedError: The run has ended, and there is no `after`.
        """
        if not kinds:
            raise InvalidArgumentError("kinds", kinds, "give at least one event type")
        for kind in kinds:
            check_event_type("kinds", kind)
        if after is not None and (isinstance(after, bool) or not isinstance(after, int)):
            raise InvalidArgumentError("after", after, "give the `seq` of an event, a whole number")
        options = Options(every=every, where=where, overflow=overflow, buffer_size=buffer_size)
        return self.make_stream(kinds, options, after=after)

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
        """Waits for the next matching event.

        Args:
            kinds: Event types; subclasses are included.
            where: A predicate; runs in the publishing thread.
            timeout: Seconds; None waits as long as it takes.

        Raises:
            TimeoutError: None came in time.
            RunEndedError: The run, or the bus, ended first.
            WouldDeadlockError: Called by a waiting handler of the run, for which training stands
                still.
        """
        self.check_not_standing("wait_for")
        Options(where=where, timeout=timeout)
        found = False

        def is_first(event: Event) -> bool:
            """Lets one event in: the next one, whatever comes before it is looked at."""
            nonlocal found
            if found:
                return False
            found = where is None or bool(where(event))
            return found

        stream = self.subscribe(*kinds, where=is_first, buffer_size=1)
        async with stream:
            with anyio.move_on_after(timeout) as scope:
                async for event in stream:
                    return event
        names = " or ".join(kind.__name__ for kind in kinds)
        if timeout is not None and scope.cancelled_caught:
            raise TimeoutError(f"no matching {names} came within {timeout:g} s (timeout)")
        raise RunEndedError(self.ended_id(), f"a matching {names} came")

    def check_not_standing(self, what: str) -> None:
        """Refuses a wait for training by a handler for which training stands still."""
        publisher = stood_for()
        if publisher is not None and self.carries(publisher):
            raise WouldDeadlockError(
                f"{what} inside a waiting handler of run {publisher.run!r} would never end:"
                " training stands still until the handler returns; subscribe it with wait=False"
            )
