"""Requests for Claude: recorded conversations mean the same after our rendering, and every field has its place."""

from __future__ import annotations

import base64
import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.formats.anthropic_history import BEYOND, as_openai, beyond, meaning
from tests.formats.recordings import chats
from waypost.chat import Chat
from waypost.errors import Refusal
from waypost.formats.anthropic_messages import known_model, parse_error, parse_response, render_request
from waypost.formats.anthropic_schema import normalise_schema
from waypost.formats.format import Model, Rendered, Unsupported, parse_arguments
from waypost.formats.openai_answer import Stamp, render_completion
from waypost.formats.openai_chat import parse_request
from waypost.formats.openai_request import parse_chat

Json = dict[str, Any]
OLD, BUDGET, ADAPTIVE, NEW = (
    known_model(id) for id in ("claude-sonnet-4-0", "claude-sonnet-4-5", "claude-opus-4-6", "claude-opus-4-8")
)
HELLO = {"role": "user", "content": "Hello"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}, "required": ["a"]}


def chat(*messages: Json, **fields: Any) -> Chat:
    body = {"model": "m", "messages": messages or [HELLO], **fields}
    return parse_chat(parse_request(json.dumps(body).encode()).fields)


def rendered(*messages: Json, model: Model = BUDGET, **fields: Any) -> tuple[Json, Rendered]:
    made = render_request(chat(*messages, **fields), model)
    return json.loads(made.body), made


def body(*messages: Json, model: Model = BUDGET, **fields: Any) -> Json:
    return rendered(*messages, model=model, **fields)[0]


# Recorded conversations


def test_recorded_histories_mean_the_same() -> None:
    left_out: dict[str, int] = {}
    compared = 0
    for exchange in [*chats("anthropic"), *chats("anthropic", good=False)]:
        request = exchange.request
        why = beyond(request)
        if why:
            assert why in BEYOND
            left_out[why] = left_out.get(why, 0) + 1
            continue
        model = known_model(request["model"])
        said = as_openai(request)
        ours = json.loads(render_request(parse_chat(parse_request(json.dumps(said).encode()).fields), model).body)
        theirs = json.loads(json.dumps(request))
        for one in (ours, theirs):
            if model.reasoning == "adaptive" and request.get("thinking", {}).get("type") == "enabled":
                one.pop("thinking")  # 4.6 takes a budget as well: ours says it as an effort
                one.pop("output_config", None)
            elif "thinking" not in request:
                one.get("output_config", {}).pop("effort", None)  # an OpenAI client's effort is one of thinking
        assert meaning(ours) == meaning(theirs), exchange.where
        compared += 1
    assert compared > 200 and sum(left_out.values()) < 80, (compared, left_out)


def test_our_own_answers_come_back_as_they_were() -> None:
    """What a client that keeps every field sends back becomes the very blocks that Anthropic wrote."""
    stamp = Stamp(*(json_raw(text) for text in ("i", "m", "p")), 0)
    for exchange in chats("anthropic", stream=False):
        said = json.loads(exchange.body)
        completion = parse_response(exchange.body, render_request(chat(), BUDGET).reading)
        message = json.loads(render_completion(completion, stamp, 1))["choices"][0]["message"]
        made = body(HELLO, message, HELLO)["messages"]
        content = [{name: value for name, value in block.items() if name != "caller"} for block in said["content"]]
        content = [block for block in content if block.get("text", "x").strip()]
        back = [{name: value for name, value in block.items() if name != "caller"} for block in made[1]["content"]]
        assert back == content, exchange.where


def json_raw(text: str) -> Any:
    return msgspec.Raw(json.dumps(text).encode())


def test_recorded_errors() -> None:
    kinds = {exchange.where: parse_error(exchange.status, exchange.body) for exchange in chats("anthropic", good=False)}
    assert sorted(fault.kind for fault in kinds.values()) == ["bad_request", "not_found"]
    assert all(fault.message and fault.code for fault in kinds.values())


# Where it goes


def test_the_least_request() -> None:
    made, request = rendered()
    assert made == {
        "model": "claude-sonnet-4-5",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        "max_tokens": 8192,
    }
    assert (request.path, request.headers) == ("/messages", (("anthropic-version", "2023-06-01"),))
    assert request.dropped == ()


