"""A real web server, in a thread, that answers as it is told to."""

from __future__ import annotations

import http.server
import json
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Self

from fitbus.callbacks import RemoteMonitor

__all__ = ["FailingServer", "Serve", "counts", "epochs", "monitor", "strict"]


class Request(NamedTuple):
    """What came."""

    path: str
    headers: dict[str, str]
    body: str


class FailingServer:
    """Answers requests, in order, as a list says, and then with 200.

    A number is a status; "close" closes the connection without an answer; "hang" doesn't answer
    until `let_go`, and then closes the connection; "later" is a 503 that says when to come again.
    """

    def __init__(self, answers: Iterable[int | str] = ()) -> None:
        self.requests: list[Request] = []
        self.answers = deque(answers)
        self.came = threading.Semaphore(0)
        self._closing = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                headers = {name.lower(): text for name, text in self.headers.items()}
                outer.requests.append(Request(self.path, headers, body))
                answer = outer.answers.popleft() if outer.answers else 200
                outer.came.release()
                if answer == "hang":
                    outer._closing.wait(30)
                self.close_connection = True
                if isinstance(answer, int) or answer == "later":
                    self.send_response(503 if isinstance(answer, str) else answer)
                    if answer == "later":
                        self.send_header("Retry-After", "0")
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Prints nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.root = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def let_go(self) -> None:
        """Ends what hangs."""
        self._closing.set()

    def close(self) -> None:
        """Ends it."""
        self.let_go()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


Serve = Callable[..., FailingServer]


def strict(text: str) -> Any:
    """Parsed, if it is JSON without NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def monitor(server: FailingServer, **given: Any) -> RemoteMonitor:
    """One that doesn't wait long."""
    fast: dict[str, Any] = {"timeout_s": 5.0, "backoff_s": 0.001, "send_as_json": True, **given}
    return RemoteMonitor(server.root, **fast)


def epochs(server: FailingServer) -> list[int]:
    """The epochs of the requests that came."""
    return [strict(request.body)["epoch"] for request in server.requests]


def counts(monitor: RemoteMonitor) -> dict[str, int]:
    """The counters that aren't 0."""
    found = vars(monitor.statistics())
    return {name: count for name, count in found.items() if count}
