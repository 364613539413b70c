"""JSON Schemas made fit for Anthropic's constrained decoding: what it can't enforce is said in words instead.

Source: Anthropic's structured outputs page (JSON Schema limitations), and what its SDKs do to a schema.
"""

from __future__ import annotations

from typing import Any

# What constrained decoding obeys; everything else that restricts a value moves into its description.
KEPT = frozenset({
    "type", "enum", "const", "properties", "required", "items", "anyOf", "allOf", "$ref", "$defs", "definitions",
    "description", "title", "default", "additionalProperties", "format",
})  # fmt: skip
FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"})
SILENT = frozenset({"$schema", "$id", "$comment", "examples", "example", "deprecated", "readOnly", "writeOnly"})


def normalise_schema(schema: Any) -> Any:
    """A schema in which every object is closed and every limit that can't be enforced is words."""
    if not isinstance(schema, dict):
        return {} if isinstance(schema, bool) else schema
    made: dict[str, Any] = {}
    said: dict[str, Any] = {}
    for name, value in schema.items():
        if name == "oneOf":
            made["anyOf"] = [normalise_schema(one) for one in value]
        elif name in ("anyOf", "allOf"):
            made[name] = [normalise_schema(one) for one in value]
        elif name in ("properties", "$defs", "definitions"):
            made[name] = {key: normalise_schema(one) for key, one in value.items()}
        elif name == "items":
            made[name] = normalise_schema(value)
        elif name == "minItems" and value in (0, 1):
            made[name] = value
        elif name in SILENT or name == "additionalProperties":
            continue
        elif name not in KEPT or (name == "format" and value not in FORMATS):
            said[name] = value
        else:
            made[name] = value
    if is_object(schema):
        made["additionalProperties"] = False
        made.setdefault("properties", {})
    if said:
        words = "{" + ", ".join(f"{name}: {value}" for name, value in sorted(said.items())) + "}"
        made["description"] = "\n\n".join(filter(None, [made.get("description"), words]))
    return made


def is_object(schema: dict[str, Any]) -> bool:
    """Does it describe an object?"""
    kind = schema.get("type")
    return (
        kind == "object" or (isinstance(kind, list) and "object" in kind) or (kind is None and "properties" in schema)
    )


def is_open(schema: Any) -> bool:
    """Does it, anywhere, ask for an object with keys of the model's choice? Constrained decoding has none."""
    if isinstance(schema, list):
        return any(map(is_open, schema))
    if not isinstance(schema, dict):
        return False
    if is_object(schema):
        more = schema.get("additionalProperties")
        if "patternProperties" in schema or more is True or isinstance(more, dict):
            return True
        if not schema.get("properties") and more is not False:
            return True
    return any(is_open(value) for name, value in schema.items() if name not in ("enum", "const", "default"))