def test_vertex_has_the_model_in_the_path() -> None:
    model = msgspec.structs.replace(known_model("claude-sonnet-4-5@20250929"), place="projects/p/locations/global")
    made, request = rendered(model=model, stream=True)
    assert "model" not in made and made["anthropic_version"] == "vertex-2023-10-16"
    expected = "/projects/p/locations/global/publishers/anthropic/models/claude-sonnet-4-5@20250929:streamRawPredict"
    assert request.path == expected


def test_plain_fields() -> None:
    made, request = rendered(
        temperature=1.7, top_p=0.5, top_k=3, stop=["END", "\n"], user="u", service_tier="default", model=OLD,
        seed=1, frequency_penalty=0.5, presence_penalty=0, logprobs=True, logit_bias={"1": 2}, metadata={"a": "b"},
        max_tokens=10, max_completion_tokens=20,
    )  # fmt: skip
    assert {name: made[name] for name in ("temperature", "top_p", "top_k", "max_tokens")} == {
        "temperature": 1, "top_p": 0.5, "top_k": 3, "max_tokens": 20,
    }  # fmt: skip
    assert made["stop_sequences"] == ["END"]
    assert (made["metadata"], made["service_tier"]) == ({"user_id": "u"}, "standard_only")
    assert sorted(request.dropped) == ["frequency_penalty", "logit_bias", "logprobs", "seed", "stop"]


def test_users_that_anthropic_does_not_want_to_know() -> None:
    for user in ("ann@mail.example", "u" * 257):
        made, request = rendered(user=user)
        assert "metadata" not in made and request.dropped == ("user",)
    for user in ("u" * 256, '{"device": "a", "at": "@"}', "ann@home"):
        assert body(safety_identifier=user)["metadata"] == {"user_id": user}


def test_sampling_as_far_as_the_model_goes() -> None:
    made, request = rendered(temperature=0.5, top_p=0.9)
    assert made["temperature"] == 0.5 and "top_p" not in made and request.dropped == ("top_p",)
    made, request = rendered(temperature=0.5, top_k=2, model=NEW)
    assert not {"temperature", "top_k"} & set(made) and request.dropped == ("temperature", "top_k")
    assert rendered(temperature=1, top_p=1, model=NEW)[1].dropped == ()


def test_several_answers_are_refused() -> None:
    with pytest.raises(Unsupported) as refused:
        body(n=2)
    assert refused.value.param == "n"


@pytest.mark.parametrize(
    ("fields", "choice"),
    [
        ({}, None),
        ({"tool_choice": "auto"}, {"type": "auto"}),
        ({"tool_choice": "none"}, {"type": "none"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, {"type": "tool", "name": "f"}),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        (
            {"parallel_tool_calls": False, "tool_choice": "required"},
            {"type": "any", "disable_parallel_tool_use": True},
        ),
        ({"parallel_tool_calls": False, "tool_choice": "none"}, {"type": "none"}),
        ({"parallel_tool_calls": True}, None),
    ],
)
def test_tool_choice(fields: Json, choice: Json | None) -> None:
    assert body(tools=[TOOL], **fields).get("tool_choice") == choice


def test_allowed_tools_are_the_only_ones() -> None:
    other = {"type": "function", "function": {"name": "g"}}
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "g"}}]}
    made = body(tools=[TOOL, other], tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert [tool["name"] for tool in made["tools"]] == ["g"] and made["tool_choice"] == {"type": "any"}


def test_a_whole_schema_reaches_the_tool() -> None:
    parameters = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/A"}},
        "$defs": {"A": {"type": "string"}},
        "additionalProperties": True,
    }
    tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": parameters}}
    assert body(tools=[tool])["tools"] == [{"name": "f", "description": "d", "input_schema": parameters}]
    bare = {"type": "function", "function": {"name": "f"}}
    assert body(tools=[bare])["tools"] == [{"name": "f", "input_schema": {"type": "object", "properties": {}}}]


def test_strict_is_kept_or_refused() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": SCHEMA, "strict": True}}
    [made] = body(tools=[TOOL, tool])["tools"][1:]
    assert made["strict"] is True and made["input_schema"]["additionalProperties"] is False
    with pytest.raises(Unsupported) as refused:
        body(tools=[TOOL, tool], model=OLD)
    assert refused.value.param == "tools[1].function.strict"


