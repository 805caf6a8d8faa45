"""A run's events, streamed: server-sent events, and WebSocket."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, final

import anyio
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from fitbus.events import Codec, Lagged
from fitbus.service._closing import Closing
from fitbus.service._hub import Frame, Hub, Thinned
from fitbus.service._past import past_frames
from fitbus.service._rights import Refused

if TYPE_CHECKING:
    from fitbus.service._launches import Launch

__all__ = ["EventStream", "Wanted", "number", "to_websocket"]

SEND_TIMEOUT_S = 30.0
_CLOSE_S = 2.0
_PIECE = 64 << 10  # bytes sent at once: a slow client takes so many in time, and others fit it
_NEVER_BEGAN = 409
_END = b"event: end\ndata: {}\n\n"
_AGAIN = b": the server ends\n\n"  # so the client comes again, and goes on after what it had
_logger = logging.getLogger("fitbus")


class Wanted(NamedTuple):
    """What a client asked for.

    Attributes:
        types: The names of event types; empty for all.
        every: Each n-th of them.
        every_s: At most one in so many seconds.
        after: The `seq` of the last one that it had; None begins with what is kept.
    """

    types: frozenset[str]
    every: int
    every_s: float
    after: int | None

    @classmethod
    def of(cls, query: Mapping[str, str], last_id: str | None, run: str) -> Wanted:
        """Reads it; raises `Refused`."""
        types = frozenset(name for name in query.get("types", "").split(",") if name)
        every = number(query, "every", 1, whole=True)
        every_s = number(query, "every_s", 0.0)
        last = last_id if last_id is not None else query.get("last_event_id")
        after: int | None = None
        if last:
            run_id, _, seq = last.rpartition(":")
            if not re.fullmatch(r"-?[0-9]{1,18}", seq):
                raise Refused(400, f"Last-Event-ID: found {last[:80]!r}; give one that was sent")
            # Of another run: it was one before, under whose address this one is found now.
            after = int(seq) if run_id == run else None
        return cls(types, int(every), every_s, after)

    @property
    def thinned(self) -> Thinned:
        """What lets through what is wanted."""
        return Thinned(self.types, self.every, self.every_s)


def number(
    query: Mapping[str, str],
    name: str,
    least: float,
    *,
    whole: bool = False,
    default: float | None = None,
    most: float = 1e9,
) -> float:
    """A number of a query; its default, or the least, if it isn't there; raises `Refused`."""
    text = query.get(name)
    if text is None:
        return least if default is None else default
    try:
        value = float(int(text)) if whole else float(text)
    except (ValueError, OverflowError):
        value = math.nan
    if not least <= value <= most:
        kind = "a whole number" if whole else "a number"
        allowed = f"{kind} from {least:g} to {most:g}"
        raise Refused(400, f"{name}: found {text[:80]!r}; give {allowed}")
    return value


async def chunks(
    launch: Launch, hub: Hub, wanted: Wanted, form: str, codec: Codec, heartbeat_s: float
) -> AsyncIterator[bytes]:
    """What a client gets, as it comes; an empty one is a heartbeat."""
    made = _FORMS[form]
    lets = wanted.thinned
    after = -1 if wanted.after is None else wanted.after
    place, first = hub.place_after(after), hub.first_seq
    if place == hub.end:  # a run that goes on from its backup tells some events again
        lets.skip_to(after)
    if first is not None:
        async for frames in _before(launch, after, first, codec):
            yield made(list(lets(frames)))
    while not hub.is_through(place):
        end, lost = hub.end, hub.lost(place)
        if lets.lets_all and not lost:
            if end > place:
                yield hub.chunk(place, form, made)
        else:
            frames = _told(hub.frames(place), lost, launch.id, codec)
            if passed := list(lets(frames)):
                yield made(passed)
        place = end
        if not await hub.wait(place, heartbeat_s):
            yield b""


async def _before(
    launch: Launch, after: int, first: int, codec: Codec
) -> AsyncIterator[Sequence[Frame]]:
    """What comes between two numbers and isn't kept: from the journal, or as a loss."""
    if after + 1 < first:
        async for frames in past_frames(launch, after, first, codec):
            after = frames[-1].seq
            yield frames
    if after + 1 < first:
        yield [_lag(launch.id, after + 1, first - 1, codec)]


def _told(frames: list[Frame], lost: int, run: str, codec: Codec) -> list[Frame]:
    """Frames, after what tells that some before them were lost."""
    if not lost:
        return frames
    oldest = next((frame.seq for frame in frames if frame.seq >= 0), -1)
    return [_lag(run, oldest - lost, oldest - 1, codec), *frames]


def _lag(run: str, first: int, last: int, codec: Codec) -> Frame:
    count = last - first + 1
    lagged = Lagged(run=run, subscriber="client", count=count, first_seq=first, last_seq=last)
    return Frame.of(lagged, codec)


