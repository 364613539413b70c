"""A caller's request, read in full: every spelling of a field, and refusals that name the place."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from waypost.chat import (
    AssistantMessage,
    Chat,
    Reasoning,
    ResponseFormat,
    SystemMessage,
    ToolChoice,
    ToolMessage,
    UserMessage,
)
from waypost.errors import Refusal
from waypost.formats.openai_chat import parse_request
from waypost.formats.openai_request import parse_chat

HELLO = {"role": "user", "content": "Hello"}
TOOL = {"type": "function", "function": {"name": "f"}}


def chat(**fields: Any) -> Chat:
    body = {"model": "m", "messages": [HELLO], **fields}
    return parse_chat(parse_request(json.dumps(body).encode()).fields)


def test_nothing_said_is_nothing_set() -> None:
    assert chat() == Chat(messages=(UserMessage("Hello"),))
    names = ("stop", "tools", "tool_choice", "response_format", "reasoning", "user", "seed", "n", "unknown")
    assert chat(**dict.fromkeys(names)) == chat()


def test_counts_and_numbers() -> None:
    said = chat(max_tokens=5, max_completion_tokens=7, temperature=1, top_p=0.5, top_k=3, seed=4, n=2)
    assert (said.max_tokens, said.temperature, said.top_p, said.top_k, said.seed, said.n) == (7, 1, 0.5, 3, 4, 2)
    assert chat(max_tokens=5).max_tokens == 5


@pytest.mark.parametrize(("stop", "expected"), [("a", ("a",)), (["a", "b"], ("a", "b")), ([], ()), ("", ())])
def test_stop(stop: Any, expected: tuple[str, ...]) -> None:
    assert chat(stop=stop).stop == expected


def test_fields_without_a_name_here_are_kept() -> None:
    said = chat(logit_bias={"1": 2}, prompt_cache_key="k", metadata={"a": "b"}, store=True, session_id="s")
    assert {name: bytes(raw) for name, raw in said.other.items()} == {
        "logit_bias": b'{"1":2}'.replace(b":", b": "),
        "prompt_cache_key": b'"k"',
    }


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Reasoning()),
        ({"reasoning_effort": "high"}, Reasoning(True, "high")),
        ({"reasoning_effort": "none"}, Reasoning(False)),
        ({"reasoning": {"effort": "low", "exclude": True}}, Reasoning(True, "low", exclude=True)),
        ({"reasoning": {"max_tokens": 9}}, Reasoning(True, max_tokens=9)),
        ({"reasoning": {"enabled": True}}, Reasoning(True)),
        ({"reasoning": {"enabled": False}, "reasoning_effort": "high"}, Reasoning(False)),
        ({"reasoning": {"effort": "low"}, "reasoning_effort": "high"}, Reasoning(True, "low")),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, Reasoning(True, max_tokens=9)),
        ({"thinking": {"type": "disabled"}}, Reasoning(False)),
        ({"thinking": {"type": "disabled"}, "reasoning_effort": "high"}, Reasoning(True, "high")),
    ],
)
def test_reasoning(fields: dict[str, Any], expected: Reasoning) -> None:
    assert chat(**fields).reasoning == expected


def test_tools_and_choices() -> None:
    named = {"type": "function", "function": {"name": "f"}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [named]}}
    native = {"type": "web_search_20250305", "name": "web_search"}
    said = chat(tools=[TOOL, native], tool_choice=named)
    assert [tool.function.name for tool in said.tools] == ["f"] and said.tool_choice == ToolChoice("required", "f")
    assert [msgspec.json.decode(raw) for raw in said.native_tools] == [native]
    assert chat(tools=[TOOL], tool_choice=allowed).tool_choice == ToolChoice("auto", allowed=("f",))
    assert chat(tools=[TOOL], tool_choice="none").tool_choice == ToolChoice("none")
    legacy = chat(functions=[{"name": "f"}], function_call="auto")
    assert legacy.tools == chat(tools=[TOOL]).tools and legacy.tool_choice == ToolChoice("auto")


def test_response_format() -> None:
    assert chat(response_format={"type": "text"}).response_format is None
    assert chat(response_format={"type": "json_object"}).response_format == ResponseFormat("json_object")
    schema = {"name": "a", "schema": {"type": "object"}, "strict": True}
    said = chat(response_format={"type": "json_schema", "json_schema": schema}).response_format
    assert said is not None and (said.name, said.strict) == ("a", True)
    assert said.schema is not None and msgspec.json.decode(said.schema) == {"type": "object"}


def test_messages() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    detail = {"type": "reasoning.text", "text": "Hm", "signature": "s", "format": "x", "index": 0}
    extra = {"google": {"thought_signature": "s"}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "tool_calls": [{**call, "extra_content": extra}], "reasoning_details": [detail]},
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "1"}], "is_error": True},
        {"role": "assistant", "content": None, "function_call": {"name": "g", "arguments": "{}"}},
        {"role": "function", "name": "g", "content": "2"},
    ]
    system, user, assistant, tool, legacy, result = chat(messages=messages).messages
    assert system == SystemMessage("Be brief.")
    assert isinstance(user, UserMessage) and isinstance(assistant, AssistantMessage) and isinstance(tool, ToolMessage)
    assert assistant.tool_calls is not None and assistant.reasoning_details is not None
    [made] = assistant.tool_calls
    assert made.extra_content is not None and json.loads(bytes(made.extra_content["google"])) == extra["google"]
    assert msgspec.to_builtins(assistant.reasoning_details[0]) == detail
    assert tool.is_error is True
    assert isinstance(legacy, AssistantMessage) and isinstance(result, ToolMessage)
    assert legacy.tool_calls is not None and legacy.tool_calls[0].id == result.tool_call_id


def test_a_message_encoded_is_openais_again() -> None:
    messages = [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.example/"}}]},
        {
            "role": "assistant",
            "content": "x",
            "tool_calls": [{"type": "function", "id": "c", "function": {"name": "f", "arguments": ""}}],
        },
    ]
    assert json.loads(msgspec.json.encode(chat(messages=messages).messages)) == messages


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [HELLO, {"role": "user", "content": 3}]}, "messages[1].content"),
        ({"messages": [{"role": "user", "content": [{"type": "smell"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]"),
        ({"temperature": "warm"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"reasoning": {"effort": "low", "max_tokens": 5}}, "reasoning"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"functions": [{}]}, "functions[0].function"),
    ],
)
def test_refusals_name_the_place(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as refused:
        chat(**fields)
    assert (refused.value.param, refused.value.failure.code) == (param, "INVALID_REQUEST")
    assert refused.value.message.startswith(f"{param}: ")
