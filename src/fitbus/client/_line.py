"""The requests that a client makes, and what comes of them."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple, final
from urllib.parse import quote

import anyio
import httpx

from fitbus.errors import InvalidArgumentError, ServiceError

__all__ = ["Line", "Message", "messages"]

_FIRST_S, _MOST_S = 0.1, 5.0  # from one try to the next
_WAITING, _TOO_MANY = 202, 429
_AGAIN = {_TOO_MANY, 502, 503, 504}
_SILENT_S = 60.0  # a stream of which not even a heartbeat came is cut


class Message(NamedTuple):
    """What a stream of server-sent events brings.

    Attributes:
        id: The id of the last event; empty before there was one.
        kind: The message's type; empty for an event of the run.
        data: Its text.
    """

    id: str
    kind: str
    data: str


async def messages(parts: AsyncIterator[bytes]) -> AsyncIterator[Message]:
    """Reads server-sent events; their texts may hold what other readers take for ends of lines.

    References:
        https://html.spec.whatwg.org/multipage/server-sent-events.html
    """
    last, kind, rest = "", "", b""
    data: list[str] = []
    async for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        for line in (line.removesuffix(b"\r") for line in lines):
            if not line:
                if data:
                    yield Message(last, kind, "\n".join(data))
                kind, data = "", []
                continue
            field, _, raw = line.partition(b":")  # a comment has no name
            value = raw.removeprefix(b" ").decode()
            if field == b"data":
                data.append(value)
            elif field == b"id":
                last = value
            elif field == b"event":
                kind = value


@final
class Line:
    """The connection to one run of a service.

    Args:
        url: The address of a run, or of a service.
        token: What the service asks for; None if it asks for none.
        reconnect_s: For how many seconds it is tried again.

    Attributes:
        http: Makes requests.
        run: The path of the run; known after `find`.
        is_there: Whether the stream is open.
    """

    def __init__(self, url: str, token: str | None, reconnect_s: float) -> None:
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, TypeError) as error:
            raise _bad(url) from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise _bad(url)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        here = parsed.host in ("localhost", "127.0.0.1", "::1")
        # Redirects aren't followed: the token is for this host. No proxy leads to this machine.
        origin = parsed.copy_with(path="/", query=None, fragment=None)
        self.http = httpx.AsyncClient(
            base_url=origin, headers=headers, timeout=30.0, trust_env=not here
        )
        self.url = str(parsed.copy_with(username=None, password=None, query=None, fragment=None))
        self.run = ""
        self.is_there = False
        self._reconnect_s = reconnect_s

    async def find(self) -> None:
        """Finds out which run it is.

        Raises:
            ServiceError: The service can't be reached, refuses, or has no run.
        """
        path = httpx.URL(self.url).raw_path.decode().rstrip("/")
        before, _, last = path.rpartition("/")
        if before.endswith("/runs") and last:
            self.run = path
            return
        service = path.removesuffix("/runs")
        found = await self.get(f"{service}/runs")
        try:
            newest = next((run["id"] for run in found["runs"]), None)
        except (KeyError, TypeError) as error:
            raise ServiceError(f"{self.url} is no fitbus service") from error
        if newest is None:
            raise ServiceError(f"{self.url} has no run yet; start one, or give the address of one")
        self.run = f"{service}/runs/{quote(newest, safe='')}"

    async def get(self, path: str) -> Any:
        """What the service says at a path; not tried again."""
        try:
            answer = await self.http.get(path)
        except httpx.HTTPError as error:
            raise self.lost(error) from error
        return self.checked(answer)

    def checked(self, answer: httpx.Response) -> Any:
        """An answer's JSON; raises `ServiceError` if it is a refusal."""
        if answer.status_code >= 300:
            raise _refusal(answer)
        try:
            return answer.json()
        except ValueError as error:
            raise ServiceError(f"{answer.url} answers no JSON; is it a fitbus service?") from error

    def lost(self, error: Exception) -> ServiceError:
        """What is raised if there is no connection."""
        what = str(error) or type(error).__name__
        return ServiceError(f"{self.url} can't be reached: {what}; see that the service runs")

    async def stream(
        self, query: dict[str, str], last: str, again: Callable[[], Awaitable[object]]
    ) -> AsyncGenerator[Message]:
        """What a stream brings, over as many connections as it takes; ends when the run has.

        Args:
            query: What is wanted.
            last: The id after which it begins.
            again: Called when there is another connection than before.

        Raises:
            ServiceError: The service refuses; or can't be reached, or doesn't know the run any
                more, for so long that it isn't tried again.
        """
        tries, was_there = 0, False
        lost_at = anyio.current_time()
        while True:
            try:
                async with self.http.stream(
                    "GET",
                    f"{self.run}/events",
                    params={**query, "last_event_id": last},
                    timeout=httpx.Timeout(30.0, read=_SILENT_S),
                ) as answer:
                    await self._accepted(answer)
                    tries, ended, self.is_there = 0, False, True
                    if was_there:
                        await again()
                    was_there = True
                    async for message in messages(answer.aiter_bytes()):
                        if message.kind == "end":
                            ended = True  # and read on: trio wants generators to be exhausted
                            continue
                        last = message.id or last
                        yield message
                if ended:
                    return
                error = ServiceError(f"{self.url} cut the stream")
            except httpx.HTTPError as broken:
                error = self.lost(broken)
            except ServiceError as refused:
                # A service that was started again may not have the run at once.
                if refused.status not in _AGAIN and not (refused.status == 404 and was_there):
                    raise
                error = refused
            if self.is_there:
                self.is_there, lost_at = False, anyio.current_time()
            await self._pause(error, tries, lost_at)
            tries += 1

    async def _accepted(self, answer: httpx.Response) -> None:
        if answer.status_code != 200:
            await answer.aread()
            self.checked(answer)

    async def _pause(self, error: ServiceError, tries: int, lost_at: float) -> None:
        """Waits until it is tried again; raises if it was for long enough."""
        if self._is_late(lost_at):
            error.add_note(f"fitbus: it was tried for {self._reconnect_s:g} s (reconnect_s)")
            raise error
        await _back_off(tries)

    async def send(self, body: str) -> httpx.Response:
        """Sends a control once; one that was never taken is tried again.

        Raises:
            ServiceError: It can't be known whether it was taken, or it wasn't.
        """
        began, tries = anyio.current_time(), 0
        while True:
            try:
                answer = await self.http.post(
                    f"{self.run}/controls",
                    params={"wait_s": "0"},
                    content=body,
                    headers={"Content-Type": "application/json"},
                )
                if answer.status_code != _TOO_MANY or self._is_late(began):
                    return answer
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
                if self._is_late(began):
                    raise self.lost(error) from error
            except httpx.HTTPError as error:
                what = "the connection was lost before the service answered: the control may have"
                raise ServiceError(f"{what} acted; its events tell ({error!r})") from error
            await _back_off(tries)
            tries += 1

    async def outcome(self, ticket: str) -> httpx.Response:
        """Waits for what became of a control; may be asked again and again.

        Raises:
            ServiceError: The service can't be reached, for so long that it isn't tried again.
        """
        path, began, tries = f"{self.run}/controls/{ticket}", anyio.current_time(), 0
        while True:
            try:
                answer = await self.http.get(path, timeout=httpx.Timeout(30.0, read=_SILENT_S))
                if answer.status_code == _WAITING:
                    began, tries = anyio.current_time(), 0
                    continue
                if answer.status_code not in _AGAIN or self._is_late(began):
                    return answer
            except httpx.HTTPError as error:
                if self._is_late(began):
                    raise self.lost(error) from error
            await _back_off(tries)
            tries += 1

    def _is_late(self, began: float) -> bool:
        return anyio.current_time() - began > self._reconnect_s


async def _back_off(tries: int) -> None:
    pause = min(_MOST_S, _FIRST_S * 2**tries)
    await anyio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # only spreads clients


def _refusal(answer: httpx.Response) -> ServiceError:
    try:
        why = str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        why = answer.text[:200] or answer.reason_phrase
    return ServiceError(f"{answer.url.copy_with(query=None)}", answer.status_code, why)


def _bad(url: object) -> InvalidArgumentError:
    return InvalidArgumentError(
        "url", url, "give the address of a run, such as http://127.0.0.1:8000/runs/ID"
    )
