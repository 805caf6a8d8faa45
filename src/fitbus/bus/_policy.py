"""What becomes of a handler's answer: its controls, or its error."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fitbus.control import Control, StopTraining
from fitbus.errors import InvalidArgumentError
from fitbus.events import Event, HandlerFailed

if TYPE_CHECKING:
    from fitbus.bus._publisher import Publisher
    from fitbus.bus._subscription import Subscription

__all__ = ["answered", "failed", "obey"]

_logger = logging.getLogger("fitbus")


def answered(
    publisher: Publisher | None,
    subscription: Subscription[Any],
    event: Event,
    controls: Sequence[Control],
    error: BaseException | None,
) -> None:
    """Passes on what a concurrent handler returned or raised. Any thread.

    Args:
        publisher: That of the event's run; None if the run has ended.
        subscription: The handler's.
        event: What it was called with.
        controls: What it returned.
        error: What it raised.
    """
    if publisher is None:
        if error is not None:
            subscription.errors += 1
            _logger.error("%s failed after its run had ended", subscription.name, exc_info=error)
        return
    if error is not None:
        failed(publisher, subscription, event, error)
    obey(publisher, subscription, event, controls)


def obey(
    publisher: Publisher,
    subscription: Subscription[Any],
    event: Event,
    controls: Sequence[Control],
) -> None:
    """Sends what a handler returned; one that can't be sent is an error of the handler."""
    try:
        for control in controls:
            publisher.inbox.post(control, subscription.name, returned=True)
    except InvalidArgumentError as error:
        failed(publisher, subscription, event, error)


def failed(
    publisher: Publisher, subscription: Subscription[Any], event: Event, error: BaseException
) -> None:
    """Does with a handler's error what its `on_error` says. Any thread.

    `KeyboardInterrupt` and `SystemExit` end the run whatever that is.
    """
    if subscription.is_stream:
        subscription.fail_stream(error)
        return
    policy = subscription.options.on_error
    subscription.errors += 1
    what = f"{type(error).__name__}: {error}"
    note = f"{subscription.name} raised {what}, at {type(event).__name__} (seq {event.seq})"
    if policy in ("log", "unsubscribe"):
        _logger.error("%s", note, exc_info=error)
    # The error first: ending the subscription lets those go on who wait for it, at once, and they
    # look for errors without the lock. The rest under the lock, without which nobody can publish
    # the run's end.
    with publisher.lock:
        publisher.failures.add(event.seq, subscription.order, error, note, fatal=policy == "raise")
        if subscription.ends_at(error):
            subscription.cancel()
        if not isinstance(event, HandlerFailed):  # or one that fails at these would go on for ever
            told = HandlerFailed(subscriber=subscription.name, error=what, event_seq=event.seq)
            publisher.publish(told, held=True)
    if policy == "stop":
        publisher.post(StopTraining(note), subscription.name)
    publisher.flush()
    publisher.ring()
