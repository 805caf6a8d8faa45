"""Who may read, and who may steer."""

from __future__ import annotations

import dataclasses
import hmac
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Literal, TypeAlias, final

from starlette.requests import HTTPConnection

from fitbus.errors import InvalidArgumentError

__all__ = ["COOKIE", "LOOPBACK", "Access", "Authorize", "Guarded", "Refused", "Rights"]

Access: TypeAlias = Literal["none", "read", "control"]
Allowed: TypeAlias = "Access | tuple[Access, str]"
Authorize: TypeAlias = Callable[[HTTPConnection], "Allowed | Awaitable[Allowed]"]

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
COOKIE = "fitbus_token"
_SAFE = ("GET", "HEAD", "OPTIONS")
_logger = logging.getLogger("fitbus")


class Refused(Exception):
    """A request that isn't answered.

    Attributes:
        status: HTTP's.
        why: What to do.
    """

    def __init__(self, status: int, why: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(why)
        self.status, self.why, self.headers = status, why, dict(headers or {})


@final
@dataclasses.dataclass(frozen=True)
class Guarded:
    """What a connection may do.

    Attributes:
        access: That.
        address: The client's.
        name: The application's name for the user; or which token it was, `anybody` without one.
    """

    access: Access
    address: str
    name: str

    @property
    def source(self) -> str:
        """For the record of who sent what."""
        return f"http {self.address} ({self.name})"


@final
class Rights:
    """Lets connections read, or steer, or neither.

    Args:
        read_token: Needed to read; None: everybody who gets here may.
        control_token: Needed to steer. None: one is made, and logged once.
        authorize: Decides instead of tokens: a function of the connection, `def` or `async def`.
        hosts: The names under which it is reached: others in `Host` are refused, so that no page
            of another site reaches it under a name of its own.
        origins: Pages of other origins that may send; its own always may.
        per_s: How many requests that change something a client's address may send in a second, and
        burst: how many at once.
    """

    def __init__(
        self,
        *,
        read_token: str | None = None,
        control_token: str | None = None,
        authorize: Authorize | None = None,
        hosts: Collection[str] = LOOPBACK,
        origins: Collection[str] = (),
        per_s: float = 5.0,
        burst: int = 20,
    ) -> None:
        for name, token in (("read_token", read_token), ("control_token", control_token)):
            if token is not None and (not isinstance(token, str) or len(token) < 8):
                raise InvalidArgumentError(name, "***", "give a text of at least 8 characters")
        if authorize is not None and not callable(authorize):
            raise InvalidArgumentError("authorize", authorize, "give a function of the connection")
        if isinstance(hosts, str) or not all(isinstance(host, str) and host for host in hosts):
            raise InvalidArgumentError(
                "hosts", hosts, "give a list of names, such as ['localhost']"
            )
        if isinstance(origins, str) or not all(isinstance(each, str) and each for each in origins):
            raise InvalidArgumentError(
                "origins", origins, "give a list of origins, such as ['https://example.org']"
            )
        self._read = read_token
        self._made = control_token is None and authorize is None
        self.control_token = control_token or secrets.token_urlsafe(24)
        self._authorize = authorize
        self._hosts = frozenset(host.lower() for host in hosts)
        self._origins = frozenset(origins)
        self._buckets = _Buckets(per_s, burst)
        self._sign_ins = _Buckets(_SIGN_INS_PER_S, _SIGN_INS)
        self._guesses = _Buckets(_SIGN_INS_PER_S, _SIGN_INS)
        self._wrong: dict[int, None] = {}  # tokens, hashed: one that comes again is no new guess

    def announce(self) -> None:
        """Logs a token that was made, once."""
        if self._made:
            self._made = False
            _logger.warning("controls need this token, made for this start: %s", self.control_token)

    async def check(self, connection: HTTPConnection, needed: Access) -> Guarded:
        """Lets it pass, or raises `Refused`."""
        self._check_host(connection)
        method = connection.scope.get("method", "GET")
        if needed == "control" or method not in _SAFE or connection.scope["type"] == "websocket":
            self._check_origin(connection)
        if needed == "control":
            self._buckets.check(_address(connection))
        found = await self._found(connection)
        if found.access in ("control", needed):
            return found
        if found.access == "none":
            raise Refused(
                401,
                f"a token is needed to {_VERBS[needed]}: send `Authorization: Bearer TOKEN`",
                {"WWW-Authenticate": "Bearer"},
            )
        raise Refused(403, f"this token may only read; another one is needed to {_VERBS[needed]}")

    async def _found(self, connection: HTTPConnection) -> Guarded:
        address = _address(connection)
        if self._authorize is not None:
            given = self._authorize(connection)
            said = given if isinstance(given, str | tuple) else await given
            access, name = (said, "authorized") if isinstance(said, str) else said
            return Guarded(
                access if access in ("read", "control") else "none", address, str(name)[:80]
            )
        token, is_cookie = _token_of(connection)
        allowed = self._tried(address, token)
        if allowed == "none" and self._read is None and (token is None or is_cookie):
            # A cookie may be left from before, and says nothing against anybody.
            return Guarded("read", address, "anybody")
        return Guarded(allowed, address, f"{allowed} token" if allowed != "none" else "unknown")

    def _tried(self, address: str, token: str | None) -> Access:
        """What a token lets one do; of those that nobody tried before, few may be wrong."""
        if token is None or hash(token) in self._wrong:
            return "none"
        self._guesses.check(address, takes=False)
        access = self.access_of(token)
        if access == "none":
            self._guesses.check(address)
            if len(self._wrong) >= _ADDRESSES:
                del self._wrong[next(iter(self._wrong))]
            self._wrong[hash(token)] = None
        return access

    @property
    def by_tokens(self) -> bool:
        """Whether tokens say who may do what."""
        return self._authorize is None

    def access_of(self, token: str) -> Access:
        """What a token lets one do; compared in constant time."""
        if _same(token, self.control_token):
            return "control"
        return "read" if self._read is not None and _same(token, self._read) else "none"

    async def look(self, connection: HTTPConnection) -> Access:
        """What a connection may do, without refusing it."""
        self._check_host(connection)
        return (await self._found(connection)).access

    def sign_in(self, connection: HTTPConnection, token: str) -> Guarded:
        """What a token that a page sent lets it do; raises `Refused` if nothing."""
        access = self.access_of(token)
        if access == "none":
            raise Refused(401, "this isn't the token; the service logged it when it started")
        return Guarded(access, _address(connection), f"{access} token")

    def check_session(self, connection: HTTPConnection) -> None:
        """Lets a page of its own sign in or out, now and then; or raises `Refused`."""
        self._check_host(connection)
        self._check_origin(connection)
        self._sign_ins.check(_address(connection))

    def _check_host(self, connection: HTTPConnection) -> None:
        host = connection.headers.get("host", "")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if "*" not in self._hosts and name.lower() not in self._hosts:
            raise Refused(
                421, f"it isn't reached under the name {name[:80]!r}; say `hosts=[...]` if it is"
            )

    def _check_origin(self, connection: HTTPConnection) -> None:
        origin = connection.headers.get("origin")
        site = connection.headers.get("sec-fetch-site", "same-origin")
        if origin is None and site in ("same-origin", "none"):
            return  # no page sent it, or one of its own
        own = (origin or "").partition("://")[2] == connection.headers.get("host")
        if not own and origin not in self._origins:
            raise Refused(403, f"a page of {str(origin)[:80]!r} may not send this; see `origins`")


_VERBS = {"read": "read", "control": "steer", "none": ""}


@final
class _Buckets:
    """Tokens by address, of which each request takes one, and which come back with time."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s, self._burst = per_s, burst
        self._left: dict[str, tuple[float, float]] = {}

    def check(self, address: str, *, takes: bool = True) -> None:
        """Takes one, or sees that there is one; raises `Refused` if not."""
        now = time.monotonic()
        left, then = self._left.pop(address, (float(self._burst), now))
        left = min(float(self._burst), left + (now - then) * self._per_s)
        if len(self._left) >= _ADDRESSES:
            self._left.pop(next(iter(self._left)))  # the one that sent longest ago
        self._left[address] = (left - 1 if takes and left >= 1 else left), now
        if left < 1:
            wait = max(1, round((1 - left) / self._per_s))
            raise Refused(
                429, f"too many requests; try again in {wait} s", {"Retry-After": str(wait)}
            )


_ADDRESSES = 10_000
_SIGN_INS_PER_S, _SIGN_INS = 0.5, 10  # a token can't be guessed at this pace


def _address(connection: HTTPConnection) -> str:
    return connection.client.host if connection.client else "?"


def _token_of(connection: HTTPConnection) -> tuple[str | None, bool]:
    """The token that was given, and whether it came as a cookie."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip(), False
    return connection.cookies.get(COOKIE), True


def _same(one: str, other: str) -> bool:
    coded = (text.encode(errors="surrogatepass") for text in (one, other))
    return hmac.compare_digest(*coded)
