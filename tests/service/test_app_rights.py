"""Who may read and who may steer: each route without, with a wrong, and with the right token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest
from starlette.requests import HTTPConnection

import fitbus
from fitbus import service
from fitbus.errors import InvalidArgumentError

from ._server import CONTROL, READ, bearer, toy

pytestmark = pytest.mark.anyio

READS = [
    ("GET", "/runs"),
    ("GET", "/runs/none"),
    ("GET", "/runs/none/events"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
]
STEERS = [("POST", "/runs"), ("POST", "/runs/none/controls")]
RIGHT = {
    "GET /runs/none": 404,
    "GET /runs/none/events": 404,
    "POST /runs": 415,
    "POST /runs/none/controls": 404,
}


class Site:
    """An application, called without a network."""

    def __init__(self, **options: Any) -> None:
        self.runs = fitbus.Runs()
        self.app = service.app(self.runs, {"toy": toy}, **options)

    async def ask(self, method: str, path: str, **headers: str) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            return await client.request(method, path, headers=sent)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    found = Site(read_token=READ, control_token=CONTROL)
    async with found.runs:
        yield found


@pytest.mark.parametrize(("method", "path"), READS + STEERS)
async def test_each_route_wants_its_token(site: Site, method: str, path: str) -> None:
    right = RIGHT.get(f"{method} {path}", 200)
    for headers in ({}, bearer("a wrong token"), {"Authorization": f"Basic {CONTROL}"}):
        refused = await site.ask(method, path, **headers)
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert "Authorization: Bearer TOKEN" in refused.json()["error"]
    reading = await site.ask(method, path, **bearer(READ))
    assert reading.status_code == (403 if method == "POST" else right)
    steering = await site.ask(method, path, **bearer(CONTROL))
    assert steering.status_code == right
    assert (await site.ask(method, path, Cookie=f"fitbus_token={CONTROL}")).status_code == right


async def test_whether_it_lives_is_no_secret(site: Site) -> None:
    found = await site.ask("GET", "/healthz")
    assert (found.status_code, found.json()) == (200, {"status": "ok"})
    assert (await Site().ask("GET", "/healthz")).json() == {"status": "closed"}


async def test_without_configuration_all_may_read_and_a_token_is_made(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is logged once, and no two starts have the same."""
    made = Site()
    async with made.runs:
        assert (await made.ask("GET", "/runs")).status_code == 200
        assert (await made.ask("POST", "/runs")).status_code == 403
        (message,) = [text for text in caplog.messages if "made for this start" in text]
        token = message.split()[-1]
        assert (await made.ask("POST", "/runs", **bearer(token))).status_code == 415
        caplog.clear()
        other = Site()
        assert token not in caplog.text
        assert (await other.ask("POST", "/runs", **bearer(token))).status_code == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("[::1]", 200),
        ("evil.example", 421),
        ("localhost.evil.example:8000", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 421),
    ],
)
async def test_it_answers_under_its_own_names_only(site: Site, host: str, status: int) -> None:
    """A page of another site can't reach it by a name of its own (DNS rebinding)."""
    found = await site.ask("GET", "/runs", Host=host, **bearer(READ))
    assert found.status_code == status
    named = Site(read_token=READ, hosts=["runs.example"])
    found = await named.ask("GET", "/runs", Host="runs.example", **bearer(READ))
    assert found.status_code == 200
    every = Site(read_token=READ, hosts=["*"])
    found = await every.ask("GET", "/runs", Host="evil.example", **bearer(READ))
    assert found.status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 404),
        ({"Origin": "http://localhost"}, 404),
        ({"Origin": "http://friend.example"}, 404),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": ""}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Sec_Fetch_Site": "none"}, 404),
    ],
)
async def test_other_sites_pages_change_nothing(headers: dict[str, str], status: int) -> None:
    """Even with the cookie, which a browser would send along."""
    site = Site(control_token=CONTROL, origins=["http://friend.example"])
    async with site.runs:
        found = await site.ask(
            "POST", "/runs/none/controls", Cookie=f"fitbus_token={CONTROL}", **headers
        )
        assert found.status_code == status


async def test_an_application_decides_itself() -> None:
    """By a function, of either kind, of the connection."""

    def by_path(connection: HTTPConnection) -> service.Access:
        return "read" if connection.headers.get("x-user") == "me" else "none"

    async def later(connection: HTTPConnection) -> service.Access:
        await anyio.lowlevel.checkpoint()
        return "control" if connection.headers.get("x-user") == "me" else "none"

    for authorize, changes in ((by_path, 403), (later, 404)):
        site = Site(authorize=authorize)
        async with site.runs:
            assert (await site.ask("GET", "/runs")).status_code == 401
            assert (await site.ask("GET", "/runs", X_User="me")).status_code == 200
            sent = await site.ask("POST", "/runs/none/controls", X_User="me")
            assert sent.status_code == changes


async def test_who_sends_too_much_has_to_wait(site: Site) -> None:
    """It is said how long; reading isn't counted."""
    for _ in range(20):
        assert (await site.ask("POST", "/runs", **bearer("wrong"))).status_code == 401
    refused = await site.ask("POST", "/runs", **bearer(CONTROL))
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
    assert (await site.ask("GET", "/runs", **bearer(READ))).status_code == 200


async def test_a_token_cannot_be_guessed(site: Site) -> None:
    """By reading, by the session or by a cookie; one that is tried again is no new guess."""
    tries = [
        ("/runs", bearer("guess 1")),
        ("/session", bearer("guess 2")),
        ("/session", {"Cookie": "fitbus_token=guess_3"}),
        *(("/runs", bearer(f"guess {number}")) for number in range(4, 11)),
    ]
    for path, headers in tries + tries:
        assert (await site.ask("GET", path, **headers)).status_code in (200, 401)
    for path in ("/runs", "/session"):
        for token in ("guess 11", READ, CONTROL):
            refused = await site.ask("GET", path, **bearer(token))
            assert (refused.status_code, refused.headers["Retry-After"]) == (429, "2")
    assert (await site.ask("GET", "/runs")).status_code == 401


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"read_token": "short"}, "read_token"),
        ({"control_token": ""}, "control_token"),
        ({"authorize": "me"}, "authorize"),
        ({"hosts": "localhost"}, "hosts"),
        ({"origins": [""]}, "origins"),
        ({"max_running": 0}, "max_running"),
        ({"max_streams": True}, "max_streams"),
        ({"runs": {}}, "runs"),
        ({"factories": {"x": 3}}, r"factories\['x'\]"),
        ({"factories": {"x": lambda size: size}}, r"factories\['x'\], parameter 'size'"),
        ({"factories": {"x": lambda *sizes: sizes}}, r"factories\['x'\], parameter 'sizes'"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], argument: str) -> None:
    """A token isn't shown."""
    with pytest.raises(InvalidArgumentError, match=f"^{argument}: found ") as caught:
        service.app(**options)
    assert "short" not in str(caught.value)
