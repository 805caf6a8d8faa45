"""A run that is elsewhere."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, final

import anyio
import msgspec

from fitbus._checks import check_timeout
from fitbus.bus import (
    Bus,
    Hook,
    Options,
    Publisher,
    RunStatistics,
    RunStatus,
    Subscribable,
    Subscription,
    SubscriptionStatistics,
)
from fitbus.client._line import Line, Message
from fitbus.client._outbox import TOO_LATE, Outbox
from fitbus.control import Applied, Control, Receipt
from fitbus.errors import FitbusError, InvalidArgumentError, RunEndedError, ServiceError
from fitbus.events import Codec, Event, Lagged, RunPaused, RunResumed, TrainBegin, TrainEnd

__all__ = ["RemoteRun"]

_REFRESH_S = 1.0
_NEVER_BEGAN = 409  # what is answered for the events of a run that was called off


@final
class RemoteRun(Subscribable):
    """A run of a service: watched and steered as a `Run` is. Made by `connect`.

    Its events have the `seq`, `time` and `step` that they had there. They come some tens of
    milliseconds late, in order, each once, over however many connections; what the service has no
    more is told by a `Lagged`. There are streams, but no handlers: training waits for nobody who
    is elsewhere.

    Attributes:
        id: The run's id.
        bus: Where its events are published here.
        outbox: What was sent; for `connect`.
        lost: Why the service is tried no more; None while it is there.
    """

    def __init__(self, line: Line, codec: Codec, id: str, retain: int) -> None:
        self.id = id
        self.bus = Bus(tail_size=retain)
        self._line = line
        self._codec = codec
        self._time = 0.0
        self._publisher = self.bus.publisher(run=id)
        self._publisher.delivery.clock = lambda: self._time
        self.outbox = Outbox(line, codec)
        self._last = -1
        self._status: RunStatus = "pending"
        self._begun_at = ""  # which start of the run it was that began
        self._status_seq = -1  # of the event that told it
        self._statistics = RunStatistics(0.0, 0, 0, 0.0, 0, 1, 0.0, ())
        self._over = anyio.Event()
        self.lost: ServiceError | None = None

    # Watching.

    @property
    def status(self) -> RunStatus:
        """Where it stands, as its events and a look at it each second tell."""
        return self._status

    @property
    def is_connected(self) -> bool:
        """Whether its events come; if not, the connection is tried again."""
        return self._line.is_there

    def statistics(self) -> RunStatistics:
        """Its counters, about a second old; `step` is that of the last event, if that is newer."""
        step = max(self._statistics.step, self._publisher.step)
        return dataclasses.replace(self._statistics, step=step)

    def attach_subscription(
        self,
        kinds: Sequence[type[Event]],
        options: Options,
        *,
        name: str,
        hook: Hook | None = None,
        hooks: Mapping[type[Event], Hook] | None = None,
    ) -> NoReturn:
        """Refuses: there are no handlers."""
        del kinds, options, hook, hooks
        raise InvalidArgumentError(
            "handler", name, "a run elsewhere has streams only: `async with run.subscribe(...)`"
        )

    def make_stream(
        self, kinds: Sequence[type[Event]], options: Options, *, after: int | None
    ) -> Subscription[Any]:
        """For `subscribe`: a stream of its events; after its end, of those kept here."""
        ended = self._publisher if self._over.is_set() else None
        if ended is not None and after is None:
            raise RunEndedError(self.id, "it could be subscribed to")
        return self.bus.make_stream(kinds, options, after=after, run=self.id, ended=ended)

    def carries(self, publisher: Publisher) -> bool:
        """For the bus: whether it is this run's publisher."""
        return publisher is self._publisher

    def ended_id(self) -> str | None:
        """For `wait_for`: the run's id."""
        return self.id

    # Steering.

    def post(self, control: Control, source: str = "") -> Receipt:
        """Sends a control; any thread, never blocks. They are taken in the order of sending.

        Args:
            control: The control.
            source: Not used: the service says who it is that has the token.

        Raises:
            InvalidArgumentError: It is no control, or one that can't be sent: `UpdateState`.
        """
        return self.outbox.post(control, source)

    async def send(
        self, control: Control, timeout: float | None = None, *, source: str = ""
    ) -> Applied:
        """Sends a control, and waits until it acted.

        Args:
            control: The control.
            timeout: Seconds; None waits as long as it takes.
            source: As of `post`.

        Raises:
            InvalidArgumentError: As of `post`, or of `timeout`; nothing was sent.
            ControlRejectedError: It was rejected or superseded, or the service refused it; says
                why, and what to do. If the connection broke in the midst, it may have acted, and
                that is said, too.
            TimeoutError: Not acknowledged in time; it may still be applied.
        """
        check_timeout(timeout)
        return await self.post(control, source).wait(timeout)

    # What comes.

    def look(self, found: Mapping[str, Any]) -> None:
        """For `connect`: takes what the service says of the run."""
        if found["went_on"] is False and self._begun_at not in ("", found["start"]):
            self.lost = ServiceError(
                f"run {self.id!r} was begun anew, not from a backup, and counts its events from 0"
                " again; connect to it anew"
            )
        if found["went_on"] is not None:
            self._begun_at = found["start"]
        if not self._over.is_set():
            status = found["status"]
            self._status = "pending" if status in ("queued", "starting") else status
        if "step" not in found:
            return
        self.outbox.begin()
        subscriptions = tuple(
            SubscriptionStatistics(**{name: each[name] for name in _COUNTS})
            for each in found["subscribers"]
        )
        counts = {name: found[name] for name in _NUMBERS}
        self._statistics = RunStatistics(**counts, subscriptions=subscriptions)

    async def refresh(self, block: anyio.CancelScope) -> None:
        """For `connect`: looks at the run again and again."""
        while not self._over.is_set():
            await anyio.sleep(_REFRESH_S)
            known = self._status_seq
            try:
                found = await self._line.get(self._line.run)
            except ServiceError:
                continue  # the stream finds out whether it comes back
            if self._status_seq != known:  # an event that came meanwhile knows better
                found["status"] = self._status
            self.look(found)
            if self.lost is not None:
                self.end(str(self.lost))
                block.cancel()

    async def follow(self, query: dict[str, str], block: anyio.CancelScope) -> None:
        """For `connect`: takes in what comes until the run's end; leaves the block without it."""
        last = f"{self.id}:{self._last}"
        try:
            stream = self._line.stream(query, last, self._look_again)
            async with contextlib.aclosing(stream) as messages:
                async for message in messages:
                    if self.lost is None:
                        self._take(message)
                    if self.lost is not None:  # leaves at the next wait: generators unwind then
                        self.end(str(self.lost))
                        block.cancel()
            with contextlib.suppress(ServiceError):  # how it ended, if no event told
                self.look(await self._line.get(self._line.run))
            self.end()
        except ServiceError as error:
            if error.status == _NEVER_BEGAN:
                with contextlib.suppress(ServiceError):
                    self.look(await self._line.get(self._line.run))
                self.end(error.why)
                return
            self.lost = error
            self.end(str(error))
            block.cancel()

    async def _look_again(self) -> None:
        """Finds out whether it is the run of before, when there is another connection."""
        with contextlib.suppress(ServiceError):
            self.look(await self._line.get(self._line.run))

    def _take(self, message: Message) -> None:
        try:
            event = self._codec.from_json(message.data)
        except (msgspec.DecodeError, FitbusError) as error:
            self.lost = ServiceError(f"{self._line.url} sent no event: {error}")
            return
        if not isinstance(event, Event):
            return
        if isinstance(event, Lagged):
            if event.last_seq > self._last:
                self._tell_loss(event, max(event.first_seq, self._last + 1))
                self._last = event.last_seq
            return
        if event.seq <= self._last:
            return  # of a run that goes on from its backup: it was told before
        if event.seq > self._last + 1:
            self._publisher.renumber(event.seq)
        self._last = event.seq
        self.outbox.begin()
        self._publisher.step, self._publisher.epoch = event.step, event.epoch
        self._time = event.time
        self._publisher.publish(event)
        self._learn(event)

    def _learn(self, event: Event) -> None:
        """Takes note of what an event says of the run, and of controls."""
        if isinstance(event, TrainBegin | TrainEnd | RunPaused | RunResumed):
            self._status_seq = event.seq
        match event:
            case TrainBegin() | RunResumed():
                self._status = "running"
            case RunPaused():
                self._status = "paused"
            case TrainEnd():
                self._status = event.reason
            case _:
                pass

    def begin(self, seq: int) -> None:
        """For `connect`: what comes first is what follows this number."""
        self._last = seq
        self._publisher.renumber(seq + 1)

    def end(self, why: str = TOO_LATE) -> None:
        """For `connect`: nothing comes any more."""
        if self._over.is_set():
            return
        self._over.set()
        self.outbox.close(why)
        self._publisher.close(why)
        self.bus.finish_run(self.id)

    def _tell_loss(self, event: Lagged, first: int) -> None:
        """Tells streams of what the service had no more, from a number on, in its place."""
        count = event.last_seq - first + 1
        lost = msgspec.structs.replace(event, count=count, first_seq=first)
        with self.bus.lock:
            self._publisher.tail.skip(lost.first_seq, lost.last_seq, (Event,), lost.count)
            for stream in self.bus.subscriptions:
                stream.mailbox.put_loss(msgspec.structs.replace(lost, subscriber=stream.name))
                self.bus.wakeup.ready.append(stream)
        self.bus.wakeup.flush()

    def __repr__(self) -> str:
        """Shows where it stands."""
        return f"<RemoteRun {self.id!r} of {self._line.url}: {self._status}>"


_NUMBERS = (
    *("seconds", "step", "examples", "input_s", "steps_in_flight", "steps_per_execution"),
    "step_s",
)
_COUNTS = tuple(field.name for field in dataclasses.fields(SubscriptionStatistics))
