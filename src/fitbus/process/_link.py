"""The child's one subscriber: what it tells the parent, and what that answers."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, final

import anyio
import msgspec

from fitbus._loops import LoopHandle
from fitbus.bus import Hook, LiveRun, Options, Publisher
from fitbus.control import Applied, Receipt, Rejected, Superseded
from fitbus.errors import InvalidArgumentError
from fitbus.events import Codec, EpochEnd, Event
from fitbus.process._channel import Channel
from fitbus.process._frames import (
    Controls,
    Events,
    FromParent,
    Reply,
    Sent,
    Served,
    Settled,
    Standing,
    Steps,
    Wants,
)
from fitbus.process._kinds import PLAIN, tags_of

__all__ = ["Link"]

_BUFFER = 1024  # events; behind it are the socket's own buffers
_NAME = "the parent process"


@final
class Link:
    """Tells the parent each event that it wants, in order, and takes its controls in.

    Events for which nobody in the parent is waited for go through a `block` mailbox, many at once;
    for the others training stands still until the reply has come.

    Args:
        channel: To the parent.
        events: The same, for events, which may have to wait there.
        codec: Encodes events, and decodes controls.
        wants: What the parent wants at first.

    Attributes:
        is_alone: Whether the parent has gone.
    """

    def __init__(
        self,
        channel: Channel[FromParent],
        events: Channel[FromParent],
        codec: Codec,
        wants: Wants,
    ) -> None:
        self._channel = channel
        self._events = events
        self._codec = codec
        self._run: LiveRun[Any] | None = None
        self._loop: LoopHandle | None = None
        self._groups: deque[Controls] = deque()
        self._standing: int | None = None  # the `seq` of the event for which training stands
        self._replied = anyio.Event()
        self._logs: dict[str, Any] = {}
        self._freed = anyio.Event()
        self._serves: Publisher | None = None
        self._hooks = _Hooks(self._tell, self._stand, codec)
        self._hooks.take(wants)
        self.is_alone = False

    # In the loop.

    def attach(self, run: LiveRun[Any]) -> None:
        """Subscribes to a run; as the first one, so that what is told comes in order."""
        self._run = run
        self._loop = LoopHandle()
        loop = self._loop
        self._events.on_room = lambda: loop.call_soon(self._on_room)
        run.attach_subscription(
            (Event,),
            Options(overflow="block", buffer_size=_BUFFER, batched=True, on_error="log"),
            name=_NAME,
            hooks=self._hooks,
        )
        shared = Hook(self._share_logs, is_async=False, wait=True, shares_logs=True)
        run.attach_subscription(
            (EpochEnd,), Options(), name=f"{_NAME}, logs", hooks={EpochEnd: shared}
        )

    async def _tell(self, events: Sequence[Event]) -> None:
        """Tells several events, for which training doesn't wait."""
        if self.is_alone:
            return
        for is_plain, group in itertools.groupby(events, lambda event: type(event) in PLAIN):
            if is_plain:
                self._events.put(Steps(list[Any](group)))
            else:
                # A loss of this subscriber has no `seq`: the parent sees it by the gap.
                told = [self._codec.to_msgpack(event) for event in group if event.seq >= 0]
                self._events.put(Events([msgspec.Raw(event) for event in told]))
        if self._events.is_crowded:
            await self._room()

    async def _stand(self, event: Event | Sequence[Event]) -> None:
        """Tells an event, and waits for the parent's handlers of it."""
        if not isinstance(event, Event):  # in the mailbox since before they were there
            await self._tell(event)
            return
        run = self._run
        if self.is_alone or run is None:
            return
        self._serve_in(run.publisher)
        self._replied, self._standing = anyio.Event(), event.seq
        if not self.is_alone:
            self._events.put(Standing(msgspec.Raw(self._codec.to_msgpack(event))))
            await self._replied.wait()
        self._standing = None

    async def _room(self) -> None:
        self._freed = anyio.Event()
        if self._events.is_crowded and not self.is_alone:
            await self._freed.wait()

    def _on_room(self) -> None:
        self._freed.set()

    # In the thread that reads what the parent tells.

    def take_wants(self, wants: Wants) -> None:
        """Takes note of what the parent wants from now on."""
        self._hooks.take(wants)
        run = self._run
        if run is not None:
            with run.bus.lock:
                run.bus.runs.reroute()

    def take_reply(self, reply: Reply) -> None:
        """Lets training go on."""
        self._logs = reply.logs
        if self._loop is not None and reply.seq == self._standing:
            self._loop.call_soon(self._replied.set)

    def take_controls(self, controls: Controls) -> None:
        """Sends controls, or lets the training thread do so that stands still for the parent."""
        run = self._run
        assert run is not None
        if controls.group < 0:
            for sent in controls.items:
                self._post(run, sent)
            return
        self._groups.append(controls)
        if run.publisher is not None:
            run.publisher.ring()

    def leave_alone(self) -> None:
        """Waits for the parent no more: it has gone. Any thread."""
        self.is_alone = True
        if self._loop is not None:
            self._loop.call_soon(self._let_go)
            self._loop.call_soon(self._on_room)

    def _let_go(self) -> None:
        self._replied.set()  # whichever is waited for by then

    # In the training thread.

    def _serve_in(self, publisher: Publisher | None) -> None:
        if publisher is not None and self._serves is not publisher:
            self._serves = publisher
            before = publisher.on_standstill

            def serve() -> None:
                before()
                self._serve(publisher)

            publisher.on_standstill = serve

    def _serve(self, publisher: Publisher) -> None:
        """Lets groups of controls act where training stands still for the parent."""
        run = self._run
        while self._groups and run is not None:
            group = self._groups.popleft()
            for sent in group.items:
                self._post(run, sent)
            publisher.desk.serve()
            self._channel.put(Served(group.group))

    def _share_logs(self, _: Event, logs: dict[str, Any]) -> None:
        """Puts into the shared copy what hooks in the parent put into theirs."""
        logs.update(self._logs)
        self._logs = {}

    def _post(self, run: LiveRun[Any], sent: Sent) -> None:
        try:
            control: Any = self._codec.from_msgpack(bytes(sent.control))
            # What is no control, or of a type that isn't known, is refused.
            receipt = run.inbox.post(control, sent.source, returned=sent.returned)
        except (InvalidArgumentError, msgspec.DecodeError) as error:
            self._channel.put(Settled(sent.key, -1, -1, why=str(error)))
            return
        receipt.when_settled(lambda: self._settled(sent.key, receipt))

    def _settled(self, key: int, receipt: Receipt) -> None:
        """Tells how a control ended; in the thread in which it did."""
        publisher = None if self._run is None else self._run.publisher
        seq = -1 if publisher is None or publisher.closed else publisher.seq
        match receipt.outcome:
            case Applied(step, epoch, result):
                plain = msgspec.to_builtins(result, enc_hook=lambda value: value.tolist())
                told = Settled(key, receipt.id, seq, step=step, epoch=epoch, result=plain)
            case Superseded(by):
                told = Settled(key, receipt.id, seq, by=by)
            case Rejected(why):
                told = Settled(key, receipt.id, seq, why=why)
            case None:  # pragma: no cover  # it is settled
                return
        self._channel.put(told)


