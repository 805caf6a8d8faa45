"""Wrong arguments: each message names the argument, what was found and what is allowed."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

import fitbus
from fitbus import BatchEnd, Bus, EpochEnd, Event, TrainEnd
from fitbus.errors import FitbusError, InvalidArgumentError, InvalidHandlerError
from fitbus.testing import EventRecorder

if TYPE_CHECKING:
    from fitbus import EpochBegin  # where the annotation is resolved, it isn't there

pytestmark = pytest.mark.anyio


def call(event: BatchEnd) -> None: ...
async def acall(event: BatchEnd) -> None: ...
async def decide(event: EpochEnd) -> None: ...
async def gather(events: Sequence[BatchEnd]) -> None: ...


def check_refusal(
    attempt: Callable[[], object], argument: str, found: object, allowed: str
) -> InvalidArgumentError:
    """It is refused, with a message that says all three; returns the error."""
    with pytest.raises(InvalidArgumentError) as caught:
        attempt()
    error = caught.value
    assert isinstance(error, FitbusError | ValueError)
    assert error.argument == argument
    assert error.found is found or error.found == found
    assert str(error).startswith(f"{argument}: found {found!r}"[:100])
    assert allowed in error.allowed
    assert str(error).endswith(error.allowed)
    return error


@pytest.mark.parametrize("tail_size", [0, -1, 1.5, True, "10", None])
def test_a_tail_size_is_a_whole_number_from_1(tail_size: Any) -> None:
    check_refusal(
        lambda: Bus(tail_size=tail_size), "tail_size", tail_size, "whole number of at least 1"
    )


NUMBERS = [0, -1, 1.5, True, "1", None]
SECONDS = [0, -1.0, float("nan"), True, "1"]
OPTIONS = [
    *(("every", value, "whole number of at least 1") for value in NUMBERS),
    *(("buffer_size", value, "whole number of at least 1") for value in NUMBERS),
    *(("every_s", value, "seconds, a number above 0") for value in SECONDS),
    *(("timeout", value, "seconds, a number above 0") for value in SECONDS),
    ("overflow", "drop", "'block', 'drop_oldest', 'drop_newest', 'latest'"),
    ("overflow", None, "'block', 'drop_oldest', 'drop_newest', 'latest'"),
    ("overflow", ["block"], "'block', 'drop_oldest', 'drop_newest', 'latest'"),
    ("on_error", "ignore", "'raise', 'log', 'stop', 'unsubscribe'"),
    ("on_error", None, "'raise', 'log', 'stop', 'unsubscribe'"),
    ("wait", "yes", "True, False"),
    ("wait", None, "True, False"),
    ("wait", 1, "True, False"),
    ("batched", 1, "True, False"),
    ("batched", "yes", "True, False"),
    ("where", "loss < 1", "`def` function of the event"),
    ("where", acall, "`def` function of the event"),
    ("name", "", "text"),
    ("name", 5, "text"),
    ("buffersize", 5, "'buffer_size'"),
    ("after", 5, "'wait', 'every', 'where'"),
]


@pytest.mark.parametrize(("option", "value", "allowed"), OPTIONS)
def test_an_option_of_a_handler_that_makes_no_sense_is_refused(
    option: str, value: Any, allowed: str
) -> None:
    """By `add`, `on` and `fitbus.handler` alike; nobody is subscribed."""
    bus = Bus()
    options: dict[str, Any] = {"wait": False, option: value}
    check_refusal(lambda: bus.add(acall, **options), option, value, allowed)
    check_refusal(lambda: bus.on(BatchEnd, **options)(acall), option, value, allowed)
    check_refusal(lambda: fitbus.handler(BatchEnd, **options)(acall), option, value, allowed)
    assert bus.statistics().subscriptions == ()


@pytest.mark.parametrize(
    ("handler", "options", "argument", "allowed"),
    [
        (call, {"every_s": 1.0}, "every_s", "call is called with wait=True; add wait=False"),
        (acall, {"wait": True, "every_s": 1.0}, "every_s", "acall is called with wait=True"),
        (decide, {"every_s": 1.0}, "every_s", "decide is called with wait=True"),
        (call, {"batched": True}, "batched", "add wait=False, or leave batched out"),
        (gather, {"wait": True, "batched": True}, "batched", "add wait=False"),
        (call, {"overflow": "block"}, "overflow", "add wait=False, or leave overflow out"),
        (acall, {"wait": True, "overflow": "latest"}, "overflow", "add wait=False"),
        (call, {"buffer_size": 1024}, "buffer_size", "leave buffer_size out"),
        (decide, {"buffer_size": 8}, "buffer_size", "decide is called with wait=True"),
        (call, {"timeout": 2.0}, "timeout", "call is a `def`, which can't be interrupted"),
        (call, {"timeout": 2.0, "wait": False}, "timeout", "make it `async def`"),
    ],
)
def test_a_pair_of_options_that_makes_no_sense_is_refused(
    handler: Callable[[Any], Any], options: dict[str, Any], argument: str, allowed: str
) -> None:
    """The message names the handler, and what to add or to leave out."""
    bus = Bus()
    value = options[argument]
    check_refusal(lambda: bus.add(handler, **options), argument, value, allowed)
    check_refusal(lambda: fitbus.handler(**options)(handler), argument, value, allowed)
    assert bus.statistics().subscriptions == ()


def test_a_pair_declared_apart_is_refused_where_it_meets() -> None:
    """`every_s` on the function, `wait=True` in `add`."""

    @fitbus.handler(BatchEnd, every_s=1.0)
    async def note(event: BatchEnd) -> None: ...

    bus = Bus()
    check_refusal(lambda: bus.add(note, wait=True), "every_s", 1.0, "note is called with wait=True")
    assert bus.add(note).options.every_s == 1.0


@pytest.mark.parametrize(
    "kind", [int, "EpochEnd", None, EpochEnd(logs={}), BatchEnd | EpochEnd, call]
)
async def test_what_is_no_event_type_is_refused_everywhere(kind: Any) -> None:
    """Also beside one that is; a control is no event."""
    bus = Bus()
    attempts: list[Callable[[], object]] = [
        lambda: bus.add(call, kind),
        lambda: bus.add(call, BatchEnd, kind),
        lambda: bus.on(kind),
        lambda: fitbus.handler(kind)(call),
        lambda: bus.subscribe(kind),
        lambda: bus.subscribe(BatchEnd, kind),
    ]
    for attempt in attempts:
        check_refusal(attempt, "kinds", kind, "subclasses of fitbus.Event")
    with pytest.raises(InvalidArgumentError, match=r"^kinds: found .*subclasses of fitbus.Event$"):
        await bus.wait_for(kind)
    assert bus.statistics().subscriptions == ()


def nothing() -> None: ...
def two(event: Event, other: int) -> None: ...
def keyword(*, event: Event) -> None: ...


@pytest.mark.parametrize(
    ("handler", "allowed"),
    [
        (nothing, "must take one event, positionally (too many positional arguments)"),
        (two, "must take one event, positionally (missing a required argument: 'other')"),
        (keyword, "must take one event, positionally"),
        (functools.partial(two, EpochEnd(logs={}), 5), "must take one event, positionally"),
        ("call", "give a function that takes one event"),
        (None, "give a function that takes one event"),
        (5, "give a function that takes one event"),
        ([call], "give a function that takes one event"),
    ],
)
def test_what_does_not_take_one_event_is_refused(handler: Any, allowed: str) -> None:
    """With types or without; the error is a `TypeError` as well."""
    bus = Bus()
    for kinds in ((), (BatchEnd,)):
        error = check_refusal(
            lambda kinds=kinds: bus.add(handler, *kinds),  # type: ignore[misc]
            "handler",
            handler,
            allowed,
        )
        assert isinstance(error, InvalidHandlerError)
        assert isinstance(error, TypeError)
        check_refusal(
            lambda kinds=kinds: fitbus.handler(*kinds)(handler),  # type: ignore[misc]
            "handler",
            handler,
            allowed,
        )


def wrong(event: int) -> None: ...
def mixed(event: BatchEnd | int) -> None: ...
def anything(event: Any) -> None: ...
def unresolvable(event: EpochBegin) -> None: ...


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (wrong, "int, which is no event type"),
        (mixed, "int, which is no event type"),
        (anything, "Any, which is no event type"),
        (
            unresolvable,
            ("EpochBegin, which can't be resolved (NameError: name 'EpochBegin' is not defined)"),
        ),
        (lambda event: None, "which has none"),
    ],
)
def test_types_that_cannot_be_told_from_the_annotation_are_asked_for(
    handler: Any, why: str
) -> None:
    """The message says what was found, and shows both ways to name them; named, they do."""
    bus = Bus()
    allowed = (
        f"the event types can't be told from the annotation of 'event', {why}; name them:"
        " `@fitbus.handler(EpochEnd)`, or `bus.add(handler, EpochEnd)`"
    )
    check_refusal(lambda: bus.add(handler), "handler", handler, allowed)
    check_refusal(lambda: bus.on()(handler), "handler", handler, allowed)
    assert bus.add(handler, EpochEnd).kinds == (EpochEnd,)


def test_a_decorator_without_its_parentheses_is_refused_at_once() -> None:
    """With the way to write it; else the function would be replaced by the decorator's inside."""
    kind: Any = call
    allowed = "subclasses of fitbus.Event; to decorate a function, write them in parentheses: `@"
    check_refusal(
        lambda: fitbus.handler(kind), "kinds", call, allowed + "fitbus.handler(EpochEnd)`"
    )
    check_refusal(lambda: Bus().on(kind), "kinds", call, allowed + "bus.on(EpochEnd)`")


