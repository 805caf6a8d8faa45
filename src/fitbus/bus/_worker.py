"""The task that calls one subscriber's handler, event by event."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, final

import anyio
import anyio.lowlevel

from fitbus._loops import Alarm, run_in_daemon_thread
from fitbus.bus._calls import Call, Mark, Passed, Turn
from fitbus.bus._mailbox import Item
from fitbus.bus._policy import answered
from fitbus.bus._staying import Stay
from fitbus.control import Control
from fitbus.errors import FitbusError, HandlerTimeoutError, InvalidHandlerError
from fitbus.events import Event, Lagged

if TYPE_CHECKING:
    from fitbus.bus._bus import Bus
    from fitbus.bus._host import Host
    from fitbus.bus._options import Hook
    from fitbus.bus._publisher import Publisher
    from fitbus.bus._subscription import Subscription

__all__ = ["Standing", "controls_of", "standing", "stands_in", "stood_for", "work"]

_YIELD_AFTER = 128  # events in a row, after which a busy worker lets other tasks run


@final
class Standing:
    """Marks, for whoever is called by it, that training stands still for a handler of a run.

    Attributes:
        publisher: The run's.
        in_thread: Whether that is a `def` handler, in the training thread itself.
        active: Whether the handler hasn't returned yet.
    """

    __slots__ = ("active", "in_thread", "publisher")

    def __init__(self, publisher: Publisher | None, *, in_thread: bool = False) -> None:
        self.publisher = publisher
        self.in_thread = in_thread
        self.active = True


standing: ContextVar[Standing | None] = ContextVar("fitbus_standing", default=None)


def stood_for() -> Publisher | None:
    """The publisher of the run that stands still until the calling handler returns, if any."""
    mark = standing.get()
    return None if mark is None or not mark.active else mark.publisher


def stands_in(publisher: Publisher) -> bool:
    """Whether the caller is a waiting `def` handler of a run, in its training thread."""
    mark = standing.get()
    return mark is not None and mark.active and mark.in_thread and mark.publisher is publisher


async def work(subscription: Subscription[Any], bus: Bus, host: Host) -> None:
    """Handles what comes, until the subscription ends or its host leaves.

    The scope is shielded: it is the bus that ends its workers, after `TrainEnd`, not a cancelled
    caller of `fit`.
    """
    with anyio.CancelScope(shield=True) as scope:
        subscription.scope = scope
        subscription.alarm = Alarm()
        try:
            await _loop(subscription, bus, host, subscription.alarm)
        except anyio.get_cancelled_exc_class():
            if scope.cancel_called:
                raise
            # Cancelled natively, by its own handler for one. The task ends here: letting this go on
            # would cancel the whole task group, the caller of `fit` with it.
        finally:
            subscription.scope = subscription.alarm = subscription.coroutine = None
            if not host.leaving:
                subscription.cancel()
            bus.hosting.worker_left(subscription)


async def _loop(subscription: Subscription[Any], bus: Bus, host: Host, alarm: Alarm) -> None:
    # A host that is being left hands its handlers over at once, if there is another one.
    while not subscription.ended and not (host.leaving and bus.hosting.hosts):
        items = subscription.take_some()
        if items:
            await _handle_items(subscription, bus, items)
        elif subscription.closing:
            subscription.cancel()
        elif host.leaving:
            return
        else:
            await alarm.sleep()


async def _handle_items(subscription: Subscription[Any], bus: Bus, items: list[Any]) -> None:
    """Handles items in order; what one that ends on the way leaves behind is counted as lost."""
    # Several are events, and no `Lagged` is among them; so the first one tells for all.
    is_plain = isinstance(items[0], Event) and type(items[0]) is not Lagged
    direct = subscription.direct if is_plain else None
    started = time.perf_counter()
    place = 0
    try:
        for item in items:
            place += 1
            if direct is not None:
                # What `_handle` would come down to, at half the cost.
                try:
                    result = await direct(item)
                    if result is not None:
                        _answer(subscription, bus, item, result)
                except BaseException as error:
                    if _fail(subscription, bus, item, error):
                        raise
                finally:
                    subscription.delivered += 1
            elif isinstance(item, Event):
                await _handle(subscription, bus, item)
            else:
                started += await _reach(subscription, bus, item)
            if subscription.ended:
                break
    finally:
        subscription.unyielded += place
        subscription.seconds += time.perf_counter() - started
        if place < len(items):
            subscription.give_up(items[place:])
    if subscription.unyielded >= _YIELD_AFTER:
        subscription.unyielded = 0
        await anyio.lowlevel.checkpoint()


async def _reach(subscription: Subscription[Any], bus: Bus, marker: Item) -> float:
    """Does what a marker is there for; returns the seconds in it that a thread counts as its."""
    if isinstance(marker, Call):
        await _call(subscription, bus, marker)
    elif isinstance(marker, Turn):
        began = time.perf_counter()
        await marker.hold()
        return time.perf_counter() - began
    elif isinstance(marker, Mark | Passed):
        marker.finish()
    return 0.0


async def _call(subscription: Subscription[Any], bus: Bus, call: Call) -> None:
    """Calls a waiting handler, for which a thread stands still."""
    subscription.called += 1
    mark = Standing(bus.publisher_of(call.event))
    token = standing.set(mark if call.waited_for else None)
    try:
        function = call.hook.function
        argument = (call.event,) if call.logs is None else (call.event, call.logs)
        call.result = controls_of(
            subscription, await _within(subscription, lambda: function(*argument))
        )
    except anyio.get_cancelled_exc_class():
        call.error = _cancelled(subscription)
        raise
    except BaseException as error:  # noqa: BLE001  # the policy decides; it isn't lost
        call.error = error
    finally:
        mark.active = False
        standing.reset(token)
        subscription.delivered += 1
        call.finish()
    if not call.waited_for:
        answered(
            bus.publisher_of(call.event), subscription, call.event, call.result or (), call.error
        )


async def _handle(subscription: Subscription[Any], bus: Bus, event: Event) -> None:
    """Calls a concurrent handler: with one event, with a batch, or with a thread's worth."""
    hook = subscription.hook_for(type(event))
    assert hook is not None
    if not hook.is_async:
        began = time.perf_counter()
        stay = subscription.stay = Stay(subscription, bus)
        try:
            await run_in_daemon_thread(
                lambda: _handle_in_thread(subscription, bus, hook, event, stay),
                f"fitbus handler {subscription.name}",
            )
        finally:
            subscription.stay = None
            stay.leave()
            subscription.seconds -= time.perf_counter() - began  # it has counted its own
        return
    options = subscription.options
    argument: Any = _batch(subscription, event) if options.batched else event
    try:
        result = await _within(subscription, lambda: hook.function(argument))
        if result is not None:
            _answer(subscription, bus, event, result)
    except BaseException as error:
        if _fail(subscription, bus, event, error):
            raise
    finally:
        subscription.delivered += _count(argument) if options.batched else type(event) is not Lagged