@final
class _Hooks(Mapping[type[Event], Hook]):
    """The hook for each type; none for those that nobody wants."""

    def __init__(self, tell: Callable[..., Any], stand: Callable[..., Any], codec: Codec) -> None:
        self._tell = Hook(tell, is_async=True, wait=False)
        self._stand = Hook(stand, is_async=True, wait=True)
        self._kinds = dict(zip(tags_of(events := _events(codec)), events, strict=True))
        self._waiting: frozenset[type[Event]] = frozenset()
        self._unwanted: frozenset[type[Event]] = frozenset()

    def take(self, wants: Wants) -> None:
        """Takes what the parent wants."""
        self._waiting = frozenset(self._kinds[tag] for tag in wants.waiting)
        self._unwanted = frozenset(
            kind
            for tag, kind in self._kinds.items()
            if kind.batch_level and tag not in wants.batch_level
        )

    def __getitem__(self, kind: type[Event]) -> Hook:
        if kind in self._unwanted:
            raise KeyError(kind)
        return self._stand if kind in self._waiting else self._tell

    def get(self, kind: type[Event], default: Any = None) -> Any:
        """The hook also for those that wait in the mailbox, and aren't wanted any more."""
        del default
        return self._stand if kind in self._waiting else self._tell

    def __iter__(self) -> Iterator[type[Event]]:
        return iter((Event, EpochEnd))

    def __len__(self) -> int:
        return 2

    def values(self) -> Any:
        """Both hooks."""
        return (self._tell, self._stand)


def _events(codec: Codec) -> list[type[Event]]:
    return [kind for kind in codec.types if issubclass(kind, Event)]
