"""A socket between the two processes: frames with their length, in both directions."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar, final

import msgspec

__all__ = ["NOTHING", "Channel", "readable"]

T = TypeVar("T")

_LENGTH = struct.Struct(">I")
_CHUNK = 1 << 18
_CROWDED = 1 << 16  # bytes that wait to be written; then whoever can wait should


class _Nothing:
    """That nothing came in time."""


NOTHING: Final = _Nothing()


@final
class Channel(Generic[T]):
    """Sends in any thread, without waiting; receives in one.

    Args:
        end: This process' end of the socket.
        received: The type of what comes.

    Attributes:
        on_room: Called, in some thread, when all that waited has been written.
    """

    def __init__(self, end: socket.socket, received: Any) -> None:
        self._socket = end
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(received)
        self._lock = threading.Lock()
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._is_writing = False
        self._is_shut = False
        self._buffer = bytearray()
        self.on_room: Callable[[], object] = lambda: None

    def put(self, frame: object) -> None:
        """Sends a frame after those before it. Lost if the other end is gone."""
        data = self._encoder.encode(frame)
        data = _LENGTH.pack(len(data)) + data
        with self._lock:
            if self._is_shut:
                return
            if not self._waiting:
                data = data[self._sent_of(data) :]
            if not data:
                return
            self._waiting.append(data)
            self._size += len(data)
            if not self._is_writing:
                self._is_writing = True
                threading.Thread(target=self._write, name="fitbus channel", daemon=True).start()

    @property
    def is_crowded(self) -> bool:
        """Whether so much waits to be written that whoever can wait should. Any thread."""
        return self._size > _CROWDED

    def receive(self, timeout_s: float | None = None) -> T | _Nothing | None:
        """The next frame; None when the other end is gone; `NOTHING` if none came in time.

        Raises:
            msgspec.DecodeError: What came is no frame.
        """
        buffer = self._buffer
        while True:
            if len(buffer) >= _LENGTH.size:
                end = _LENGTH.size + _LENGTH.unpack_from(buffer)[0]
                if len(buffer) >= end:
                    frame = self._decoder.decode(bytes(memoryview(buffer)[_LENGTH.size : end]))
                    del buffer[:end]
                    return frame
            if timeout_s and not readable([self], timeout_s):
                return NOTHING
            try:
                data = self._socket.recv(_CHUNK, 0 if timeout_s is None else socket.MSG_DONTWAIT)
            except BlockingIOError:
                return NOTHING
            except OSError:
                data = b""
            if not data:
                return None
            buffer += data

    def fileno(self) -> int:
        """The socket's file descriptor."""
        return self._socket.fileno()

    def shut(self) -> None:
        """Lets the receiver read what has come, and then the end; sends nothing more."""
        with self._lock:
            self._is_shut = True
            self._waiting.clear()
            self._size = 0
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self.on_room()

    def close(self) -> None:
        """Gives the socket back; nobody receives any more."""
        self.shut()
        self._socket.close()

    def flush(self, timeout_s: float) -> None:
        """Waits until all is written, so long at most."""
        done = threading.Event()
        step = 0.002
        while self._is_writing and timeout_s > 0 and not done.wait(step):
            timeout_s -= step

    def _sent_of(self, data: bytes) -> int:
        """How many bytes could be sent at once."""
        try:
            return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError:
            self._is_shut = True
            return len(data)

    def _write(self) -> None:
        """Writes what waits, in a thread that there is only while it is needed."""
        while True:
            with self._lock:
                data = b"".join(self._waiting)
                self._waiting.clear()
                if not data:
                    self._is_writing = False
                    break
                # What comes meanwhile waits behind it.
                self._waiting.append(b"")
            try:
                self._socket.sendall(data, socket.MSG_NOSIGNAL)
            except OSError:
                with self._lock:
                    self._is_shut = True
                    self._waiting.clear()
                    self._size = 0
                    self._is_writing = False
                break
            with self._lock:
                self._size = max(0, self._size - len(data))
        self.on_room()


def readable(channels: Sequence[Channel[Any]], timeout_s: float | None = None) -> bool:
    """Waits until something has come through one of several; tells whether it has."""
    if not hasattr(select, "poll"):
        return bool(select.select(channels, [], [], timeout_s)[0])
    poll = select.poll()
    for channel in channels:
        poll.register(channel, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))