def test_names_that_claude_does_not_take() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("a.b", "a_b", "x" * 80)]
    called = {"id": "c", "type": "function", "function": {"name": "a.b", "arguments": ""}}
    made, request = rendered(
        HELLO, {"role": "assistant", "tool_calls": [called]}, {"role": "tool", "tool_call_id": "c"}, tools=tools
    )
    names = [tool["name"] for tool in made["tools"]]
    assert len(set(names)) == 3 and all(len(name) <= 64 and name.replace("_", "").isalnum() for name in names)
    assert [request.reading.names.get(name, name) for name in names] == ["a.b", "a_b", "x" * 80]
    assert made["messages"][1]["content"][0]["name"] == names[0]


def test_native_tools_pass_and_others_are_refused() -> None:
    search = {"type": "web_search_20250305", "name": "web_search"}
    assert body(tools=[search])["tools"] == [search]
    with pytest.raises(Unsupported):
        body(tools=[{"type": "custom", "custom": {"name": "x"}}])


def test_legacy_functions() -> None:
    call = {"name": "f", "arguments": '{"a":1}'}
    made = body(
        HELLO,
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "f", "content": "1"},
        functions=[TOOL["function"]],
        function_call={"name": "f"},
    )
    assert made["tool_choice"] == {"type": "tool", "name": "f"} and made["tools"][0]["name"] == "f"
    [use], [result] = (turn["content"] for turn in made["messages"][1:])
    assert use["input"] == {"a": 1} and use["id"] == result["tool_use_id"] and result["content"] == "1"


def test_results_come_first_and_together() -> None:
    calls = [
        {"id": f"call:{n}", "type": "function", "function": {"name": "f", "arguments": json.dumps({"n": n})}}
        for n in (1, 2)
    ]
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    made = body(
        {"role": "system", "content": "A"},
        HELLO,
        {"role": "assistant", "content": "Let me see.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call:1", "content": "one"},
        {"role": "tool", "tool_call_id": "call:2", "content": [picture]},
        {"role": "user", "content": "Go on."},
        {"role": "developer", "content": "B"},
    )
    assert made["system"] == "A\n\nB"
    roles = [turn["role"] for turn in made["messages"]]
    assert roles == ["user", "assistant", "user"]
    said, first, second = made["messages"][1]["content"]
    assert said == {"type": "text", "text": "Let me see."} and (first["input"], second["input"]) == ({"n": 1}, {"n": 2})
    one, two, text = made["messages"][2]["content"]
    assert (one["tool_use_id"], two["tool_use_id"]) == (first["id"], second["id"]) == ("call_1", "call_2")
    assert one["content"] == "one" and two["content"][0]["type"] == "image" and text["text"] == "Go on."
    assert [tool["name"] for tool in made["tools"]] == ["f"] and made["tool_choice"] == {"type": "none"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("{}", {}),
        ('{"a": "ü"}', {"a": "ü"}),
        ('{"a": "x\ny"}', {"a": "x\ny"}),
        ('{"a": 12345678901234567890123}', {"a": 12345678901234567890123}),
        ('{"a": 1', {"invalid_json": '{"a": 1'}),
        ("[1]", {"invalid_json": "[1]"}),
        ("\ud800", {"invalid_json": "\ud800"}),
    ],
)
def test_arguments_whatever_a_model_wrote(text: str, expected: Json) -> None:
    assert json.loads(bytes(parse_arguments(text))) == expected


