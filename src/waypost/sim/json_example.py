"""A value that satisfies a JSON schema, always the same one: for tool arguments and structured answers."""

from __future__ import annotations

import math
from typing import Any, cast

import msgspec

_DEEP = 6
_FORMATS = {
    "date": "2026-01-15",
    "time": "09:30:00Z",
    "date-time": "2026-01-15T09:30:00Z",
    "duration": "PT1H30M",
    "email": "ada@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "url": "https://example.com/",
    "uuid": "3f2b8c1e-5d4a-4e6f-9a7b-1c2d3e4f5a6b",
    "byte": "c2ltdWxhdG9y",
}
_PLACE_NAMES = ("location", "city", "place", "town", "where", "destination", "address")
_BY_NAME = {
    "name": "Ada Lovelace",
    "title": "A simulated title",
    "answer": "An answer from Waypost's simulator",
    "summary": "A summary from Waypost's simulator",
    "country": "France",
    "currency": "EUR",
    "language": "en",
}


class Hints(msgspec.Struct):
    """What the question offers for values: its text, the places it names, and a text the first free string must be.

    `first_string` is used up by the first string that has no other constraint.
    """

    asked: str = ""
    places: list[str] = []
    first_string: str | None = None


def example_json(schema: dict[str, Any], hints: Hints) -> str:
    """An example as compact JSON text; `{}` and `{"type": "object"}` without properties give a small object."""
    schema = schema or {"type": "object"}
    value = example(schema, hints)
    if value == {} and not schema.get("properties") and schema.get("additionalProperties") is not False:
        value = {"answer": hints.first_string or _BY_NAME["answer"]}
    return msgspec.json.encode(value).decode()


def example(schema: Any, hints: Hints, root: Any = None, name: str = "", depth: int = 0) -> Any:
    """An example of one schema. `root` is where `$ref` looks, `name` the property it stands under.

    Knows const, enum, $ref, allOf (merged), anyOf and oneOf (the first branch, the last one deep down), objects,
    arrays, numbers with bounds, strings with format and length. Does not know `pattern` and `not`.
    """
    root = schema if root is None else root
    if not isinstance(schema, dict):
        return "anything"
    schema = _resolved(schema, root)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return _enum(schema["enum"], hints)
    for key in ("anyOf", "oneOf"):
        if branches := schema.get(key):
            rest = {k: v for k, v in schema.items() if k != key}
            return example(_merged([rest, branches[0 if depth < _DEEP else -1]], root), hints, root, name, depth + 1)
    match _type(schema):
        case "object":
            return _object(schema, hints, root, depth)
        case "array":
            return _array(schema, hints, root, name, depth)
        case "integer":
            return _number(schema, whole=True)
        case "number":
            return _number(schema, whole=False)
        case "boolean":
            return True
        case "null":
            return None
    return _string(schema, hints, name)


def _resolved(schema: dict[str, Any], root: Any) -> dict[str, Any]:
    for _ in range(32):
        if "$ref" in schema:
            target: Any = root
            for part in str(schema["$ref"]).removeprefix("#").split("/")[1:]:
                target = target.get(part.replace("~1", "/").replace("~0", "~"), {}) if isinstance(target, dict) else {}
            schema = {
                **(target if isinstance(target, dict) else {}),
                **{k: v for k, v in schema.items() if k != "$ref"},
            }
        elif "allOf" in schema:
            rest = {k: v for k, v in schema.items() if k != "allOf"}
            schema = _merged([rest, *schema["allOf"]], root)
        else:
            break
    return schema


def _merged(schemas: list[Any], root: Any) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for schema in schemas:
        resolved = _resolved(schema, root) if isinstance(schema, dict) else {}
        properties = {**merged.get("properties", {}), **resolved.get("properties", {})}
        required = [*merged.get("required", []), *resolved.get("required", [])]
        merged = {**merged, **resolved}
        if properties:
            merged["properties"] = properties
        if required:
            merged["required"] = required
    return merged


def _type(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        return str(next((k for k in kind if k != "null"), "null"))
    if kind is None:
        return "object" if "properties" in schema else "array" if "items" in schema else "string"
    return str(kind)


def _enum(values: list[Any], hints: Hints) -> Any:
    lowered = hints.asked.lower()
    return next((v for v in values if isinstance(v, str) and v and v.lower() in lowered), values[0])


def _object(schema: dict[str, Any], hints: Hints, root: Any, depth: int) -> dict[str, Any]:
    properties = schema.get("properties", {})
    required = schema.get("required", [])
    names = [name for name in properties if depth < _DEEP or name in required]
    made = {name: example(properties[name], hints, root, name, depth + 1) for name in names}
    others = schema.get("additionalProperties")
    for name in required:
        if name not in made:
            made[name] = example(
                others if isinstance(others, dict) else {"type": "string"}, hints, root, name, depth + 1
            )
    return made


def _array(schema: dict[str, Any], hints: Hints, root: Any, name: str, depth: int) -> list[Any]:
    first = schema.get("prefixItems", [])
    fewest, most = int(schema.get("minItems", 0)), int(schema.get("maxItems", 1 << 30))
    count = min(most, max(fewest, 0 if depth >= _DEEP else len(first) or 1))
    if schema.get("items") is False:
        count = min(count, len(first))
    made = []
    for index in range(count):
        item = first[index] if index < len(first) else schema.get("items", {})
        value = example(item, hints, root, name.removesuffix("s"), depth + 1)
        if schema.get("uniqueItems") and value in made:
            value = _another(value, item, index)
        made.append(value)
    return made


def _another(value: Any, schema: Any, index: int) -> Any:
    if isinstance(schema, dict) and schema.get("enum"):
        return schema["enum"][index % len(schema["enum"])]
    if isinstance(value, bool):
        return not value
    return value + index if isinstance(value, int | float) else f"{value} {index + 1}"


def _number(schema: dict[str, Any], *, whole: bool) -> int | float:
    step = schema.get("multipleOf") or (1 if whole else 0.5)
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    # Draft 4 spells an exclusive bound as a flag beside the bound.
    if above is True:
        above = low
    if below is True:
        below = high
    value: float = 21 if whole else 21.5
    if low is not None or isinstance(above, int | float):
        least = max(x for x in (low, above) if isinstance(x, int | float))
        value = max(value, least)
    if high is not None or isinstance(below, int | float):
        value = min(value, min(x for x in (high, below) if isinstance(x, int | float)))
    value = math.floor(value / step) * step
    if (low is not None and value < low) or (isinstance(above, int | float) and value <= above):
        value += step
    if isinstance(below, int | float) and not isinstance(below, bool) and value >= below:
        value -= step
    if not whole and low is not None and high is not None and not low <= value <= high:
        value = (low + high) / 2
    return int(value) if whole else value


def _string(schema: dict[str, Any], hints: Hints, name: str) -> str:
    if known := _FORMATS.get(cast(str, schema.get("format"))):
        return known
    lowered = name.lower()
    if hints.first_string is not None and "maxLength" not in schema:
        value, hints.first_string = hints.first_string, None
    elif any(part in lowered for part in _PLACE_NAMES):
        value = hints.places[0] if hints.places else "Paris"
    elif any(part in lowered for part in ("query", "question", "prompt", "text")):
        value = hints.asked or "anything"
    else:
        value = next((text for key, text in _BY_NAME.items() if key in lowered), f"a simulated {name or 'text'}")
    fewest, most = int(schema.get("minLength", 0)), int(schema.get("maxLength", 1 << 30))
    return (value + "." * max(0, fewest - len(value)))[:most]
