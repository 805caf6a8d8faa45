"""The events of a run, each encoded once for all who stream it."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, final

import anyio
import msgspec

from fitbus.errors import FitbusError
from fitbus.events import Codec, Event, Lagged, TrainBegin, TrainEnd

if TYPE_CHECKING:
    from fitbus.process import ProcessRun
    from fitbus.train import Run

__all__ = ["Frame", "Hub", "Thinned"]

_logger = logging.getLogger("fitbus")
_PACE_S = 0.02  # how long events gather, and how long it is from one group of clients to the next
_GROUP = 10  # how many clients are woken together: what else the loop has to do waits for them


class Frame(NamedTuple):
    """An event as it is sent.

    Attributes:
        run: The run's id.
        seq: The event's; -1 of a `Lagged`.
        time: When it happened, in Unix seconds.
        kinds: The names of its type and of those that it extends, for filters.
        data: As JSON.
    """

    run: str
    seq: int
    time: float
    kinds: frozenset[str]
    data: bytes

    @classmethod
    def of(cls, event: Event, codec: Codec) -> Frame:
        """Encodes an event."""
        if isinstance(event, TrainEnd) and event.reason == "failed":
            # Further lines are a traceback's, or a child's last words.
            event = msgspec.structs.replace(event, detail=event.detail.partition("\n")[0])
        kinds = _names(type(event))
        return cls(event.run, event.seq, event.time, kinds, codec.to_json(event))


@final
class Hub:
    """What clients of one run read from; each at its own pace, from where it is.

    Nobody has a queue of its own: what a client holds is its place among the events kept here, so a
    slow one costs no memory, and loses the oldest when they are let go, which it is told.

    Args:
        run: The run.
        codec: Encodes its events.
        retain: How many events are kept, and
        retain_bytes: how many bytes of them.

    Attributes:
        clients: How many there are.
        went_on: Whether the run went on from a backup, and so does its numbering; None before it
            has begun.
        ended: Whether no event comes any more.
    """

    def __init__(
        self,
        run: Run[Any] | ProcessRun,
        codec: Codec,
        *,
        retain: int = 10_000,
        retain_bytes: int = 8 << 20,
    ) -> None:
        self._run = run
        self._codec = codec
        self._retain = retain
        self._retain_bytes = retain_bytes
        self._frames: deque[Frame] = deque()
        self._bytes = 0
        self._start = 0  # the place of the first frame kept
        self._news = anyio.Event()
        self._waiting: OrderedDict[anyio.Event, None] = OrderedDict()  # of clients; in turn
        self._chunks: dict[Any, bytes] = {}  # made since the last news, by place and form
        self.clients = 0
        self.went_on: bool | None = None
        self.ended = False
        self.closing = False

    def close(self) -> None:
        """Has clients let go, though the run goes on: the server ends."""
        self.closing = True
        self._wake(len(self._waiting))

    @property
    def end(self) -> int:
        """The place of the frame that comes next."""
        return self._start + len(self._frames)

    def is_through(self, place: int) -> bool:
        """Whether a client that is there gets nothing more: at the run's end, or the server's."""
        return self.end == place if self.ended else self.closing

    @property
    def first_seq(self) -> int | None:
        """The `seq` of the oldest event kept."""
        return next((frame.seq for frame in self._frames if frame.seq >= 0), None)

    async def pump(self) -> None:
        """Takes in the run's events until its end; for a task of its own."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._ring)
                stream = self._run.subscribe(Event, Lagged, after=-1, buffer_size=self._retain)
                async with stream:
                    async for event in stream:
                        if not self._is_told_again(event):
                            self._add(self._frame(event))
                tasks.cancel_scope.cancel()
            self.ended = True
            while self._waiting:
                self._wake(_GROUP)
                await anyio.sleep(_PACE_S)
        finally:
            self.ended = True
            self._wake(len(self._waiting))

    def _frame(self, event: Event) -> Frame:
        """An event as it is sent; one that can't be encoded is told as lost."""
        try:
            return Frame.of(event, self._codec)
        except (TypeError, ValueError, OverflowError, RecursionError, FitbusError):
            _logger.exception("%s %d can't be sent to clients", type(event).__name__, event.seq)
            seq = max(0, event.seq)
            lost = Lagged(run=event.run, subscriber="client", count=1, first_seq=seq, last_seq=seq)
            return Frame.of(lost, self._codec)

    def _is_told_again(self, event: Event) -> bool:
        """Whether it is of a run that goes on, and has the number of another that was before."""
        if isinstance(event, TrainBegin):
            self.went_on = event.seq > 0
            return self.went_on
        resumed = self._run.preparation.resumed
        return -1 < event.seq < (0 if resumed is None else resumed.seq or 0)

    def place_after(self, seq: int) -> int:
        """The place of the first event kept that comes after one."""
        for place, frame in enumerate(self._frames, self._start):
            if frame.seq > seq:
                return place
        return self.end

    def lost(self, place: int) -> int:
        """How many frames were let go from a place on, before they were read."""
        return max(0, self._start - place)

    def frames(self, place: int) -> list[Frame]:
        """What there is from a place on."""
        kept = self._frames  # picked from its end, where clients are
        return [kept[i] for i in range(max(0, place - self._start), len(kept))]

    def chunk(self, place: int, form: str, made: Callable[[Sequence[Frame]], bytes]) -> bytes:
        """The bytes of all frames from a place on, made once for all clients that are there."""
        key = (place, self.end, form)
        found = self._chunks.get(key)
        if found is None:
            found = self._chunks[key] = made(self.frames(place))
        return found

    async def wait(self, place: int, timeout: float) -> bool:
        """Waits for a client's turn to go on from a place, so many seconds; tells whether it came.

        If there is something new already, it isn't its turn yet: others are, before it.
        """
        if self.ended or self.closing:
            return True
        turn = anyio.Event()
        self._waiting[turn] = None
        if self.end > place:
            self._news.set()
        try:
            with anyio.move_on_after(timeout):
                await turn.wait()
        finally:
            self._waiting.pop(turn, None)
        return turn.is_set()

    def _add(self, frame: Frame) -> None:
        self._frames.append(frame)
        self._bytes += len(frame.data)
        while len(self._frames) > self._retain or self._bytes > self._retain_bytes:
            self._bytes -= len(self._frames.popleft().data)
            self._start += 1
        self._news.set()

    async def _ring(self) -> None:
        """Wakes clients, not for each event, and a group at a time.

        Those of a group share what is made for the first of them, and between two groups the loop
        does what else there is to do.
        """
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            left = len(self._waiting)
            while True:
                await anyio.sleep(_PACE_S)
                self._wake(min(left, _GROUP))
                left -= _GROUP
                if left <= 0:
                    break

    def _wake(self, count: int) -> None:
        self._chunks.clear()
        for _ in range(min(count, len(self._waiting))):
            self._waiting.popitem(last=False)[0].set()