# Media


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (
            {"type": "image_url", "image_url": {"url": "https://a.example/x.png", "detail": "high"}},
            {"type": "image", "source": {"type": "url", "url": "https://a.example/x.png"}},
        ),
        (
            {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,AAAA"}},
            {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "AAAA"}},
        ),
        (
            {"type": "image_url", "image_url": {"url": "data:image/jpg;base64,AAAA"}},
            {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "AAAA"}},
        ),
        (
            {"type": "image_url", "image_url": {"url": "data:application/pdf;base64,AAAA"}},
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}},
        ),
        (
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}},
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}, "title": "a.pdf"},  # noqa: E501
        ),
        (
            {"type": "file", "file": {"file_data": "https://a.example/x.pdf"}},
            {"type": "document", "source": {"type": "url", "url": "https://a.example/x.pdf"}},
        ),
        (
            {"type": "file", "file": {"file_data": f"data:text/csv;base64,{base64.b64encode(b'a,b').decode()}"}},
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a,b"}},
        ),
        (
            {"type": "file", "file": {"file_id": "file_011"}},
            {"type": "document", "source": {"type": "file", "file_id": "file_011"}},
        ),
    ],
)  # fmt: skip
def test_media(part: Json, block: Json) -> None:
    made, request = rendered({"role": "user", "content": [part, {"type": "text", "text": "What?"}]})
    assert made["messages"][0]["content"] == [block, {"type": "text", "text": "What?"}]
    assert ("anthropic-beta" in dict(request.headers)) == ("file_id" in json.dumps(part))


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://a.example/x.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/tiff;base64,AAAA"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "video_url", "video_url": {"url": "https://a.example/x.mp4"}},
        {"type": "file", "file": {"file_id": "file-openai"}},
        {"type": "file", "file": {"file_data": "data:application/zip;base64,AAAA"}},
    ],
)
def test_media_that_claude_does_not_take(part: Json) -> None:
    with pytest.raises(Unsupported) as refused:
        body({"role": "user", "content": [{"type": "text", "text": "x"}, part]})
    assert (refused.value.param or "").startswith("messages[0].content[1]")


# Reasoning


@pytest.mark.parametrize(
    ("model", "fields", "thinking", "effort", "max_tokens"),
    [
        (BUDGET, {}, None, None, 8192),
        (BUDGET, {"reasoning_effort": "none"}, None, None, 8192),
        (BUDGET, {"reasoning_effort": "low"}, 1024, None, 9216),
        (BUDGET, {"reasoning_effort": "high", "max_tokens": 10_000}, 8000, None, 10_000),
        (BUDGET, {"reasoning_effort": "high", "max_tokens": 100}, 1024, None, 1124),
        (BUDGET, {"reasoning": {"max_tokens": 3000}, "max_tokens": 2000}, 3000, None, 5000),
        (BUDGET, {"reasoning": {"max_tokens": 3000}, "max_tokens": 4000}, 3000, None, 4000),
        (BUDGET, {"thinking": {"type": "enabled", "budget_tokens": 2000}, "max_tokens": 4000}, 2000, None, 4000),
        (BUDGET, {"reasoning": {"enabled": True}}, 8192, None, 16384),
        (BUDGET, {"reasoning_effort": "max", "max_tokens": 900_000}, 32768, None, 64_000),
        (ADAPTIVE, {"reasoning_effort": "minimal"}, "adaptive", "low", 9216),
        (ADAPTIVE, {"reasoning_effort": "xhigh"}, "adaptive", "high", 40_960),
        (ADAPTIVE, {"reasoning_effort": "max"}, "adaptive", "max", 40_960),
        (ADAPTIVE, {"reasoning": {"enabled": True}}, "adaptive", None, 16_384),
        (ADAPTIVE, {"reasoning_effort": "high", "max_tokens": 500}, "adaptive", "high", 500),
        (ADAPTIVE, {"reasoning": {"max_tokens": 9000}}, "adaptive", "medium", 17_192),
        (NEW, {"reasoning_effort": "xhigh"}, "adaptive", "xhigh", 40_960),
        (known_model("claude-3-5-sonnet-latest"), {"reasoning_effort": "high"}, None, None, 8192),
        (known_model("claude-sonnet-5"), {"reasoning_effort": "none"}, "disabled", None, 8192),
    ],
)
def test_reasoning(model: Model, fields: Json, thinking: Any, effort: str | None, max_tokens: int) -> None:
    made = body(model=model, **fields)
    shape = {"type": "enabled", "budget_tokens": thinking} if isinstance(thinking, int) else {"type": thinking}
    if thinking == "adaptive":
        shape["display"] = "summarized"
    assert made.get("thinking") == (None if thinking is None else shape)
    assert made.get("output_config", {}).get("effort") == effort
    assert made["max_tokens"] == max_tokens


def test_a_wish_to_think_that_a_model_cannot_have_is_named() -> None:
    old = known_model("claude-3-5-sonnet-latest")
    assert rendered(model=old, reasoning_effort="high")[1].dropped == ("reasoning_effort",)
    assert rendered(model=old, thinking={"type": "enabled", "budget_tokens": 2000})[1].dropped == ("reasoning",)
    assert rendered(model=old, reasoning_effort="none")[1].dropped == ()