def test_types_are_told_from_the_annotation() -> None:
    """Of a union, a sequence, an object that can be called, a method, a partial."""

    class Handler:
        def __call__(self, event: EpochEnd | TrainEnd) -> None: ...
        def method(self, event: BatchEnd) -> None: ...

    def second(more: int, event: TrainEnd) -> None: ...

    bus = Bus()
    assert bus.add(Handler()).kinds == (EpochEnd, TrainEnd)
    assert bus.add(Handler().method).kinds == (BatchEnd,)
    assert bus.add(functools.partial(second, 5)).kinds == (TrainEnd,)
    assert bus.add(gather, wait=False, batched=True).kinds == (BatchEnd,)
    assert bus.add(EventRecorder()).kinds == (Event,)


def test_options_on_a_bound_method_are_refused_with_the_way_out() -> None:
    class Plot:
        def show(self, event: BatchEnd) -> None: ...

    show = Plot().show
    check_refusal(lambda: fitbus.handler(BatchEnd)(show), "handler", show, "give them to `bus.add`")


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        *((o, v, a) for o, v, a in OPTIONS if o in ("every", "buffer_size", "overflow", "where")),
        ("after", 1.0, "the `seq` of an event, a whole number"),
        ("after", True, "the `seq` of an event, a whole number"),
        ("after", "5", "the `seq` of an event, a whole number"),
    ],
)
def test_an_option_of_a_stream_that_makes_no_sense_is_refused(
    option: str, value: Any, allowed: str
) -> None:
    options: dict[str, Any] = {option: value}
    check_refusal(lambda: Bus().subscribe(EpochEnd, **options), option, value, allowed)


