"""The child's one subscriber: what it tells the parent, and what that answers."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, final

import anyio
import anyio.lowlevel
import msgspec

from fitbus._loops import LoopHandle
from fitbus.bus import Hook, LiveRun, Options, Publisher
from fitbus.control import Applied, Receipt, Rejected, Superseded
from fitbus.errors import InvalidArgumentError
from fitbus.events import Codec, ControlApplied, ControlRejected, EpochEnd, Event
from fitbus.process._channel import Channel
from fitbus.process._frames import (
    PLAIN,
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
    tags_of,
)

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
        codec: Encodes events, and decodes controls.
        wants: What the parent wants at first.

    Attributes:
        is_alone: Whether the parent has gone.
    """

    def __init__(self, channel: Channel[FromParent], codec: Codec, wants: Wants) -> None:
        self._channel = channel
        self._codec = codec
        self._run: LiveRun[Any] | None = None
        self._loop: LoopHandle | None = None
        self._lock = threading.Lock()  # what was posted is noted before its outcome is told
        self._open: dict[int, tuple[int, Receipt]] = {}  # by the number in the run
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
        self._channel.on_room = lambda: loop.call_soon(self._on_room)
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
                self._channel.put(Steps(list[Any](group)))
            else:
                await self._tell_one_by_one(group)
        if self._channel.is_crowded:
            await self._room()

    async def _tell_one_by_one(self, events: Iterable[Event]) -> None:
        encoded: list[msgspec.Raw] = []
        for event in events:
            if event.seq >= 0:  # not a loss of this subscriber, which the parent sees by the gap
                encoded.append(msgspec.Raw(self._codec.to_msgpack(event)))
            if isinstance(event, ControlApplied | ControlRejected):
                self._channel.put(Events(encoded))
                encoded = []
                await self._settle(event)
        if encoded:
            self._channel.put(Events(encoded))

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
            self._channel.put(Standing(msgspec.Raw(self._codec.to_msgpack(event))))
            await self._replied.wait()
        self._standing = None

    async def _room(self) -> None:
        self._freed = anyio.Event()
        if self._channel.is_crowded and not self.is_alone:
            await self._freed.wait()

    def _on_room(self) -> None:
        self._freed.set()

    async def _settle(self, event: ControlApplied | ControlRejected) -> None:
        """Tells how a control of the parent's ended, after the event that says so."""
        with self._lock:
            found = self._open.pop(event.id, None)
        if found is None:
            return
        key, receipt = found
        if isinstance(event, ControlApplied):
            outcome: Any = Applied(event.step, event.epoch, event.result)
        else:
            while receipt.outcome is None:  # it was told a moment ago, and is settled now
                await anyio.lowlevel.checkpoint()
            outcome = receipt.outcome
        self._channel.put(_settled(key, event.id, outcome))

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

    def settle_all(self) -> None:
        """Tells what became of all that is left; at the end."""
        self._settle_found()

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
            self._settle_found()
            self._channel.put(Served(group.group))
        if self._open and self._standing is not None:
            self._settle_found()

    def _share_logs(self, _: Event, logs: dict[str, Any]) -> None:
        """Puts into the shared copy what hooks in the parent put into theirs."""
        logs.update(self._logs)
        self._logs = {}

    def _post(self, run: LiveRun[Any], sent: Sent) -> None:
        try:
            control: Any = self._codec.from_msgpack(bytes(sent.control))
            with self._lock:  # what is no control, or of a type that isn't known, is refused
                receipt = run.inbox.post(control, sent.source, returned=sent.returned)
                self._open[receipt.id] = sent.key, receipt
        except (InvalidArgumentError, msgspec.DecodeError) as error:
            self._channel.put(Settled(sent.key, -1, why=str(error)))
            return
        publisher = run.publisher
        if publisher is not None and publisher.closed:  # no event tells of it any more
            self._settle_found()

    def _settle_found(self) -> None:
        with self._lock:
            found = [entry for entry in self._open.items() if entry[1][1].outcome is not None]
            for id, _ in found:
                del self._open[id]
        for id, (key, receipt) in found:
            self._channel.put(_settled(key, id, receipt.outcome))


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


def _settled(key: int, id: int, outcome: object) -> Settled:
    match outcome:
        case Applied(step, epoch, result):
            plain = msgspec.to_builtins(result, enc_hook=lambda value: value.tolist())
            return Settled(key, id, step=step, epoch=epoch, result=plain)
        case Superseded(by):
            return Settled(key, id, by=by)
        case Rejected(why):
            return Settled(key, id, why=why)
        case _:
            return Settled(key, id, why="too late: the run has ended")