def test_a_forced_tool_goes_before_thinking_with_a_budget() -> None:
    made, request = rendered(tools=[TOOL], tool_choice="required", reasoning_effort="high")
    assert made["tool_choice"] == {"type": "any"} and "thinking" not in made
    assert request.dropped == ("reasoning_effort",)
    made, request = rendered(tools=[TOOL], tool_choice="required", reasoning_effort="high", model=ADAPTIVE)
    assert made["thinking"]["type"] == "adaptive" and request.dropped == ()


def test_an_answer_begun_by_the_caller_goes_before_thinking_with_a_budget() -> None:
    made, request = rendered(HELLO, {"role": "assistant", "content": "It is"}, reasoning={"max_tokens": 2000})
    assert "thinking" not in made and request.dropped == ("reasoning",)


def called(**more: Any) -> list[Json]:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    return [HELLO, {"role": "assistant", "tool_calls": [call], **more}, {"role": "tool", "tool_call_id": "c"}]


def test_a_turn_that_began_without_thinking_goes_on_without() -> None:
    made, request = rendered(*called(), reasoning_effort="high", tools=[TOOL])
    assert "thinking" not in made and request.dropped == ("reasoning_effort",)
    signed = {"type": "reasoning.text", "text": "Hm", "signature": "s", "format": "anthropic-claude-v1"}
    made, request = rendered(*called(reasoning_details=[signed]), reasoning_effort="high", tools=[TOOL])
    assert made["thinking"]["type"] == "enabled" and request.dropped == ()
    assert made["messages"][1]["content"][0] == {"type": "thinking", "thinking": "Hm", "signature": "s"}


def test_the_thoughts_of_others_are_not_passed_on() -> None:
    foreign = {"type": "reasoning.text", "text": "Hm", "signature": "s", "format": "google-gemini-v1"}
    unsigned = {"type": "reasoning.text", "text": "Hm", "format": "anthropic-claude-v1"}
    made = body(*called(reasoning_details=[foreign, unsigned], reasoning_content="Hm"), tools=[TOOL])
    assert [block["type"] for block in made["messages"][1]["content"]] == ["tool_use"]


def test_kept_content_is_used_only_while_it_is_true() -> None:
    kept = [{"type": "text", "text": "A"}, {"type": "server_tool_use", "id": "s"}, {"type": "text", "text": "B"}]
    extra = {"anthropic": {"content": kept}}
    message = {"role": "assistant", "content": "AB", "extra_content": extra}
    assert body(HELLO, message, HELLO)["messages"][1]["content"] == kept
    in_parts = {**message, "content": [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]}
    assert body(HELLO, in_parts, HELLO)["messages"][1]["content"] == kept
    changed = {**message, "content": "AC"}
    assert body(HELLO, changed, HELLO)["messages"][1]["content"] == [{"type": "text", "text": "AC"}]


# Structured output


def wanted(schema: Json, strict: bool = False) -> Json:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": strict}}


def test_a_schema_natively() -> None:
    made, request = rendered(response_format=wanted(SCHEMA))
    assert made["output_config"] == {"format": {"type": "json_schema", "schema": normalise_schema(SCHEMA)}}
    assert request.reading.schema_tool == "" and "tools" not in made


def test_a_schema_by_a_tool_where_the_model_has_none() -> None:
    made, request = rendered(response_format=wanted(SCHEMA, strict=True), model=OLD)
    [tool] = made["tools"]
    assert tool["name"] == request.reading.schema_tool and tool["input_schema"] == SCHEMA
    assert made["tool_choice"] == {"type": "tool", "name": tool["name"]}
    made, request = rendered(response_format=wanted(SCHEMA), tools=[TOOL], model=OLD)
    assert [tool["name"] for tool in made["tools"]] == ["f", request.reading.schema_tool]
    assert made["tool_choice"] == {"type": "any"}


def test_an_open_schema_keeps_its_meaning() -> None:
    schema = {"type": "object", "additionalProperties": {"type": "integer"}}
    made, request = rendered(response_format=wanted(schema))
    assert request.reading.schema_tool and made["tools"][0]["input_schema"] == schema


def test_a_json_object_is_asked_for_in_words() -> None:
    made, request = rendered({"role": "system", "content": "S"}, HELLO, response_format={"type": "json_object"})
    assert made["system"].startswith("S\n\n") and "JSON" in made["system"] and request.reading.strip_fences