def _answer(subscription: Subscription[Any], bus: Bus, event: Event, result: object) -> None:
    """Passes on what a concurrent handler returned."""
    controls = controls_of(subscription, result)
    answered(bus.publisher_of(event), subscription, event, controls, None)


def _fail(subscription: Subscription[Any], bus: Bus, event: Event, error: BaseException) -> bool:
    """Deals with what a concurrent `async def` handler raised; its policy decides.

    Returns:
        Whether it is a cancellation, which has to go on.
    """
    is_cancelled = isinstance(error, anyio.get_cancelled_exc_class())
    shown = _cancelled(subscription) if is_cancelled else error
    answered(bus.publisher_of(event), subscription, event, (), shown)
    return is_cancelled


def _cancelled(subscription: Subscription[Any]) -> FitbusError:
    return FitbusError(f"handler {subscription.name} was cancelled while it ran")


def _handle_in_thread(
    subscription: Subscription[Any], bus: Bus, hook: Hook, first: Event, stay: Stay
) -> None:
    """Calls a `def` handler in a thread, which stays for what comes next."""
    batched = subscription.options.batched
    event: Event | None = first
    while event is not None:
        argument: Any = _batch(subscription, event) if batched else event
        stay.begin()
        try:
            result = hook.function(argument)
            if result is not None:
                _answer(subscription, bus, event, result)
        except BaseException as error:  # noqa: BLE001  # the policy decides; it isn't lost
            answered(bus.publisher_of(event), subscription, event, (), error)
        finally:
            stay.end()
            subscription.delivered += _count(argument) if batched else type(event) is not Lagged
        event = stay.next()


def _batch(subscription: Subscription[Any], first: Event) -> list[Event]:
    events = [first]
    while (event := subscription.take_event()) is not None:
        events.append(event)
    return events


def _count(events: list[Event]) -> int:
    return sum(type(event) is not Lagged for event in events)


async def _within(subscription: Subscription[Any], call: Callable[[], Any]) -> Any:
    """Awaits a handler's answer, within its timeout if it has one."""
    timeout = subscription.options.timeout
    if timeout is None:
        return await call()
    with anyio.CancelScope(deadline=anyio.current_time() + timeout) as scope:
        return await call()
    assert scope.cancelled_caught
    raise HandlerTimeoutError(f"{subscription.name} did not return within {timeout:g} s (timeout)")


def controls_of(subscription: Subscription[Any], result: object) -> tuple[Control, ...]:
    """What a handler returned, as controls.

    Raises:
        InvalidHandlerError: It is neither None, a control, nor a list of controls.
    """
    if result is None:
        return ()
    if isinstance(result, Control):
        return (result,)
    if isinstance(result, list | tuple) and all(isinstance(item, Control) for item in result):
        return tuple(result)
    allowed = "return None, a Control or a list of controls"
    for item in result if isinstance(result, list | tuple) else (result,):
        if isinstance(item, type) and issubclass(item, Control):
            bare = len(item.__struct_fields__) == len(item.__struct_defaults__)
            call = f"{item.__name__}{'()' if bare else '(...)'}"
            allowed += f"; {item.__name__} is the class: return an instance, `{call}`"
    raise InvalidHandlerError(f"the result of handler {subscription.name}", result, allowed)
