"""Schemas for Gemini: what Google's Schema can say is said with it, everything else is JSON Schema with words."""

from __future__ import annotations

from typing import Any

import pytest

from waypost.formats.gemini_schema import json_schema, openapi_schema

TEXT = {"type": "string"}
NULL = {"type": "null"}
TEXT_THERE = {"type": "STRING"}


def an_object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (TEXT, {"type": "STRING"}),
        ({"type": ["string", "null"]}, {"type": "STRING", "nullable": True}),
        ({"anyOf": [TEXT, NULL], "title": "t"}, {"type": "STRING", "nullable": True, "title": "t"}),
        ({"anyOf": [TEXT, {"type": "integer"}]}, {"anyOf": [{"type": "STRING"}, {"type": "INTEGER"}]}),
        ({"enum": ["a", "b"]}, {"type": "STRING", "enum": ["a", "b"]}),
        ({"const": "a"}, {"type": "STRING", "enum": ["a"]}),
        ({"type": "string", "format": "date-time"}, {"type": "STRING", "format": "date-time"}),
        ({"type": "integer", "minimum": 1, "maximum": 9}, {"type": "INTEGER", "minimum": 1, "maximum": 9}),
        ({"type": "array", "items": TEXT, "minItems": 1}, {"type": "ARRAY", "items": TEXT_THERE, "minItems": 1}),
        (
            {**an_object(b=TEXT, a={"type": "boolean"}), "required": ["b"], "$schema": "s", "title": "T"},
            {
                "type": "OBJECT", "title": "T", "required": ["b"], "propertyOrdering": ["b", "a"],
                "properties": {"b": {"type": "STRING"}, "a": {"type": "BOOLEAN"}},
            },
        ),
    ],
)  # fmt: skip
def test_what_googles_schema_can_say(schema: Any, expected: Any) -> None:
    assert openapi_schema(schema) == expected


@pytest.mark.parametrize(
    "schema",
    [
        {},
        True,
        an_object(),
        {**an_object(a=TEXT), "additionalProperties": False},
        an_object(a={"$ref": "#/$defs/A"}),
        {**an_object(a=TEXT), "$defs": {}},
        an_object(a={"type": "array"}),
        an_object(a={"type": "object"}),
        an_object(a={"type": ["string", "integer"]}),
        an_object(a={"enum": [1, 2]}),
        an_object(a={"type": "integer", "enum": [1]}),
        an_object(a={"type": "string", "enum": ["a", None]}),
        an_object(a={"type": "string", "enum": ["a", ""]}),
        {**an_object(a=TEXT), "required": ["a", "b"]},
        an_object(a={"type": "string", "format": "uri"}),
        an_object(a={"type": "number", "exclusiveMinimum": 0}),
        an_object(a={"oneOf": [TEXT]}),
        an_object(a={"allOf": [TEXT]}),
        {"type": "array", "prefixItems": [TEXT]},
    ],
)
def test_what_it_cannot(schema: Any) -> None:
    assert openapi_schema(schema) is None


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({**an_object(a=TEXT), "additionalProperties": False}, {**an_object(a=TEXT), "additionalProperties": False}),
        ({"type": "object", "additionalProperties": TEXT}, {"type": "object", "additionalProperties": TEXT}),
        ({"type": "integer", "const": 1}, {"type": "integer", "enum": [1]}),
        ({"type": "number", "exclusiveMinimum": 0}, {"type": "number", "description": "{exclusiveMinimum: 0}"}),
        (
            {"type": "string", "format": "uri", "description": "Where."},
            {"type": "string", "description": "Where.\n\n{format: uri}"},
        ),
        ({"type": "string", "format": "date"}, {"type": "string", "format": "date"}),
        ({"allOf": [{"$ref": "#/$defs/A"}]}, {"$ref": "#/$defs/A"}),
        (
            {"allOf": [{"$ref": "#/definitions/A"}], "description": "d"},
            {"anyOf": [{"$ref": "#/$defs/A"}], "description": "d"},
        ),
        ({"$ref": "#/$defs/A", "$defs": {"A": TEXT}}, {"$ref": "#/$defs/A", "$defs": {"A": TEXT}}),
        ({"definitions": {"A": {"type": "string", "examples": ["x"]}}}, {"$defs": {"A": TEXT}}),
        ({"oneOf": [TEXT], "discriminator": {"propertyName": "k"}}, {"oneOf": [TEXT]}),
        ({"items": True, "prefixItems": [NULL]}, {"items": {}, "prefixItems": [NULL]}),
        (an_object(format=TEXT, const=TEXT), an_object(format=TEXT, const=TEXT)),
    ],
)  # fmt: skip
def test_json_schema(schema: Any, expected: Any) -> None:
    assert json_schema(schema) == expected