def test_normalised_schemas() -> None:
    schema = {
        "$schema": "x",
        "type": "object",
        "properties": {
            "a": {"type": "number", "minimum": 0, "maximum": 1, "description": "how sure"},
            "b": {"oneOf": [{"type": "string", "minLength": 1}, {"type": "null"}]},
            "c": {"type": "array", "items": {"$ref": "#/$defs/C"}, "minItems": 2},
            "d": {"type": "string", "format": "date"},
            "minimum": {"type": "string", "format": "strange"},
        },
        "required": ["a"],
        "$defs": {"C": {"type": "object", "properties": {}, "additionalProperties": True}},
    }
    assert normalise_schema(schema) == {
        "type": "object",
        "properties": {
            "a": {"type": "number", "description": "how sure\n\n{maximum: 1, minimum: 0}"},
            "b": {"anyOf": [{"type": "string", "description": "{minLength: 1}"}, {"type": "null"}]},
            "c": {"type": "array", "items": {"$ref": "#/$defs/C"}, "description": "{minItems: 2}"},
            "d": {"type": "string", "format": "date"},
            "minimum": {"type": "string", "description": "{format: strange}"},
        },
        "required": ["a"],
        "$defs": {"C": {"type": "object", "properties": {}, "additionalProperties": False}},
        "additionalProperties": False,
    }


# Caching


MARK = {"type": "ephemeral"}


def marks(made: Json) -> list[str]:
    """Where breakpoints stand."""
    system = made.get("system", ())
    found = [f"tool {tool['name']}" for tool in made.get("tools", ()) if "cache_control" in tool]
    found += [f"system {block['text']}" for block in system if "cache_control" in block]
    for turn in made["messages"]:
        found += [f"{turn['role']} {one['type']}" for one in turn["content"] if "cache_control" in one]
    return found


def test_the_callers_breakpoints_are_kept() -> None:
    made = body(
        {"role": "system", "content": [{"type": "text", "text": "S", "cache_control": {**MARK, "ttl": "1h"}}]},
        {"role": "user", "content": "U", "cache_control": MARK},
        *called()[1:2],
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "R", "cache_control": MARK}]},
        tools=[{**TOOL, "cache_control": MARK}],
    )
    assert marks(made) == ["tool f", "system S", "user text", "user tool_result"]
    assert made["system"][0]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
    assert "cache_control" not in made["messages"][2]["content"][0]["content"][0]


def test_of_too_many_breakpoints_the_last_stay() -> None:
    parts = [{"type": "text", "text": str(n), "cache_control": MARK} for n in range(6)]
    made, request = rendered({"role": "user", "content": parts})
    assert ["cache_control" in block for block in made["messages"][0]["content"]] == [False] * 2 + [True] * 4
    assert request.dropped == ("cache_control",)
    made, _ = rendered({"role": "user", "content": parts}, cache_control=MARK)
    assert made["cache_control"] == MARK and len(marks(made)) == 3


def test_our_own_breakpoints_are_an_option() -> None:
    model = msgspec.structs.replace(BUDGET, cache_from=1024)
    long = {"role": "system", "content": "word " * 2000}
    assert marks(body(long, HELLO, tools=[TOOL])) == []
    assert [one.split(" ")[0] for one in marks(body(long, HELLO, tools=[TOOL], model=model))] == ["system", "user"]
    assert marks(body(HELLO, tools=[TOOL], model=model)) == []
    own = {"role": "user", "content": "U", "cache_control": MARK}
    assert marks(body(long, own, model=model)) == ["user text"]


# Turns


def test_turns_without_words() -> None:
    made = body({"role": "user", "content": " "}, HELLO, {"role": "assistant", "content": ""}, HELLO)
    assert [turn["role"] for turn in made["messages"]] == ["user"]
    assert len(made["messages"][0]["content"]) == 2
    assert body({"role": "system", "content": "S"})["messages"][0]["content"] == [{"type": "text", "text": "S"}]
    with pytest.raises(Refusal):
        body({"role": "user", "content": ""})


def test_a_last_message_of_the_assistant() -> None:
    begun = {"role": "assistant", "content": "It is "}
    assert body(HELLO, begun)["messages"][1]["content"] == [{"type": "text", "text": "It is"}]
    with pytest.raises(Unsupported):
        body(HELLO, begun, model=NEW)


