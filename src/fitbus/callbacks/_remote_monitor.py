"""Posts the logs of each epoch to a web server."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, final
from urllib.parse import urlencode

from fitbus.callbacks._arguments import check_flag, check_seconds, check_whole
from fitbus.callbacks._background import within_grace
from fitbus.callbacks._callback import Callback, Logs
from fitbus.callbacks._remote_sender import Attempts, Counts, RemoteStatistics, Sender
from fitbus.errors import FitbusError, InvalidArgumentError

if TYPE_CHECKING:
    from fitbus.train import Run

__all__ = ["RemoteMonitor"]

_logger = logging.getLogger("fitbus")


@final
class RemoteMonitor(Callback):
    """Posts `{"epoch": ..., **logs}` to a web server after each epoch; what Keras' sends.

    A thread of its own sends, one message after the other; training never waits for the server
    before its end, and never fails because of it. An attempt that finds no server, gets no answer
    in time, or is answered by 5xx or 429, is repeated after a while that doubles (and is in part
    left to chance; a server's `Retry-After` is heeded up to 30 seconds); any other 4xx is final.
    After a message was given up, those that follow are tried once each, until one gets through. So
    each arrives once or not at all, except that a server may see one twice whose answer got lost.
    The first failure of several is logged as a warning (logger "fitbus"), and at the end how many
    there were.

    NaN and the infinities are the strings "NaN", "Infinity" and "-Infinity", so it is strict JSON;
    NumPy's and JAX's values are sent as numbers and lists, what else JSON can't say as its `repr`.

    Differs from Keras in not posting in the training thread, without a timeout or a retry: there a
    server that hangs stops training. Also, Keras' needs `requests`, warns by `warnings` at each
    failure, takes an answer of 500 for a success, and with NaN sends what isn't JSON, or nothing.

    Args:
        root: The server's address: `http://...` or `https://...`.
        path: The path on it.
        field: The form's field that holds the JSON text; where `send_as_json` is False.
        headers: Of each request, by name; they go before those that would be set.
        send_as_json: Whether the body is the JSON itself, not a form.
        timeout_s: Seconds for each of connecting, sending, and waiting for the answer.
        retries: Attempts after the first one.
        backoff_s: Seconds before the first of these; doubled each time, 30 at most.
        room: How many messages may wait; one more drops the oldest of them.
        drain_s: Seconds that the end of training waits for what isn't sent yet; after a
            cancellation half of `fit`'s `grace_s` at most. What is left then is given up.

    Raises:
        InvalidArgumentError: An argument is of the wrong kind or out of range.
        FitbusError: httpx isn't installed; it comes with the extra `remote`.

    Source: Keras' `RemoteMonitor`; M. Brooker, "Exponential Backoff and Jitter", AWS Architecture
    Blog, 2015; RFC 9110, section 10.2.3, for `Retry-After`.
    """

    adds_logs: ClassVar[bool | frozenset[str]] = False

    def __init__(
        self,
        root: str = "http://localhost:9000",
        path: str = "/publish/epoch/end/",
        field: str = "data",
        headers: Mapping[str, str] | None = None,
        send_as_json: bool = False,
        *,
        timeout_s: float = 5.0,
        retries: int = 3,
        backoff_s: float = 0.5,
        room: int = 256,
        drain_s: float = 10.0,
    ) -> None:
        try:
            import httpx
        except ImportError as error:
            raise FitbusError(
                'RemoteMonitor needs httpx, which isn\'t installed: pip install "fitbus[remote]"'
            ) from error
        for argument, text in (("root", root), ("path", path), ("field", field)):
            if not isinstance(text, str) or not (text or argument == "path"):
                raise InvalidArgumentError(f"RemoteMonitor.{argument}", text, "give a text")
        try:
            self._url = httpx.URL(root + path)
        except httpx.InvalidURL:
            self._url = httpx.URL("")
        if self._url.scheme not in ("http", "https") or not self._url.host:
            raise InvalidArgumentError(
                "RemoteMonitor.root", root, "give an address: http:// or https://, and a host"
            )
        if headers is not None and not (
            isinstance(headers, Mapping)
            and all(isinstance(text, str) for pair in headers.items() for text in pair)
        ):
            raise InvalidArgumentError(
                "RemoteMonitor.headers", headers, "give texts by name, or None"
            )
        check_flag("RemoteMonitor", "send_as_json", send_as_json)
        check_seconds("RemoteMonitor", "timeout_s", timeout_s)
        check_seconds("RemoteMonitor", "backoff_s", backoff_s, zero=True)
        check_seconds("RemoteMonitor", "drain_s", drain_s, zero=True)
        check_whole("RemoteMonitor", "retries", retries, 0)
        check_whole("RemoteMonitor", "room", room, 1)
        self.root = root
        self.path = path
        self.field = field
        self.headers = headers
        self.send_as_json = send_as_json
        self._attempts = Attempts(timeout_s, retries, backoff_s)
        self._room = room
        self._drain_s = drain_s
        self._counts = Counts()
        self._sender = self._new_sender()

    def statistics(self) -> RemoteStatistics:
        """What became of the messages of all trainings so far. Any thread."""
        return self._sender.statistics()

    def attach(self, run: Run[Any]) -> None:
        """Subscribes to a run; `callbacks=[...]` calls it."""
        super().attach(run)
        run.at_end(lambda: self._sender.close(0.0))  # where no hook was called any more

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Starts anew: the object can be used again."""
        self._sender = self._new_sender()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Has a message sent."""
        message = json.dumps(_plain({"epoch": epoch, **(logs or {})}))
        text = message if self.send_as_json else urlencode({self.field: message})
        self._sender.put(text.encode())

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Waits until all is sent or given up."""
        assert self.run is not None
        self._sender.close(within_grace(self.run, self._drain_s))
        lost = self.statistics()
        if lost.failed + lost.dropped:
            _logger.warning(
                "RemoteMonitor: %d messages were delivered so far, %d given up, %d dropped",
                *(lost.sent, lost.failed, lost.dropped),
            )

    def _new_sender(self) -> Sender:
        kind = "application/json" if self.send_as_json else "application/x-www-form-urlencoded"
        given = self.headers or {}
        headers = {**given}
        if not any(name.lower() == "content-type" for name in given):
            headers["Content-Type"] = kind
        return Sender(self._url, headers, self._attempts, self._room, self._counts)


def _plain(value: object) -> object:
    """A value that JSON can say."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    to_list = getattr(value, "tolist", None)
    return repr(value) if to_list is None else _plain(to_list())
