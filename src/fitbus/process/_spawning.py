"""The child process itself: started, watched, and ended."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, final

from fitbus.errors import ProcessDiedError
from fitbus.process._channel import Channel
from fitbus.process._frames import EventsOfChild, FromChild

__all__ = ["Spawned"]

_LINES = 20
_LONG = 500
_CHUNK = 1 << 13  # bytes of stderr at a time, and of a line that doesn't end
_TERM_S = 0.5
_MAIN = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1));"
    " from fitbus.process._child import main; main(*map(int, sys.argv[1:3]))"
)


@final
class Spawned:
    """A child process, in a session of its own: what the terminal sends doesn't reach it.

    Its stdout is this process'; what it writes to stderr is passed on to this one's, and its last
    lines are kept. What it started itself ends with it, unless that left its process group.

    Args:
        env: Environment variables, beside those of this process.

    Attributes:
        channel: To it.
        events: From it, with its events.
        pid: Its id.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        mine, its = zip(socket.socketpair(), socket.socketpair(), strict=True)
        path = [os.path.realpath(entry or ".") for entry in sys.path]
        numbers = tuple(end.fileno() for end in its)
        try:
            self._process = subprocess.Popen(  # noqa: S603  # ourselves
                [sys.executable, "-c", _MAIN, json.dumps(path), *map(str, numbers)],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={**os.environ, **env},
                pass_fds=numbers,
                start_new_session=True,
            )
        except BaseException:
            for end in mine:
                end.close()
            raise
        finally:
            for end in its:
                end.close()
        self.channel: Channel[FromChild] = Channel(mine[0], FromChild)
        self.events: Channel[EventsOfChild] = Channel(mine[1], EventsOfChild)
        self.pid = self._process.pid
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._told = threading.Thread(target=self._pass_on, name="fitbus stderr", daemon=True)
        self._told.start()
        self._gone = threading.Thread(target=self._watch, name="fitbus child", daemon=True)
        self._gone.start()

    def end(self, within_s: float) -> None:
        """Waits for its end, so long at most; then ends it by force. Not in the event loop."""
        for stop in (None, self._process.terminate, self._process.kill):
            if stop is not None:
                stop()
            try:
                self._process.wait(within_s)
                break
            except subprocess.TimeoutExpired:
                within_s = _TERM_S
        self._gone.join()
        self._told.join(_TERM_S)  # a process of its own may hold the pipe
        self.close()

    def interrupt(self) -> None:
        """Sends it a signal that ends it. Any thread; doesn't wait."""
        self._process.terminate()
        killer = threading.Timer(_TERM_S, self._process.kill)
        killer.daemon = True
        killer.start()

    def shut(self) -> None:
        """Lets nobody wait for more than it has sent."""
        self.events.shut()
        self.channel.shut()

    def close(self) -> None:
        """Gives the sockets back."""
        self.channel.close()
        self.events.close()

    def died(self) -> ProcessDiedError:
        """Says how it ended, when it has."""
        status, lines = self._process.wait(), tuple(self._lines)
        said = "\nits last lines:\n" + "\n".join(lines) if lines else ""
        return ProcessDiedError(f"{_end_of(status)}{said}", self.pid, status, lines)

    def _watch(self) -> None:
        self._process.wait()
        with contextlib.suppress(OSError):  # there is seldom anybody left
            os.killpg(self.pid, signal.SIGKILL)
        # A process of its own may hold the other end, so that it would never be seen closed.
        time.sleep(0.01)
        self.shut()

    def _pass_on(self) -> None:
        pipe: Any = self._process.stderr
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = ""
        with pipe:
            while data := pipe.read1(_CHUNK):
                text += decoder.decode(data)
                end = 1 + max(text.rfind("\n"), text.rfind("\r"))
                end = end or (len(text) if len(text) > _CHUNK else 0)  # a line without an end
                self._pass_lines_on(text[:end])
                text = text[end:]
        self._pass_lines_on(text)

    def _pass_lines_on(self, text: str) -> None:
        self._lines.extend(line[:_LONG] for line in text.splitlines() if line)
        with contextlib.suppress(Exception):  # there may be none, and the child mustn't stand
            sys.stderr.write(text)


def _end_of(status: int) -> str:
    if status >= 0:
        return f"ended with exit status {status} before its training did"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
