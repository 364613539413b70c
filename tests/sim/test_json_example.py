from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, TypeAdapter

from waypost.sim.json_example import Hints, example, example_json


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Tree(BaseModel):
    name: str
    children: list[Tree]


class Linked(BaseModel):
    value: int
    next: Linked | None


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=1, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]


TYPES: list[Any] = [
    str,
    bool,
    type(None),
    Annotated[str, Field(min_length=100)],
    Annotated[str, Field(max_length=2)],
    Annotated[int, Field(gt=100, lt=103)],
    Annotated[int, Field(ge=-5, le=-5)],
    Annotated[int, Field(multiple_of=7, ge=50)],
    Annotated[float, Field(gt=0, lt=1)],
    Annotated[float, Field(ge=0.1, le=0.2)],
    decimal.Decimal,
    datetime.date,
    datetime.datetime,
    datetime.time,
    datetime.timedelta,
    uuid.UUID,
    Colour,
    Literal[3, "x"],
    list[int],
    Annotated[list[str], Field(min_length=4, max_length=4)],
    Annotated[list[str], Field(max_length=0)],
    set[Colour],
    Annotated[set[int], Field(min_length=3)],
    tuple[int, str, bool],
    dict[str, int],
    Tree,
    Linked,
    Cat | Dog,
    Annotated[Cat | Dog, Field(discriminator="kind")],
    list[Cat | None],
]


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_examples_are_valid(kind: Any) -> None:
    adapter = TypeAdapter(kind)
    value = example(adapter.json_schema(), Hints())
    adapter.validate_python(value, strict=False)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"const": {"a": 1}}, {"a": 1}),
        ({"enum": ["low", "high"]}, "high"),
        ({"enum": [None, 4]}, None),
        ({"type": ["null", "integer"]}, 21),
        ({"allOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"b": {"const": 2}}}]}, {"a": 1, "b": 2}),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "boolean"}}}, True),
        ({"type": "object", "required": ["x"], "additionalProperties": {"type": "integer"}}, {"x": 21}),
        ({"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": False}, [1, 2]),
        ({"type": "number", "minimum": 0, "exclusiveMinimum": True, "maximum": 1}, 1),
        ({"properties": {"city": {"type": "string"}}}, {"city": "Oslo"}),
        ({"properties": {"query": {"type": "string"}}}, {"query": "How high is it?"}),
        (True, "anything"),
    ],
)
def test_examples(schema: Any, expected: Any) -> None:
    assert example(schema, Hints(asked="How high is it?", places=["Oslo"])) == expected


def test_schemas_without_end_or_target_end() -> None:
    endless = {"$ref": "#"}
    assert example(endless, Hints()) == "a simulated text"
    assert example({"$ref": "#/nowhere"}, Hints()) == "a simulated text"


def test_json_text() -> None:
    assert example_json({}, Hints()) == '{"answer":"An answer from Waypost\'s simulator"}'
    assert example_json({"type": "object", "properties": {}, "additionalProperties": False}, Hints()) == "{}"
    assert example_json({"properties": {"n": {"type": "null"}}}, Hints()) == '{"n":null}'