def _as_sse(frames: Sequence[Frame]) -> bytes:
    lines: list[bytes] = []
    for frame in frames:
        if frame.seq >= 0:
            lines.append(b"id: %s:%d\n" % (frame.run.encode(), frame.seq))
        lines.append(b"data: %s\n\n" % frame.data)
    return b"".join(lines)


def _as_lines(frames: Sequence[Frame]) -> bytes:
    return b"\n".join(frame.data for frame in frames)


_FORMS = {"sse": _as_sse, "lines": _as_lines}


@final
class EventStream(StreamingResponse):
    """Server-sent events of a run.

    Args:
        launch: The run.
        hub: Finds where they come from, when the run has begun.
        wanted: What the client asked for.
        codec: Encodes what the hub doesn't have.
        heartbeat_s: Seconds after which a comment says that the line is alive.
        closing: Ends it when the server ends.
    """

    def __init__(
        self,
        launch: Launch,
        hub: Callable[[Launch], Awaitable[Hub]],
        wanted: Wanted,
        codec: Codec,
        heartbeat_s: float,
        closing: Closing,
    ) -> None:
        self._launch = launch
        self._find = hub
        self._hub: Hub | None = None
        self._wanted = wanted
        self._codec = codec
        self._heartbeat_s = heartbeat_s
        self._closing = closing
        super().__init__(
            self._body(),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    async def _body(self) -> AsyncIterator[bytes]:
        yield b"retry: 2000\n"  # of the first event
        while (hub := self._hub) is None:  # of a run that waits for its turn
            try:
                with anyio.move_on_after(self._heartbeat_s):
                    self._hub = await self._find(self._launch)
            except Refused as refused:  # it never began, or the server ends
                yield _END if refused.status == _NEVER_BEGAN else _AGAIN
                return
            if self._hub is None:
                yield b":\n"
        hub.clients += 1
        wanted, codec = self._wanted, self._codec
        async for chunk in chunks(self._launch, hub, wanted, "sse", codec, self._heartbeat_s):
            yield chunk[:_PIECE] or b":\n"
            for start in range(_PIECE, len(chunk), _PIECE):
                yield chunk[start : start + _PIECE]
        yield _END if hub.ended else _AGAIN

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends; lets go of a client that takes nothing for too long."""

        async def limited(message: Any) -> None:
            with anyio.fail_after(SEND_TIMEOUT_S):
                await send(message)

        def close() -> None:
            if self._hub is not None:  # else it is `hub` that ends
                self._hub.close()

        try:
            with self._closing.ends(close):
                await super().__call__(scope, receive, limited)
        except* TimeoutError:
            _logger.info("a client took nothing for %g s, and was let go", SEND_TIMEOUT_S)
        finally:
            if self._hub is not None:
                self._hub.clients -= 1


async def to_websocket(
    socket: WebSocket,
    launch: Launch,
    hub: Hub,
    wanted: Wanted,
    codec: Codec,
    heartbeat_s: float,
) -> None:
    """The same over an open WebSocket: messages of one event or several, one JSON a line.

    A message of several has at most 64 KiB. There are no heartbeats: servers send pings.
    """
    hub.clients += 1

    async def send() -> None:
        async for chunk in chunks(launch, hub, wanted, "lines", codec, heartbeat_s):
            for message in _messages(chunk):
                with anyio.fail_after(SEND_TIMEOUT_S):
                    await socket.send_text(message.decode())
        if hub.ended:
            await close(1000, "the run has ended")
        else:
            await close(1012, "the server ends; come again")

    async def close(code: int, why: str) -> None:
        with anyio.move_on_after(_CLOSE_S):  # of one that takes nothing
            await socket.close(code, why)

    try:
        async with anyio.create_task_group() as tasks:

            async def receive() -> None:
                while (await socket.receive())["type"] != "websocket.disconnect":
                    pass  # clients have nothing to say
                tasks.cancel_scope.cancel()

            tasks.start_soon(receive)
            await send()
            tasks.cancel_scope.cancel()
    except* WebSocketDisconnect:
        pass
    except* TimeoutError:
        await close(1008, "nothing was taken for too long")
    finally:
        hub.clients -= 1


def _messages(chunk: bytes) -> Iterator[bytes]:
    """Lines, as many at once as a message may have; a longer one goes alone, and an empty none."""
    start = 0
    while len(chunk) - start > _PIECE:
        end = chunk.rfind(b"\n", start, start + _PIECE + 1)
        if end < 0:
            end = chunk.find(b"\n", start)
        if end < 0:
            break
        yield chunk[start:end]
        start = end + 1
    if chunk:
        yield chunk[start:]
