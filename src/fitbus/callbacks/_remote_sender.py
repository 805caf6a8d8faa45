"""Sends bodies to a web server, in order, from a thread of its own."""

from __future__ import annotations

import dataclasses
import logging
import random
import threading
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    import httpx

__all__ = ["Attempts", "Counts", "RemoteStatistics", "Sender"]

_logger = logging.getLogger("fitbus")
_LONGEST_S = 30.0  # between two attempts


@final
@dataclasses.dataclass(frozen=True)
class RemoteStatistics:
    """What became of a `RemoteMonitor`'s messages so far.

    Attributes:
        sent: Those that the server took.
        retried: Attempts after a first one.
        dropped: Those that gave way to newer ones, since too many waited.
        failed: Those that were given up: refused, not delivered by the last attempt, or too late.
        waiting: Those that still wait, the one under way among them.
    """

    sent: int
    retried: int
    dropped: int
    failed: int
    waiting: int


@final
class Counts:
    """The counters, over all trainings. Used under the lock of the one sender that is alive."""

    def __init__(self) -> None:
        self.sent = self.retried = self.dropped = self.failed = 0


@final
@dataclasses.dataclass(frozen=True)
class Attempts:
    """How often it is tried, and how long.

    Attributes:
        timeout_s: Seconds for each of connecting, sending and waiting for the answer.
        retries: Attempts after the first one.
        backoff_s: Seconds before the first of these; doubled for each further one.
    """

    timeout_s: float
    retries: int
    backoff_s: float

    def delay_s(self, retry: int) -> float:
        """Seconds before a retry, the first being 0: half of them up to chance."""
        whole = min(_LONGEST_S, self.backoff_s * 2.0**retry)
        return whole * random.uniform(0.5, 1.0)  # noqa: S311  # spreads the load, guards no secret


@final
class Sender:
    """Sends for one training. The thread begins with the first body.

    Args:
        url: Where to.
        headers: Of each request.
        attempts: How often it is tried.
        room: How many bodies may wait; one more drops the oldest.
        counts: What is counted.
    """

    def __init__(
        self,
        url: httpx.URL,
        headers: Mapping[str, str],
        attempts: Attempts,
        room: int,
        counts: Counts,
    ) -> None:
        self._url = url
        self._headers = headers
        self._attempts = attempts
        self._room = room
        self._counts = counts
        self._waiting: deque[bytes] = deque()
        self._busy = False
        self._ending = False
        self._change = threading.Condition()
        self._given_up = threading.Event()
        self._reachable = True
        self._thread: threading.Thread | None = None

    def put(self, body: bytes) -> None:
        """Adds a body; never waits."""
        with self._change:
            if len(self._waiting) >= self._room:
                self._waiting.popleft()
                self._counts.dropped += 1
            self._waiting.append(body)
            self._change.notify()
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="fitbus RemoteMonitor", daemon=True
            )
            self._thread.start()

    def close(self, within_s: float) -> None:
        """Waits until all is sent or given up; after so many seconds it is given up."""
        with self._change:
            self._ending = True
            self._change.notify()
        if self._thread is not None:
            self._thread.join(within_s)
        with self._change:
            self._given_up.set()
            self._counts.failed += len(self._waiting) + self._busy
            self._waiting.clear()
            self._busy = False

    def statistics(self) -> RemoteStatistics:
        """The counters at this moment. Any thread."""
        counts = self._counts
        with self._change:
            return RemoteStatistics(
                sent=counts.sent,
                retried=counts.retried,
                dropped=counts.dropped,
                failed=counts.failed,
                waiting=len(self._waiting) + self._busy,
            )

    # The thread.

    def _run(self) -> None:
        import httpx

        with httpx.Client(
            timeout=self._attempts.timeout_s, headers=self._headers, follow_redirects=True
        ) as client:
            while (body := self._next()) is not None:
                problem = self._deliver(client, body)
                with self._change:
                    if self._given_up.is_set():
                        return
                    self._busy = False
                    self._counts.failed += problem is not None
                    self._counts.sent += problem is None
                self._tell(problem)

    def _next(self) -> bytes | None:
        with self._change:
            self._change.wait_for(lambda: self._waiting or self._ending)
            if not self._waiting:
                return None
            self._busy = True
            return self._waiting.popleft()

    def _deliver(self, client: httpx.Client, body: bytes) -> str | None:
        """Sends a body. Returns why it couldn't; None if the server took it."""
        # Once one was given up, each is tried once, until the server is there again.
        retries = self._attempts.retries if self._reachable else 0
        for attempt in range(retries + 1):
            problem, wait_s = self._attempt(client, body)
            if wait_s is None or attempt == retries:
                return problem
            if self._given_up.wait(max(wait_s, self._attempts.delay_s(attempt))):
                return problem
            with self._change:
                self._counts.retried += 1
        raise AssertionError  # it returned

    def _attempt(self, client: httpx.Client, body: bytes) -> tuple[str | None, float | None]:
        """Sends a body once.

        Returns:
            Why it couldn't, or None; and the least time before it may be worth another attempt, or
            None if it isn't.
        """
        import httpx

        try:
            with client.stream("POST", self._url, content=body) as answer:
                status, asked = answer.status_code, answer.headers.get("retry-after", "")
        except httpx.TransportError as error:
            again = not isinstance(error, httpx.UnsupportedProtocol)
            return f"{type(error).__name__}: {error}", 0.0 if again else None
        except Exception as error:  # noqa: BLE001  # training never fails because of it
            return f"{type(error).__name__}: {error}", None
        if status < 400:
            return None, None
        problem = f"it answered {status}"
        if status < 500 and status != 429:
            return problem, None
        return problem, min(_LONGEST_S, float(asked)) if asked.isdecimal() else 0.0

    def _tell(self, problem: str | None) -> None:
        """Warns of the first of several failures."""
        if problem is not None and self._reachable:
            url = self._url  # without a password in it
            _logger.warning(
                "RemoteMonitor couldn't deliver to %s://%s%s: %s; training goes on, and it tries"
                " again with the next epoch",
                *(url.scheme, url.netloc.decode(), url.path, problem),
            )
        self._reachable = problem is None
