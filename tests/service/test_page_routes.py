"""The page's files, and the session that keeps a browser's token."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest

from fitbus import service

from ._page_parts import CONTROL, READ, made, mounted, serving

PAUSE = {"type": "Pause"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(mounted(made())) as port:
        yield f"http://127.0.0.1:{port}/training"


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
        yield client


def test_all_that_the_page_asks_for_is_there_and_from_here(client: httpx.Client) -> None:
    """Relative, so that it may be mounted anywhere; and nothing may be loaded from elsewhere."""
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    asked = re.findall(r'(?:src|href)="(page/[^"]+)"', page.text)
    scripts = [client.get(f"/{each}") for each in asked]
    seen = set(asked)
    for script in scripts:
        assert script.status_code == 200
        assert script.headers["x-content-type-options"] == "nosniff"
        for name in re.findall(r'^import .* from "\./([^"]+)";$', script.text, re.MULTILINE):
            if (path := f"page/{name}") not in seen:
                seen.add(path)
                scripts.append(client.get(f"/{path}"))
    assert {"page/page.js", "page/model.js", "page/vendor/uPlot.js"} <= seen
    assert not [script for script in scripts if "innerHTML" in script.text]


def test_it_is_sent_once_until_it_changes(client: httpx.Client) -> None:
    first = client.get("/page/page.js")
    again = client.get("/page/page.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["nothing.js", "..%2f_app.py", "%2e%2e/_app.py", "vendor/LICENSE"])
def test_nothing_else_can_be_fetched(client: httpx.Client, path: str) -> None:
    assert client.get(f"/page/{path}").status_code == 404


def test_the_library_comes_with_its_licence() -> None:
    from importlib import resources

    vendor = resources.files("fitbus.service") / "page" / "vendor"
    assert "MIT License" in (vendor / "LICENSE").read_text("utf-8")
    assert "v1.6.32" in (vendor / "uPlot.js").read_text("utf-8")[:200]


def test_a_token_becomes_a_cookie_that_no_script_and_no_other_site_can_use(
    client: httpx.Client,
) -> None:
    assert client.get("/session").json() == {"access": "read", "tokens": True, "session": False}
    answer = client.post("/session", json={"token": CONTROL})
    assert (answer.status_code, answer.json()) == (200, {"access": "control"})
    cookie = answer.headers["set-cookie"].lower()
    assert all(part in cookie for part in ("httponly", "samesite=strict", "path=/training"))
    assert client.get("/session").json() == {"access": "control", "tokens": True, "session": True}
    assert client.post("/runs/none/controls", json=PAUSE).status_code == 404, "it may steer"
    assert client.delete("/session").status_code == 204
    assert client.post("/runs/none/controls", json=PAUSE).status_code == 403


def test_a_wrong_token_makes_no_session(client: httpx.Client) -> None:
    answer = client.post("/session", json={"token": "wrong"})
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("body", [{}, {"token": 3}, {"token": ""}, {"token": "x" * 2000}])
def test_what_is_no_token_is_refused(url: str, body: dict[str, object]) -> None:
    with serving(made()) as port:
        answer = httpx.post(f"http://127.0.0.1:{port}/session", json=body, trust_env=False)
    assert answer.status_code == 422
    assert "set-cookie" not in answer.headers


def test_a_cookie_left_from_before_takes_nothing_away(client: httpx.Client) -> None:
    """A service that makes its token anew was restarted: who could read before still can."""
    client.cookies.set("fitbus_token", "of another start", path="/training")
    assert client.get("/runs").status_code == 200
    assert client.post("/runs/none/controls", json=PAUSE).status_code == 403
    wrong = {"Authorization": "Bearer of another start"}
    assert client.get("/runs", headers=wrong).status_code == 401, "a header is meant"


def test_pages_of_other_sites_neither_sign_in_nor_out(client: httpx.Client) -> None:
    headers = {"Origin": "https://evil.example"}
    body = {"token": CONTROL}
    assert client.post("/session", json=body, headers=headers).status_code == 403
    assert client.delete("/session", headers=headers).status_code == 403
    rebound = {"Host": "evil.example"}
    assert client.post("/session", json=body, headers=rebound).status_code == 421
    assert client.get("/session", headers=rebound).status_code == 421


def test_tokens_cannot_be_guessed_fast() -> None:
    with serving(made(read_token=READ)) as port:
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False)
        with client:
            found = [
                client.post("/session", json={"token": f"guess {n}"}).status_code for n in range(12)
            ]
            assert found[:10] == [401] * 10
            assert found[-1] == 429
            assert client.get("/runs").status_code == 401
            right = {"Authorization": f"Bearer {READ}"}
            assert client.get("/runs", headers=right).status_code == 200, "who has one goes on"


def test_where_the_application_says_who_may_there_is_no_session() -> None:
    app = service.app(None, {}, authorize=lambda connection: "read")
    with serving(app) as port:
        url = f"http://127.0.0.1:{port}/session"
        assert httpx.get(url, trust_env=False).json()["tokens"] is False
        assert httpx.post(url, json={"token": CONTROL}, trust_env=False).status_code == 409