def test_a_system_message_in_the_midst() -> None:
    messages = [{"role": "system", "content": "A"}, HELLO, {"role": "system", "content": "B"}]
    assert body(*messages)["system"] == "A\n\nB"
    made = body(*messages, model=NEW)
    assert made["system"] == "A" and made["messages"][1]["role"] == "system"


@given(st.lists(st.sampled_from(["system", "user", "assistant", "calls"]), min_size=1, max_size=12))
def test_any_order_of_messages_gives_turns_that_alternate(roles: list[str]) -> None:
    messages: list[Json] = []
    for n, role in enumerate(roles):
        if role == "calls":
            call = {"id": f"c{n}", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            messages.append({"role": "assistant", "tool_calls": [call]})
            messages.append({"role": "tool", "tool_call_id": f"c{n}", "content": "r"})
        else:
            messages.append({"role": role, "content": f"{role} {n}"})
    turns = body(*messages)["messages"]
    assert all(one["role"] != other["role"] for one, other in itertools.pairwise(turns))
    for before, turn in itertools.pairwise(turns):
        uses = [block["id"] for block in before["content"] if block["type"] == "tool_use"]
        results = [block.get("tool_use_id") for block in turn["content"]][: len(uses)]
        assert turn["role"] != "user" or results == uses
    said = json.dumps(turns)
    assert all(f'"user {n}"' in said for n, role in enumerate(roles) if role == "user")


# Errors and models


@pytest.mark.parametrize(
    ("status", "type", "message", "kind"),
    [
        (400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum", "context_length"),
        (400, "invalid_request_error", "input length and `max_tokens` exceed context limit: 1", "context_length"),
        (400, "invalid_request_error", "Your credit balance is too low to access the Anthropic API.", "auth"),
        (400, "invalid_request_error", "Output blocked by content filtering policy", "content_policy"),
        (400, "invalid_request_error", "messages: at least one message is required", "bad_request"),
        (401, "authentication_error", "invalid x-api-key", "auth"),
        (403, "permission_error", "no", "auth"),
        (404, "not_found_error", "model: x", "not_found"),
        (413, "request_too_large", "Request exceeds the maximum size", "context_length"),
        (429, "rate_limit_error", "slow down", "rate_limit"),
        (500, "api_error", "Internal server error", "server"),
        (529, "overloaded_error", "Overloaded", "overloaded"),
    ],
)
def test_errors(status: int, type: str, message: str, kind: str) -> None:
    envelope = {"type": "error", "error": {"type": type, "message": message}}
    fault = parse_error(status, json.dumps(envelope).encode())
    assert (fault.kind, fault.message, fault.code) == (kind, message, type)


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (502, b"<html>Bad gateway</html>", "server", ""),
        (429, b"", "rate_limit", ""),
        (400, b"no such thing", "bad_request", "no such thing"),
        (404, b'[{"error":{"code":404,"message":"No such model","status":"NOT_FOUND"}}]', "not_found", "No such model"),
    ],
)  # fmt: skip
def test_errors_in_other_shapes(status: int, body: bytes, kind: str, message: str) -> None:
    fault = parse_error(status, body)
    assert (fault.kind, fault.message) == (kind, message)


@pytest.mark.parametrize(
    ("id", "style", "schema", "sampling", "max_output"),
    [
        ("claude-3-opus-latest", "none", False, "all", 4096),
        ("claude-3-5-sonnet-20241022", "none", False, "all", 8192),
        ("claude-3-7-sonnet-latest", "budget", False, "all", 64_000),
        ("claude-sonnet-4-20250514", "budget", False, "all", 64_000),
        ("claude-opus-4-0", "budget", False, "all", 32_000),
        ("claude-opus-4-1-20250805", "budget", True, "one", 32_000),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "budget", True, "one", 64_000),
        ("claude-haiku-4-5@20251001", "budget", True, "one", 64_000),
        ("claude-opus-4-6", "adaptive", True, "one", 128_000),
        ("claude-sonnet-4-6", "adaptive", True, "one", 64_000),
        ("claude-opus-4-7", "adaptive", True, "none", 128_000),
        ("claude-opus-5", "adaptive", True, "none", 128_000),
        ("something-new", "adaptive", True, "none", 128_000),
    ],
)
def test_known_models(id: str, style: str, schema: bool, sampling: str, max_output: int) -> None:
    model = known_model(id)
    assert (model.reasoning, model.schema, model.sampling, model.max_output) == (style, schema, sampling, max_output)
