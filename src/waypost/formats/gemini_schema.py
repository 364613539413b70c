"""JSON Schemas made fit for Gemini, which takes them in two forms.

`parameters` and `responseSchema` are Google's `Schema`, a small subset of OpenAPI 3.0; `parametersJsonSchema` and
`responseJsonSchema` are JSON Schema of which the model obeys a part. What `Schema` can say in full is said with it;
everything else goes as JSON Schema, in which what is not obeyed is said in words.

Source: ai.google.dev (Schema, structured output, function calling), google-genai, and recorded requests.
"""

from __future__ import annotations

from typing import Any

SILENT = frozenset({
    "$schema", "$id", "$comment", "$anchor", "examples", "example", "deprecated", "readOnly", "writeOnly",
    "discriminator",
})  # fmt: skip

# Google's Schema

COPIED = frozenset({
    "required", "title", "description", "default", "minItems", "maxItems", "minProperties", "maxProperties",
    "minLength", "maxLength", "pattern", "minimum", "maximum",
})  # fmt: skip
SCHEMA_FORMATS: dict[str, frozenset[str]] = {
    "string": frozenset({"date-time", "enum"}),
    "number": frozenset({"float", "double"}),
    "integer": frozenset({"int32", "int64"}),
}
TYPES = frozenset({"string", "number", "integer", "boolean", "array", "object"})


class Unsayable(Exception):
    """Google's Schema has no words for this."""


def openapi_schema(schema: Any) -> dict[str, Any] | None:
    """A JSON Schema as Google's Schema, None where it has no words for all of it."""
    try:
        return rewritten(schema)
    except Unsayable:
        return None


def rewritten(schema: Any) -> dict[str, Any]:
    """One level of it. Raises Unsayable."""
    if not isinstance(schema, dict):
        raise Unsayable
    kind, is_nullable = kind_of(schema)
    made: dict[str, Any] = {}
    if kind is not None:
        made["type"] = kind.upper()
    for name, value in schema.items():
        match name:
            case "type":
                pass
            case "properties" if isinstance(value, dict):
                made["properties"] = {key: rewritten(one) for key, one in value.items()}
                made["propertyOrdering"] = list(value)
            case "items":
                made["items"] = rewritten(value)
            case "anyOf" if isinstance(value, list):
                made["anyOf"] = [rewritten(one) for one in value if one != {"type": "null"}]
                is_nullable = is_nullable or len(made["anyOf"]) < len(value)
            case "enum" | "const" if kind in ("string", None):
                made |= {"type": "STRING", "enum": strings(value if name == "enum" else [value])}
            case "format" if value in SCHEMA_FORMATS.get(kind or "", ()):
                made["format"] = value
            case _ if name in COPIED:
                made[name] = value
            case _ if name not in SILENT:
                raise Unsayable
    if is_nullable:
        made["nullable"] = True
    return checked(flattened(made))


def strings(values: list[Any]) -> list[str]:
    """Raises Unsayable where one is none, or empty, which Google refuses."""
    if not all(isinstance(one, str) and one for one in values):
        raise Unsayable
    return values


def kind_of(schema: dict[str, Any]) -> tuple[str | None, bool]:
    """The type, and may it be null? Raises Unsayable where there are several types."""
    said = schema.get("type")
    kinds = [said] if isinstance(said, str) else list(said or ())
    is_nullable = "null" in kinds and len(kinds) > 1
    if is_nullable:
        kinds.remove("null")
    if not kinds:
        return ("object" if "properties" in schema else None), is_nullable
    if len(kinds) > 1 or kinds[0] not in TYPES:
        raise Unsayable
    return kinds[0], is_nullable


def flattened(made: dict[str, Any]) -> dict[str, Any]:
    """Of a choice between something and null, the something."""
    choices = made.get("anyOf")
    if choices is None or len(choices) != 1:
        return made
    outer = {name: value for name, value in made.items() if name != "anyOf"}
    return {**choices[0], **outer}


def checked(made: dict[str, Any]) -> dict[str, Any]:
    """Raises Unsayable where Google refuses it: no type, an object of unknown keys or with one required that it does
    not describe, an array of anything."""
    kind = made.get("type")
    if kind is None and not made.get("anyOf"):
        raise Unsayable
    if kind == "OBJECT" and not (made.get("properties") and made["properties"].keys() >= set(made.get("required", ()))):
        raise Unsayable
    if kind == "ARRAY" and "items" not in made:
        raise Unsayable
    return made


# JSON Schema

OBEYED = frozenset({
    "type", "title", "description", "enum", "properties", "required", "additionalProperties", "propertyOrdering",
    "items", "prefixItems", "minItems", "maxItems", "minimum", "maximum", "anyOf", "oneOf", "$ref", "$defs", "format",
    # not in the list of what is obeyed, but taken as they are
    "default", "minLength", "maxLength", "pattern", "uniqueItems", "allOf",
})  # fmt: skip
FORMATS = frozenset({"date-time", "date", "time", "enum", "float", "double", "int32", "int64"})
IN_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
IN_OBJECTS = ("properties", "$defs")


def json_schema(schema: Any) -> Any:
    """A JSON Schema in which every limit that Gemini does not know is words."""
    if not isinstance(schema, dict):
        return {} if schema is True else schema
    schema = without_single_all_of(schema)
    made: dict[str, Any] = {}
    said: dict[str, Any] = {}
    for name, value in schema.items():
        if name == "definitions":
            name = "$defs"
        if name in IN_LISTS and isinstance(value, list):
            made[name] = [json_schema(one) for one in value]
        elif name in IN_OBJECTS and isinstance(value, dict):
            made[name] = {key: json_schema(one) for key, one in value.items()}
        elif name == "additionalProperties":
            made[name] = value if isinstance(value, bool) else json_schema(value)
        elif name == "items":
            made[name] = json_schema(value)
        elif name == "const":
            made["enum"] = [value]
        elif name == "$ref" and isinstance(value, str):
            made[name] = value.replace("#/definitions/", "#/$defs/", 1)
        elif name in SILENT:
            continue
        elif name not in OBEYED or (name == "format" and value not in FORMATS):
            said[name] = value
        else:
            made[name] = value
    if said:
        words = "{" + ", ".join(f"{name}: {value}" for name, value in sorted(said.items())) + "}"
        made["description"] = "\n\n".join(filter(None, [made.get("description"), words]))
    return with_lone_ref(made)


def without_single_all_of(schema: dict[str, Any]) -> dict[str, Any]:
    """`allOf` of one thing is that thing."""
    all_of = schema.get("allOf")
    if not isinstance(all_of, list) or len(all_of) != 1 or not isinstance(all_of[0], dict):
        return schema
    return {**all_of[0], **{name: value for name, value in schema.items() if name != "allOf"}}


def with_lone_ref(made: dict[str, Any]) -> dict[str, Any]:
    """Beside `$ref` nothing may stand but what begins with $; a title is taken as well."""
    if "$ref" not in made or all(name.startswith("$") or name == "title" for name in made):
        return made
    rest = {name: value for name, value in made.items() if name != "$ref"}
    return {"anyOf": [{"$ref": made["$ref"]}], **rest}