@cache
def _names(kind: type[Event]) -> frozenset[str]:
    return frozenset(base.__name__ for base in kind.__mro__ if issubclass(base, Event))


@final
class Thinned:
    """Lets some frames through.

    Args:
        types: The names of types, those that extend them included; empty for all.
        every: Each n-th of these.
        every_s: At most one of each type in so many seconds of the run, whether they are told as
            they happen or later; 0 for any. The begin and the end of the run, the ends of epochs,
            pauses, and what became of controls, always pass.
    """

    def __init__(self, types: frozenset[str], every: int, every_s: float) -> None:
        self._types = types
        self._every = every
        self._every_s = every_s
        self._seen = 0
        self._last: dict[frozenset[str], float] = {}  # when one of a type passed
        self._after = -1

    @property
    def lets_all(self) -> bool:
        """Whether all that comes now passes."""
        return not self._types and self._every == 1 and not self._every_s and self._after < 0

    def skip_to(self, seq: int) -> None:
        """Lets nothing through up to a number that was reached before."""
        self._after = seq

    def __call__(self, frames: Sequence[Frame]) -> Iterator[Frame]:
        """Those that pass."""
        for frame in frames:
            if frame.seq < 0:  # what was lost is always told
                yield frame
                continue
            if frame.seq <= self._after:
                continue
            self._after = -1
            if self._types and not self._types & frame.kinds:
                continue
            self._seen += 1
            if self._seen % self._every:
                continue
            if self._every_s and not frame.kinds & _ALWAYS:
                last = self._last.get(frame.kinds)
                if last is not None and 0 <= frame.time - last < self._every_s:
                    continue
                self._last[frame.kinds] = frame.time
            yield frame


_ALWAYS = {
    *("TrainBegin", "EpochEnd", "TrainEnd", "RunPaused", "RunResumed"),
    *("ControlApplied", "ControlRejected"),
}