def test_a_stream_of_nothing_is_refused() -> None:
    kinds: list[type[Event]] = []
    check_refusal(lambda: Bus().subscribe(*kinds), "kinds", (), "at least one event type")


async def test_waiting_for_nothing_or_in_a_strange_way_is_refused() -> None:
    """At once, and nothing is left on the bus."""
    bus = Bus()
    kinds: list[type[Event]] = []
    with pytest.raises(InvalidArgumentError, match=r"^kinds: found \(\); .*at least one"):
        await bus.wait_for(*kinds)
    strange: Any
    for strange in SECONDS:
        pattern = rf"^timeout: found {re.escape(repr(strange))}; .*seconds"
        with pytest.raises(InvalidArgumentError, match=pattern):
            await bus.wait_for(EpochEnd, timeout=strange)
    for strange in ("loss < 1", acall):
        with pytest.raises(InvalidArgumentError, match=r"^where: found .*; .*`def` function"):
            await bus.wait_for(EpochEnd, where=strange)
    assert bus.statistics().subscriptions == ()


@pytest.mark.parametrize("drain_s", [-1, -0.5, float("nan"), True, "1", None])
async def test_a_drain_that_makes_no_sense_is_refused(drain_s: Any) -> None:
    """And the bus is as open as before."""
    pattern = rf"^drain_s: found {re.escape(repr(drain_s))}; .*seconds, a number of at least 0"
    async with Bus() as bus:
        with pytest.raises(InvalidArgumentError, match=pattern):
            await bus.aclose(drain_s=drain_s)
        recorder = EventRecorder()
        bus.add(recorder, wait=False)
        bus.publisher().publish(EpochEnd(logs={}))
    assert recorder.names == ["EpochEnd"]


def test_a_long_value_is_shortened_in_the_message() -> None:
    """So that the rest of it can be read."""
    overflow: Any = 5000 * "x"
    with pytest.raises(InvalidArgumentError) as caught:
        Bus().subscribe(EpochEnd, overflow=overflow)
    assert len(str(caught.value)) < 300
    assert "'block'" in str(caught.value)


def test_a_run_that_is_live_is_not_begun_again() -> None:
    """Its id is named; once it has ended it is free."""
    bus = Bus()
    bus.publisher(run="mine")
    check_refusal(lambda: bus.publisher(run="mine"), "run", "mine", "choose another")
    bus.finish_run("mine")
    assert bus.publisher(run="mine").run == "mine"
