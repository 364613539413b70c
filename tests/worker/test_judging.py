"""Answers held to the schema that was asked for, where the upstream does not see to it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tests.worker.vendor import Said, vending
from waypost.chat import FunctionCall, ResponseFormat, ToolCall
from waypost.completion import Choice, Completion
from waypost.formats.format import Reading
from waypost.worker.judging import judge_of

TOWN = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "size": {"$ref": "#/$defs/size"}},
    "required": ["name"],
    "additionalProperties": False,
    "$defs": {"size": {"type": "integer", "minimum": 0}},
}


def judge(schema: Any, choice: Choice, *, native: bool = False, reading: Reading | None = None) -> str:
    wanted = ResponseFormat("json_schema", schema=msgspec.Raw(json.dumps(schema).encode()))
    return judge_of(wanted, reading or Reading(), native)(Completion(choices=(choice,)))


def test_what_keeps_to_it() -> None:
    assert judge(TOWN, Choice(text='{"name": "Ulm", "size": 3}')) == ""
    assert judge(TOWN, Choice(text='{"name": "Ulm"}')) == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"size": 3}', "required"),
        ('{"name": 5}', "string"),
        ('{"name": "Ulm", "size": -1}', "minimum"),
        ('{"name": "Ulm", "more": 1}', "more"),
        ("Ulm", "not JSON"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_what_does_not(text: str, why: str) -> None:
    assert why in judge(TOWN, Choice(text=text))


def test_who_is_not_judged() -> None:
    assert judge(TOWN, Choice(text="Ul", finish_reason="length")) == ""
    assert judge(TOWN, Choice(text=None, refusal="No.")) == ""
    call = ToolCall("a", FunctionCall("f", "{}"))
    assert judge(TOWN, Choice(tool_calls=(call,), finish_reason="tool_calls")) == ""
    assert judge(TOWN, Choice(text="no"), native=True) == ""
    assert judge(TOWN, Choice(text="no"), native=True, reading=Reading(schema_tool="t")) != ""
    assert judge_of(None, Reading(), False)(Completion(choices=(Choice(text="x"),))) == ""


def test_what_was_asked_for_in_words_is_judged_whatever_the_model_can() -> None:
    in_words = Reading(strip_fences=True)
    assert judge(TOWN, Choice(text='{"size": 3}'), native=True, reading=in_words) != ""
    judge_json = judge_of(ResponseFormat("json_object"), in_words, True)
    assert judge_json(Completion(choices=(Choice(text='{"a": 1}'),))) == ""
    assert "not JSON" in judge_json(Completion(choices=(Choice(text="Sorry, no."),)))
    natively = judge_of(ResponseFormat("json_object"), Reading(), True)
    assert natively(Completion(choices=(Choice(text="Sorry, no."),))) == ""


def test_a_schema_leads_nowhere_but_into_itself() -> None:
    with vending(lambda _: Said(b"{}")) as vendor:
        for reference in (f"{vendor.root}/schema.json", "file:///etc/passwd"):
            assert judge({"$ref": reference}, Choice(text="{}")) == ""
            assert judge({"$schema": reference, "type": "string"}, Choice(text="{}")) == ""
    assert vendor.asked == []


def test_a_pattern_takes_no_time() -> None:
    assert judge({"type": "string", "pattern": "^(a+)+$"}, Choice(text=json.dumps("a" * 5000 + "b"))) != ""
