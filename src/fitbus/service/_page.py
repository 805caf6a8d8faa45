"""The page, and the session by which a browser keeps a token."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fitbus.service._audit import Audit
from fitbus.service._rights import COOKIE, Refused, Rights

__all__ = ["page_routes"]

_KINDS = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
}
_HEADERS = {
    # Nothing but what the service sends itself: no other host, nothing inline, in nobody's frame.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        " img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",  # asked for again each time, and answered by its tag
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_TOKEN_LENGTH = 1024


def page_routes(
    rights: Rights, body: Callable[[Request], Awaitable[dict[str, Any]]], audit: Audit
) -> list[Route]:
    """`GET /` and its parts; and `/session`, which keeps a token as a cookie for it.

    A browser's `EventSource` can't send headers, and no script of the page can read the cookie.

    Args:
        rights: Who may do what.
        body: Reads a request's JSON.
        audit: Is told who signed in, and who couldn't.
    """

    async def page(request: Request) -> Response:
        found = _files().get(request.path_params.get("name", "index.html"))
        if found is None:
            raise Refused(404, "the page has no such part")
        headers = {**_HEADERS, "ETag": found.tag}
        if request.headers.get("if-none-match") == found.tag:
            return Response(status_code=304, headers=headers)
        return Response(found.data, media_type=found.kind, headers=headers)

    async def session(request: Request) -> Response:
        access = await rights.look(request)
        return JSONResponse(
            {"access": access, "tokens": rights.by_tokens, "session": COOKIE in request.cookies},
            headers={"Cache-Control": "no-store"},
        )

    async def sign_in(request: Request) -> Response:
        if not rights.by_tokens:
            raise Refused(409, "the application says who may do what: sign in there")
        rights.check_session(request)
        token = (await body(request)).get("token")
        if not isinstance(token, str) or not 0 < len(token) <= _TOKEN_LENGTH:
            raise Refused(422, "token: give the text that the service was started with")
        by = rights.sign_in(request, token)
        audit.done("sign in", by)
        answer = JSONResponse({"access": by.access})
        answer.set_cookie(COOKIE, token, **_place(request))
        return answer

    async def sign_out(request: Request) -> Response:
        rights.check_session(request)
        answer = Response(status_code=204)
        answer.delete_cookie(COOKIE, **_place(request))
        return answer

    return [
        Route("/", page, methods=["GET"]),
        Route("/page/{name:path}", page, methods=["GET"]),
        Route("/session", session, methods=["GET"]),
        Route("/session", audit.refusals_of(sign_in), methods=["POST"]),
        Route("/session", sign_out, methods=["DELETE"]),
    ]


def _place(request: Request) -> dict[str, Any]:
    """Where the cookie is sent: to this service, from its own pages, and to no script."""
    return {
        "path": request.scope.get("root_path", "") or "/",
        "secure": request.scope["scheme"] == "https",
        "httponly": True,
        "samesite": "strict",
    }


class _File(NamedTuple):
    data: bytes
    kind: str
    tag: str


@cache
def _files() -> dict[str, _File]:
    """All that the page consists of, by name; nothing else in the package can be asked for."""
    found: dict[str, _File] = {}
    top = resources.files("fitbus.service") / "page"
    places = [("", top)]
    while places:
        before, place = places.pop()
        for each in place.iterdir():
            name = before + each.name
            if each.is_dir():
                places.append((f"{name}/", each))
            elif (kind := _KINDS.get(name.rpartition(".")[2])) is not None:
                data = each.read_bytes()
                tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
                found[name] = _File(data, kind, tag)
    return found
