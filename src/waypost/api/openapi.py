"""The OpenAPI 3.1 document, made of the table of endpoints and the shapes. Made once, when it is first asked for."""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from waypost import __version__
from waypost.api import shapes
from waypost.api.endpoints import ENDPOINTS, MEANINGS, Endpoint
from waypost.errors import TABLE

REFERENCE = "#/components/schemas/{name}"
EVENTS = "text/event-stream"
TEXT = "text/plain; charset=utf-8"
PATTERNS = {"id": "^[0-9]{1,15}$", "preset": "^[a-z0-9][a-z0-9_-]{0,63}$"}


@functools.cache
def document() -> bytes:
    """As it is sent."""
    return msgspec.json.encode(render_document())


def render_document() -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Waypost",
            "version": __version__,
            "description": "An OpenAI-compatible router for language models. Every failure carries `X-Error-Code`.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A key (rk_…, rkm_…) or a token."},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "A key."},
            },
            "headers": {
                "X-Error-Code": {"schema": {"type": "string", "enum": [row.code for row in TABLE]}},
                "X-Request-Id": {"schema": {"type": "string"}},
            },
        },
    }


def schemas() -> dict[str, Any]:
    """Every named shape."""
    kinds = [shapes.Error]
    for endpoint in ENDPOINTS:
        kinds += [kind for kind in (endpoint.answer, endpoint.body) if is_shape(kind)]
    _, components = msgspec.json.schema_components(dict.fromkeys(kinds), ref_template=REFERENCE)
    return components


def is_shape(kind: Any) -> bool:
    """Is it one of the structs, and not a plain type?"""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def operation(endpoint: Endpoint) -> dict[str, Any]:
    """One method of one path."""
    described: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "description": description(endpoint),
        "responses": responses(endpoint),
        "security": [] if endpoint.permission == "public" else [{"bearer": []}, {"key": []}],
    }
    if parameters := [*path_parameters(endpoint), *query_parameters(endpoint)]:
        described["parameters"] = parameters
    if endpoint.body is not None:
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema(endpoint.body)}},
        }
    return described


def description(endpoint: Endpoint) -> str:
    """Who may call, and how often."""
    text = f"For {MEANINGS[endpoint.permission]}."
    if endpoint.burst is not None:
        text += f" At most {endpoint.burst.ten_seconds} calls in 10 s and {endpoint.burst.minute} in a minute."
    return text


def responses(endpoint: Endpoint) -> dict[str, Any]:
    """The good answer, and all others."""
    content = {endpoint.media: {"schema": schema(endpoint.answer)}}
    if endpoint.name == "create_chat_completion":
        content[EVENTS] = {"schema": {"type": "string"}}
    good: dict[str, Any] = {"description": "Done.", "content": content}
    bad = {
        "description": "Not done: `X-Error-Code` says why.",
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Error-Code", "X-Request-Id")},
        "content": {
            "application/json": {"schema": {"$ref": REFERENCE.format(name="Error")}},
            TEXT: {"schema": {"type": "string"}},
        },
    }
    if endpoint.name == "readyz":
        return {"200": good, "503": {**good, "description": "Not now, and why."}}
    return {"200": good} if endpoint.name == "healthz" else {"200": good, "default": bad}


def path_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    """What stands in braces."""
    if not endpoint.parameter:
        return []
    kind: dict[str, Any] = {"type": "string", "minLength": 1}
    if endpoint.parameter != "model":
        kind["pattern"] = PATTERNS[endpoint.parameter]
    return [{"name": endpoint.parameter, "in": "path", "required": True, "schema": kind}]


def query_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    """The fields of a query's shape."""
    if endpoint.query is None:
        return []
    _, components = msgspec.json.schema_components([endpoint.query], ref_template=REFERENCE)
    described = components[endpoint.query.__name__]
    required = described.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": field}
        for name, field in described["properties"].items()
    ]


def schema(kind: Any) -> dict[str, Any]:
    """A reference, or a plain type."""
    if is_shape(kind):
        return {"$ref": REFERENCE.format(name=kind.__name__)}
    return msgspec.json.schema(kind)
