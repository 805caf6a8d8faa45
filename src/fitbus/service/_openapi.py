"""The service's own description, in OpenAPI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from fitbus.control import Control
from fitbus.events import Codec
from fitbus.service._factories import Factory

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
    error = _json({"type": "object", "properties": {"error": {"type": "string"}}})
    refusals = {code: {"description": what, **error} for code, what in _REFUSALS.items()}
    run = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    some: dict[str, Any] = {"type": "object"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "fitbus", "version": "1"},
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
        "paths": {
            "/runs": {
                "get": {
                    "responses": {"200": {"description": "The runs", **_json(some)}, **refusals}
                },
                "post": {
                    "requestBody": {
                        "required": True,
                        **_json({"oneOf": starts} if starts else some),
                    },
                    "responses": {"201": {"description": "It queues", **_json(some)}, **refusals},
                },
            },
            "/runs/{id}": {
                "parameters": [run],
                "get": {"responses": {"200": {"description": "A run", **_json(some)}, **refusals}},
            },
            "/runs/{id}/events": {
                "parameters": [run],
                "get": {
                    "parameters": [
                        _query("types", {"type": "string"}),
                        _query("every", {"type": "integer", "minimum": 1}),
                        _query("every_s", {"type": "number", "minimum": 0}),
                        {
                            "name": "Last-Event-ID",
                            "in": "header",
                            "schema": {"type": "string"},
                        },
                    ],
                    "responses": {
                        "200": {
                            "description": "Its events, as they come",
                            "content": {"text/event-stream": {"schema": {"type": "string"}}},
                        },
                        **refusals,
                    },
                },
            },
            "/runs/{id}/controls": {
                "parameters": [run],
                "post": {
                    "requestBody": {
                        "required": True,
                        **_json({"oneOf": schemas[: len(controls)]}),
                    },
                    "responses": {
                        "200": {"description": "It acted", **_json(some)},
                        "202": {"description": "It waits", **_json(some)},
                        **refusals,
                    },
                },
            },
            "/metrics": {
                "get": {
                    "responses": {
                        "200": {
                            "description": "For Prometheus",
                            "content": {"text/plain": {"schema": {"type": "string"}}},
                        },
                        **refusals,
                    }
                }
            },
            "/healthz": {
                "get": {
                    "security": [],
                    "responses": {"200": {"description": "It works", **_json(some)}},
                }
            },
        },
    }


_REFUSALS = {
    "400": "What was sent can't be read",
    "401": "A token is needed",
    "403": "Not with this token, or not from this page",
    "404": "There is none",
    "409": "It can't be done now",
    "413": "Too long",
    "415": "Not JSON",
    "421": "Not reached under that name",
    "422": "Read, and wrong",
    "429": "Too often",
    "503": "Too many",
}


def _json(schema: Any) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}


def _query(name: str, schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema}
