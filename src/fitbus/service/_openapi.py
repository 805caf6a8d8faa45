"""The service's own description, in OpenAPI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from fitbus.control import Control
from fitbus.events import Codec
from fitbus.service._factories import Factory
from fitbus.service._rights import COOKIE

__all__ = ["description"]


def description(factories: Mapping[str, Factory], codec: Codec) -> dict[str, Any]:
    """What it answers, and what clients may send (OpenAPI 3.1)."""
    kinds = [kind for kind in codec.types if issubclass(kind, Control) and kind.crosses_processes]
    controls = [kind for kind in kinds if kind.__name__ not in ("Control", "UnknownControl")]
    schemas, components = msgspec.json.schema_components(
        [*controls, *(factory.parameters for factory in factories.values())],
        ref_template="#/components/schemas/{name}",
    )
    starts = [
        {
            "type": "object",
            "required": ["factory"],
            "additionalProperties": False,
            "properties": {"factory": {"const": name}, "parameters": schema},
        }
        for name, schema in zip(factories, schemas[len(controls) :], strict=True)
    ]
    refusals = {code: {"description": what, **_json(_ERROR)} for code, what in _REFUSALS.items()}

    def answers(what: str, code: str = "200", **content: Any) -> dict[str, Any]:
        """What an operation answers: that, or a refusal."""
        found = content or _json({"type": "object"})
        return {"responses": {code: {"description": what, **found}, **refusals}}

    free: dict[str, Any] = {"security": [{}]}
    reading: dict[str, Any] = {"security": [{"token": []}, {"session": []}, {}]}
    start = {"oneOf": starts} if starts else {"type": "object"}
    control = {"oneOf": schemas[: len(controls)]}
    return {
        "openapi": "3.1.0",
        "info": {"title": "fitbus", "version": "1"},
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
            },
        },
        "security": [{"token": []}, {"session": []}],
        "paths": {
            "/runs": {
                "get": {**reading, **answers("The runs")},
                "post": {**_body(start), **answers("It queues", "201")},
            },
            "/runs/{id}": {
                "parameters": [_path("id")],
                "get": {**reading, **answers("A run")},
            },
            "/runs/{id}/events": {
                "parameters": [_path("id")],
                "get": {
                    **reading,
                    "parameters": _STREAM,
                    **answers("Its events, as they come", **_text("text/event-stream")),
                },
            },
            "/runs/{id}/controls": {
                "parameters": [_path("id")],
                "post": {
                    "parameters": [_WAIT],
                    **_body(control),
                    **_controls(answers("It acted")),
                },
            },
            "/runs/{id}/controls/{ticket}": {
                "parameters": [_path("id"), _path("ticket")],
                "get": {"parameters": [_WAIT], **_controls(answers("It acted"))},
            },
            "/metrics": {"get": {**reading, **answers("For Prometheus", **_text("text/plain"))}},
            "/healthz": {
                "get": {**free, "responses": {"200": {"description": "It works", **_json(_SOME)}}}
            },
            "/openapi.json": {"get": {**reading, **answers("This")}},
            "/session": {
                "get": {**free, **answers("What one may do")},
                "post": {**free, **_body(_TOKEN), **answers("The token is kept as a cookie")},
                "delete": {**free, **answers("It is forgotten", "204", headers={})},
            },
            "/": {"get": {**free, **answers("The page", **_text("text/html"))}},
            "/page/{name}": {
                "parameters": [_path("name")],
                "get": {**free, **answers("A part of it", **_parts())},
            },
        },
    }


_REFUSALS = {
    "400": "What was sent can't be read",
    "401": "A token is needed",
    "403": "Not with this token, or not from this page",
    "404": "There is none",
    "405": "Not by this method",
    "409": "It can't be done now",
    "413": "Too long",
    "415": "Not JSON",
    "421": "Not reached under that name",
    "422": "Read, and wrong",
    "429": "Too often",
    "503": "Too many, or the server ends",
}
_SOME: dict[str, Any] = {"type": "object"}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string", "minLength": 1}},
}
_TOKEN = {
    "type": "object",
    "required": ["token"],
    "properties": {"token": {"type": "string", "minLength": 1, "maxLength": 1024}},
}
_WAIT = {
    "name": "wait_s",
    "in": "query",
    "schema": {"type": "number", "minimum": 0, "maximum": 30},
}
_STREAM: list[dict[str, Any]] = [
    {"name": "types", "in": "query", "schema": {"type": "string"}},
    {"name": "every", "in": "query", "schema": {"type": "integer", "minimum": 1}},
    {"name": "every_s", "in": "query", "schema": {"type": "number", "minimum": 0}},
    {"name": "last_event_id", "in": "query", "schema": {"type": "string"}},
    {"name": "Last-Event-ID", "in": "header", "schema": {"type": "string"}},
]


def _path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _body(schema: Any) -> dict[str, Any]:
    return {"requestBody": {"required": True, **_json(schema)}}


def _text(kind: str) -> dict[str, Any]:
    return {"content": {kind: {"schema": {"type": "string"}}}}


def _parts() -> dict[str, Any]:
    kinds = ("text/html", "text/javascript", "text/css")
    return {"content": {kind: {"schema": {"type": "string"}} for kind in kinds}}


def _controls(found: dict[str, Any]) -> dict[str, Any]:
    found["responses"]["202"] = {"description": "It waits", **_json(_SOME)}
    return found


def _json(schema: Any) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}
