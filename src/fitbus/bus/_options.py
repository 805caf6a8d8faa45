"""How a handler wants to be called: the options of `Bus.add`, checked at the door."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar, final, get_args

from fitbus.errors import InvalidArgumentError, InvalidHandlerError, one_of
from fitbus.events import Event, is_rare

__all__ = [
    "Handler",
    "HandlerOptions",
    "Hook",
    "OnError",
    "Options",
    "Overflow",
    "check_decorator",
    "check_event_type",
    "declared",
    "event_types",
    "handler",
    "is_coroutine_function",
    "name_of",
]

Overflow: TypeAlias = Literal["block", "drop_oldest", "drop_newest", "latest"]
OnError: TypeAlias = Literal["raise", "log", "stop", "unsubscribe"]
Handler: TypeAlias = Callable[[Any], Any]

H = TypeVar("H", bound=Callable[..., Any])


class HandlerOptions(TypedDict, total=False):
    """Keyword options of `Bus.add`, `Bus.on`, `Run.add`, `Run.on` and `fitbus.handler`.

    Attributes:
        wait: True: training waits for the handler. False: training goes on, and the handler has a
            bounded mailbox of its own. Default: True for `def`; for `async def` True if all its
            types are begin or end of a train, epoch, test or predict, else False.
        every: Takes each n-th matching event (the n-th, the 2n-th, ...).
        where: A predicate on the event. Runs in the publishing thread; if it raises, that is an
            error of this subscriber.
        every_s: At most one event in so many seconds (`wait=False` only).
        batched: The handler takes a `Sequence` of all that has gathered (`wait=False` only).
        timeout: Seconds that one call may take (`async def` only); expiry is an error.
        overflow: What a full mailbox does (`wait=False` only): `"block"` (default: nothing is lost,
            training is held at the next step boundary), `"drop_oldest"`, `"drop_newest"`,
            `"latest"`.
        buffer_size: Events that the mailbox holds (`wait=False` only). Default 1024.
        on_error: `"raise"` (default: the run fails at the next boundary), `"log"` (it goes on
            receiving), `"stop"` (a StopTraining with the cause), `"unsubscribe"`.
        name: What the subscriber is called in reports. Default: the function's qualified name.
    """

    wait: bool
    every: int
    where: Callable[[Any], object] | None
    every_s: float | None
    batched: bool
    timeout: float | None
    overflow: Overflow
    buffer_size: int
    on_error: OnError
    name: str


@final
@dataclasses.dataclass(frozen=True)
class Hook:
    """One function that is called for events, and how."""

    function: Callable[..., Any]
    is_async: bool
    wait: bool
    shares_logs: bool = False  # called with the event and a copy of its logs that hooks may add to


@final
@dataclasses.dataclass(frozen=True)
class Options:
    """The checked options of one subscription."""

    every: int = 1
    where: Callable[[Any], object] | None = None
    every_s: float | None = None
    batched: bool = False
    timeout: float | None = None
    overflow: Overflow = "block"
    buffer_size: int = 1024
    on_error: OnError = "raise"

    def __post_init__(self) -> None:
        _whole("every", self.every)
        _whole("buffer_size", self.buffer_size)
        _seconds("every_s", self.every_s)
        _seconds("timeout", self.timeout)
        if self.where is not None and (
            not callable(self.where) or is_coroutine_function(self.where)
        ):
            raise InvalidArgumentError(
                "where",
                self.where,
                "give a `def` function of the event: it runs where that is published",
            )
        if not isinstance(self.batched, bool):
            raise InvalidArgumentError("batched", self.batched, "allowed are True, False")
        if self.overflow not in get_args(Overflow):
            raise InvalidArgumentError("overflow", self.overflow, one_of(get_args(Overflow)))
        if self.on_error not in get_args(OnError):
            raise InvalidArgumentError("on_error", self.on_error, one_of(get_args(OnError)))

    @classmethod
    def checked(
        cls, function: Handler, kinds: Sequence[type[Event]], given: HandlerOptions
    ) -> tuple[Hook, Options]:
        """Resolves the mode of a handler, and refuses pairs of options that make no sense."""
        unknown = sorted(given.keys() - HandlerOptions.__annotations__.keys())
        if unknown:
            raise InvalidArgumentError(
                unknown[0], given.get(unknown[0]), one_of(HandlerOptions.__annotations__)
            )
        is_async = is_coroutine_function(function)
        wait = given.get("wait", not is_async or all(is_rare(kind) for kind in kinds))
        if not isinstance(wait, bool):
            raise InvalidArgumentError("wait", wait, "allowed are True, False")
        only_concurrent = ("every_s", "batched", "overflow", "buffer_size")
        for option in only_concurrent:
            if wait and given.get(option) not in (None, False):
                raise InvalidArgumentError(
                    option,
                    given.get(option),
                    f"{name_of(function)} is called with wait=True; add wait=False, or leave"
                    f" {option} out",
                )
        if given.get("timeout") is not None and not is_async:
            raise InvalidArgumentError(
                "timeout",
                given.get("timeout"),
                f"{name_of(function)} is a `def`, which can't be interrupted; make it `async def`",
            )
        name = given.get("name", "a name")
        if not isinstance(name, str) or not name:
            raise InvalidArgumentError("name", name, "give a text")
        fields = {k: v for k, v in given.items() if k not in ("wait", "name")}
        return Hook(function, is_async, wait), cls(**fields)  # type: ignore[arg-type]  # a TypedDict's items are objects


def handler(*kinds: type[Event], **options: typing.Unpack[HandlerOptions]) -> Callable[[H], H]:
    """Declares, on a function, which events it handles and how.

    The function can then be passed to `callbacks=[...]` and `bus.add` as it is:

    >>> from fitbus.events import BatchEnd
    >>> @handler(BatchEnd, every=10, overflow="latest")
    ... async def plot(event: BatchEnd) -> None: ...

    Args:
        kinds: Event types; none means those of the annotation.
        options: See `HandlerOptions`.

    Raises:
        InvalidArgumentError: An event type, an option, or a pair of options, makes no sense.
        InvalidHandlerError: The function doesn't take one event, or its types can't be told.
    """
    check_decorator("fitbus.handler", kinds)

    def declare(function: H) -> H:
        resolved = event_types(function, kinds)
        Options.checked(function, resolved, options)
        try:
            function.__fitbus_handler__ = (resolved, options)  # type: ignore[attr-defined]  # read by `declared`
        except AttributeError as error:
            raise InvalidHandlerError(
                "handler",
                function,
                "options can be declared on functions only, not on methods of an object; give them"
                " to `bus.add`",
            ) from error
        return function

    return declare


def declared(function: Handler) -> tuple[tuple[type[Event], ...], HandlerOptions]:
    """What `fitbus.handler` declared on a function, or nothing."""
    found: tuple[tuple[type[Event], ...], HandlerOptions] | None = getattr(
        function, "__fitbus_handler__", None
    )
    return found or ((), {})


def event_types(function: Handler, kinds: Sequence[type[Event]]) -> tuple[type[Event], ...]:
    """The event types of a handler: those given, else those of its annotation; both checked."""
    for kind in kinds:
        check_event_type("kinds", kind)
    if not callable(function):
        raise InvalidHandlerError("handler", function, "give a function that takes one event")
    try:
        signature = inspect.signature(function)
        signature.bind(object())
    except (TypeError, ValueError) as error:
        raise InvalidHandlerError(
            "handler", function, f"it must take one event, positionally ({error})"
        ) from error
    if kinds:
        return tuple(kinds)
    return _annotated(function, signature)


def check_event_type(argument: str, kind: object) -> None:
    """Refuses what is no event type."""
    if not (isinstance(kind, type) and issubclass(kind, Event)):
        raise InvalidArgumentError(argument, kind, "give subclasses of fitbus.Event")


def check_decorator(name: str, kinds: Sequence[object]) -> None:
    """Refuses what are no event types, such as the function itself: without parentheses."""
    for kind in kinds:
        if callable(kind) and not isinstance(kind, type):
            raise InvalidArgumentError(
                "kinds",
                kind,
                "give subclasses of fitbus.Event; to decorate a function, write them in"
                f" parentheses: `@{name}(EpochEnd)`",
            )
        check_event_type("kinds", kind)


def _annotated(function: Handler, signature: inspect.Signature) -> tuple[type[Event], ...]:
    first = next(iter(signature.parameters))
    target = function.func if isinstance(function, functools.partial) else function
    if not inspect.isroutine(target):
        target = type(target).__call__
    found: Any = signature.parameters[first].annotation
    if found is inspect.Parameter.empty:
        raise _untold(function, first, "which has none")
    try:
        annotation = typing.get_type_hints(target).get(first)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise _untold(
            function, first, f"{_shown(found)}, which can't be resolved ({why})"
        ) from error
    if typing.get_origin(annotation) is Sequence:
        annotation = typing.get_args(annotation)[0]
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    kinds: tuple[Any, ...] = typing.get_args(annotation) if union else (annotation,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, Event)):
            raise _untold(function, first, f"{_shown(kind)}, which is no event type")
    return tuple(kinds)


def _shown(annotation: object) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _untold(function: Handler, parameter: str, why: str) -> InvalidHandlerError:
    return InvalidHandlerError(
        "handler",
        function,
        f"the event types can't be told from the annotation of {parameter!r}, {why}; name them:"
        " `@fitbus.handler(EpochEnd)`, or `bus.add(handler, EpochEnd)`",
    )


def is_coroutine_function(function: Handler) -> bool:
    """Whether calling it gives a coroutine; sees through `functools.partial` and `__call__`."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004  # the method itself is looked at
    )


def name_of(function: object) -> str:
    """What a handler is called in reports and messages."""
    if isinstance(function, functools.partial):
        return name_of(function.func)
    return getattr(function, "__qualname__", None) or type(function).__qualname__


def _whole(argument: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidArgumentError(argument, value, "give a whole number of at least 1")


def _seconds(argument: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise InvalidArgumentError(argument, value, "give seconds, a number above 0")
