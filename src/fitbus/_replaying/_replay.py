"""Publishes the events of a record once more, to handlers that are tried out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, final

import anyio

from fitbus import journal
from fitbus._lists import flattened
from fitbus._loops import in_own_loop, run_in_daemon_thread
from fitbus._replaying._results import Replay
from fitbus._replaying._run import ReplayedRun
from fitbus._stand_ins import attach
from fitbus.bus import Bus, Publisher
from fitbus.control import Control
from fitbus.errors import InvalidArgumentError
from fitbus.events import Event, Lagged

__all__ = ["replay", "replay_sync"]


async def replay(
    record: str | os.PathLike[str] | Iterable[Event],
    handlers: Iterable[Any],
    *user_types: type[Event | Control],
    drain_s: float = 30.0,
) -> Replay:
    """Runs handlers and callbacks over the events of a run that was, as fast as they go.

    Nothing is trained: so a handler is tested, or a callback's decisions are tried with other
    arguments, on real history in seconds; or a log that nobody wrote is written afterwards
    (`CSVLogger`, `TensorBoard`), once training is over.

        replayed = await fitbus.replay("journal", [EarlyStopping(patience=3), on_epoch_end])
        replayed.sent  # the controls that they would have sent, each with its step

    Events come with the `run`, `seq`, `time`, `step` and `epoch` that they had, in their order, and
    are delivered as in a live run: waiting handlers are waited for, a full `block` mailbox holds
    the replay, `on_error` does what it does. What goes by the clock (`every_s`, `timeout`) goes by
    the present one. Controls are taken down, and acknowledged as if they had acted at once; the
    history is what it was. What handlers publish is passed over.

    A callback has `self.run`, `self.params` and `self.model` as far as these go without parameters:
    stops and learning rates can be set, and the latter read where the logs tell them; all else
    raises `ReplayError`. One that goes on from a backup is refused.

    Args:
        record: The path of a journal, a `Journal`, or events in order, such as those of
            `fitbus.journal.read(path, run=...)`. They are read one by one.
        handlers: Handlers and `Callback` objects, nested lists allowed, as in `fit`.
        user_types: Your own types of events and controls, to be decoded from a journal.
        drain_s: Seconds that handlers get to finish after the last event.

    Returns:
        The controls that were sent, and what each handler got.

    Raises:
        InvalidArgumentError: An argument is of the wrong kind, or there is no event.
        JournalError: The journal is damaged.
        ReplayError: A callback needs what only training has.
        BaseException: What a handler raised (`on_error="raise"`), as itself.
    """
    if isinstance(drain_s, bool) or not isinstance(drain_s, int | float) or not drain_s >= 0:
        raise InvalidArgumentError("drain_s", drain_s, "give seconds, a number of at least 0")
    bus = Bus()
    run = ReplayedRun(bus)
    again = _Again(run, _events(record, user_types))
    attached = list(flattened(handlers))
    error: BaseException | None = None
    async with bus:
        try:
            await run_in_daemon_thread(lambda: again.publish(attached), "fitbus replay")
        except Exception as raised:  # noqa: BLE001  # raised again below
            error = raised
        except BaseException:
            again.cancel()
            run.status = "cancelled"
            with anyio.CancelScope(shield=True):
                await bus.aclose(0.0)
            raise
        report = await bus.aclose(drain_s)
        run.collect()
        run.status = "completed"
    error = again.end(error)
    if error is not None:
        raise error
    return Replay(again.count, tuple(run.sent), report)


def replay_sync(
    record: str | os.PathLike[str] | Iterable[Event],
    handlers: Iterable[Any],
    *user_types: type[Event | Control],
    drain_s: float = 30.0,
) -> Replay:
    """`replay` for scripts and tests without an event loop; it runs one of its own (asyncio).

    Raises:
        FitbusError: Called inside a running event loop: write `await fitbus.replay(...)` there.
    """
    return in_own_loop(
        "fitbus.replay", lambda: replay(record, handlers, *user_types, drain_s=drain_s)
    )


@final
class _Again:
    """Publishes events once more, in a thread of its own.

    Args:
        run: The run that handlers see.
        events: The events.

    Attributes:
        count: How many were published.
    """

    def __init__(self, run: ReplayedRun, events: Iterator[Event]) -> None:
        self._run = run
        self._events = events
        self._publishers: dict[str, Publisher] = {}  # by run
        self._ended: list[Publisher] = []
        self._time = 0.0
        self.count = 0

    def publish(self, handlers: Iterable[Any]) -> None:
        """Attaches the handlers, and publishes the events."""
        first = next(self._events, None)
        if first is None:
            raise InvalidArgumentError("record", "nothing", "there is no event in it")
        self._run.look_at(_checked(first))
        for handler in handlers:
            attach(self._run, "handlers", handler)
        for event in chain((first,), self._events):
            if not isinstance(_checked(event), Lagged):  # which is of a subscriber of then
                self._publish(event)
        for publisher in self._publishers.values():
            publisher.boundary()

    def cancel(self) -> None:
        """Lets the thread end soon, wherever it is. Any thread."""
        for publisher in list(self._publishers.values()):
            publisher.cancel(0.0)

    def end(self, error: BaseException | None) -> BaseException | None:
        """What the replay raises, if anything; in the loop, when all is over."""
        for publisher in (*self._ended, *self._publishers.values()):
            error = publisher.failures.lead(error)
        for function in self._run.ends:
            try:
                function()
            except Exception as late:  # noqa: BLE001  # it is raised, if nothing was before
                error = error or late
        return error

    def _publish(self, event: Event) -> None:
        publisher = self._publisher_of(event)
        publisher.boundary()
        publisher.step, publisher.epoch, self._time = event.step, event.epoch, event.time
        if event.seq >= 0:
            publisher.renumber(event.seq)
        self._run.look_at(event, publisher)
        publisher.barrier(event)
        self._run.collect()
        self.count += 1

    def _publisher_of(self, event: Event) -> Publisher:
        found = self._publishers.get(event.run)
        if found is not None and event.seq == 0 < found.seq:  # another run of the same id
            del self._publishers[event.run]
            self._ended.append(found)
            found.close()
            self._run.bus.finish_run(found.run)
            found = None
        if found is None:
            found = self._run.bus.publisher(run=event.run or "replay")
            found.on_standstill = self._run.collect
            found.delivery.clock = lambda: self._time
            self._publishers[event.run] = found
        return found


def _events(record: Any, user_types: tuple[type[Event | Control], ...]) -> Iterator[Event]:
    events = journal.events_of("record", record, *user_types)
    if user_types and not isinstance(record, str | os.PathLike):
        raise InvalidArgumentError(
            "user_types", user_types, "they are for a journal's path; events have their types"
        )
    return events


def _checked(event: object) -> Event:
    if not isinstance(event, Event):
        raise InvalidArgumentError("record", event, "give events, such as those of a journal")
    return event
