"""Accents of OpenAI's format: what was recorded stays as it was, and what a provider can't read is said otherwise."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tests.formats.recordings import FORMATS, Recorded, chats
from waypost import providers
from waypost.errors import Refusal
from waypost.formats.accented import EXTENSIONS, Spoken, speak
from waypost.formats.accented_answer import understand
from waypost.formats.accents import ACCENTS, OPENAI, SOURCES, UNKNOWN, accent_of
from waypost.formats.format import Unsupported
from waypost.formats.openai_chat import Fields

Json = dict[str, Any]
RECORDED = ("azure", "cerebras", "deepseek", "groq", "huggingface", "mistral", "ollama", "openai", "openrouter")
HELLO = {"role": "user", "content": "Hello"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def test_every_row_says_where_it_is_from() -> None:
    assert list(SOURCES) == list(ACCENTS) and all(SOURCES.values())
    assert {name for name in RECORDED if "recorded exchange" in SOURCES[name]} == set(RECORDED)


def fields_of(said: Json) -> Fields:
    return {name: msgspec.Raw(json.dumps(value).encode()) for name, value in said.items()}


def spoken(provider: str, model: str = "m", **said: Any) -> tuple[Json, Spoken]:
    made = speak(accent_of(provider), fields_of({"messages": [HELLO], **said}), model)
    return {name: json.loads(bytes(raw)) for name, raw in made.fields.items()}, made


def said(provider: str, model: str = "m", **fields: Any) -> Json:
    made, _ = spoken(provider, model, **fields)
    return {name: value for name, value in made.items() if name != "messages"}


def messages(provider: str, *sent: Json, **fields: Any) -> list[Json]:
    return list(spoken(provider, messages=list(sent), **fields)[0]["messages"])


# Recordings


def test_every_provider_of_this_format_has_a_row() -> None:
    speaking = {name for name, row in providers.BY_NAME.items() if row.format == "openai"}
    assert speaking == ACCENTS.keys()
    assert accent_of("my-own-server") is UNKNOWN
    assert set(RECORDED) <= FORMATS.keys()


@pytest.mark.parametrize("provider", RECORDED)
def test_what_a_provider_has_accepted_is_not_touched(provider: str) -> None:
    compared = 0
    for exchange in chats(provider):
        if exchange.request is None:
            continue
        fields = fields_of(exchange.request)
        made = speak(ACCENTS[provider], fields, exchange.request.get("model", ""))
        added = {name: raw for name, raw in made.fields.items() if name not in fields}
        assert decoded({name: made.fields[name] for name in fields}) == exchange.request, exchange.where
        assert added.keys() <= {"reasoning_format"} and made.dropped == (), exchange.where
        if not added and not any(needle in bytes(fields["messages"]) for needle in NEEDLES):
            assert made.fields is fields, exchange.where
        compared += 1
    assert compared


NEEDLES = [b'"%b"' % name.encode() for name in (*EXTENSIONS, "tool_calls", "tool_call_id")]


def decoded(fields: Fields) -> Json:
    return {name: json.loads(bytes(raw)) for name, raw in fields.items()}


def payloads(exchange: Recorded) -> list[bytes]:
    if not exchange.is_stream:
        return [exchange.body]
    lines = [line[5:].strip() for line in exchange.body.splitlines() if line.startswith(b"data:")]
    return [line for line in lines if line != b"[DONE]"]


def reasoning_in(message: Json) -> str:
    """Written against the wire, without our functions."""
    found = message.get("reasoning_content") or message.get("reasoning") or ""
    if isinstance(message.get("content"), list):
        for part in message["content"]:
            if part["type"] == "thinking":
                found += "".join(piece["text"] for piece in part["thinking"])
    return str(found)


def text_in(message: Json) -> str:
    content = message.get("content") or ""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part["type"] == "text")
    return str(content)


@pytest.mark.parametrize("provider", RECORDED)
def test_recorded_answers_are_openais(provider: str) -> None:
    for exchange in chats(provider):
        for payload in payloads(exchange):
            made = understand(ACCENTS[provider], payload)
            if made is payload:
                continue
            ours, theirs = json.loads(made), json.loads(payload)
            for mine, its in zip(ours["choices"], theirs["choices"], strict=True):
                said, was = (one.get("message") or one.get("delta") for one in (mine, its))
                assert (said.get("content") or "") == text_in(was) and isinstance(said.get("content"), str | None)
                assert (said.get("reasoning_content") or "") == reasoning_in(was), exchange.where
                for call in said.get("tool_calls") or ():
                    assert call["type"] == "function"
                assert {**mine, "message": 0, "delta": 0} == {**its, "message": 0, "delta": 0}
            assert {**ours, "choices": 0} == {**theirs, "choices": 0}


def test_openais_own_answers_are_the_very_same_bytes() -> None:
    for provider in ("openai", "azure"):
        for exchange in chats(provider):
            for payload in payloads(exchange):
                assert understand(OPENAI, payload) is payload


def test_every_recorded_thought_is_found() -> None:
    found: dict[str, int] = {}
    for provider in RECORDED:
        for exchange in chats(provider, stream=False):
            answer = json.loads(understand(ACCENTS[provider], exchange.body))
            thoughts = [choice["message"].get("reasoning_content") for choice in answer["choices"]]
            found[provider] = found.get(provider, 0) + sum(map(bool, thoughts))
    assert {provider: count for provider, count in found.items() if count} == {
        "cerebras": 6, "deepseek": 4, "groq": 17, "mistral": 2, "ollama": 4, "openrouter": 9,
    }  # fmt: skip


# Requests


def test_a_plain_request_is_the_very_same_object() -> None:
    fields = fields_of({
        "model": "gpt-5", "messages": [{"role": "developer", "content": 'say "cache_control": now'}, HELLO],
        "reasoning_effort": "minimal", "max_completion_tokens": 5, "n": 2, "seed": 1, "logit_bias": {}, "store": True,
        "tools": [{"type": "function", "function": {"name": "f", "strict": True}}], "tool_choice": "required",
        "response_format": {"type": "json_object"}, "stream": True, "stream_options": {"include_usage": True},
    })  # fmt: skip
    assert speak(OPENAI, fields, "gpt-5").fields is fields


def test_a_callers_fields_are_never_changed_in_place() -> None:
    fields = fields_of(
        {"messages": [{"role": "developer", "content": "x", "cache_control": {}}], "seed": 1, "user": "u"}
    )
    before = dict(fields)
    for provider in ACCENTS:
        speak(ACCENTS[provider], fields, "m")
        assert fields == before


@pytest.mark.parametrize(
    ("provider", "model", "sent", "made"),
    [
        ("openai", "gpt-4o", {"max_tokens": 5}, {"max_tokens": 5}),
        ("openai", "o3-mini", {"max_tokens": 5}, {"max_completion_tokens": 5}),
        ("openai", "gpt-5-mini", {"max_tokens": 5, "max_completion_tokens": 7}, {"max_completion_tokens": 7}),
        ("openrouter", "openai/gpt-5", {"max_tokens": 5}, {"max_tokens": 5}),
        ("mistral", "m", {"max_completion_tokens": 5}, {"max_tokens": 5}),
        ("mistral", "m", {"max_tokens": 5, "max_completion_tokens": 7}, {"max_tokens": 7}),
        ("mistral", "m", {"max_tokens": 5, "max_completion_tokens": None}, {"max_tokens": 5}),
        ("cerebras", "m", {"max_tokens": 5}, {"max_completion_tokens": 5}),
        ("mistral", "m", {"seed": 3}, {"random_seed": 3}),
        ("mistral", "m", {"stream": True, "stream_options": {"include_usage": True}}, {"stream": True}),
        ("groq", "m", {"n": 1}, {"n": 1}),
    ],
)
def test_fields_under_the_names_that_are_known(provider: str, model: str, sent: Json, made: Json) -> None:
    assert said(provider, model, **sent) == made


def test_fields_that_a_provider_refuses_are_dropped_and_named() -> None:
    made, spoke = spoken("groq", logprobs=True, top_logprobs=2, logit_bias=None, seed=1)
    assert made == {"messages": [HELLO], "logit_bias": None, "seed": 1} and spoke.dropped == (
        "logprobs",
        "top_logprobs",
    )
    made, spoke = spoken("xai", "grok-4", stop=["x"], frequency_penalty=1, temperature=1)
    assert "stop" not in made and sorted(spoke.dropped) == ["frequency_penalty", "stop"] and made["temperature"] == 1
    assert spoken("xai", "grok-2", stop=["x"])[1].dropped == ()
    for model in ("o3", "o4-mini-2025-04-16", "gpt-5", "gpt-5-nano-2025-08-07"):
        assert spoken("azure", model, temperature=0.2)[1].dropped == ("temperature",)
    assert spoken("openai", "o3", stop="x", seed=1)[1].dropped == ("stop",)
    for model in ("gpt-4o", "gpt-4o-2024-05-13", "gpt-5-chat-latest", "gpt-5.2"):
        assert spoken("openai", model, temperature=0.2, top_p=0.5, stop="x", logprobs=True)[1].dropped == ()
    made, spoke = spoken("moonshot", "kimi-k2.6", temperature=0.3, top_p=None)
    assert "temperature" not in made and spoke.dropped == ("temperature",)
    for provider in ("groq", "deepseek", "minimax"):
        with pytest.raises(Unsupported) as refused:
            said(provider, n=2)
        assert refused.value.param == "n"


def test_fields_that_some_models_want_are_added() -> None:
    assert said("minimax", "MiniMax-M2")["reasoning_split"] is True
    assert said("minimax", "MiniMax-M2", reasoning_split=False)["reasoning_split"] is False
    assert said("groq", "qwen/qwen3-32b")["reasoning_format"] == "parsed"
    assert said("groq", "qwen/qwen3-32b", reasoning_format="raw")["reasoning_format"] == "raw"
    assert said("groq", "llama-3.3-70b-versatile") == {}


def test_unknown_fields_pass() -> None:
    search = {"search_domain_filter": ["a.example"], "web_search_options": {"search_context_size": "low"}}
    assert said("perplexity", "sonar", **search) == search


# The shape of the answer


def wanted(strict: bool = False) -> Json:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": strict}}


def test_a_shape_that_is_known_stays() -> None:
    for kind in (wanted(True), {"type": "json_object"}, {"type": "text"}):
        assert said("mistral", response_format=kind) == {"response_format": kind}
    assert said("deepseek", response_format={"type": "text"}) == {"response_format": {"type": "text"}}


def test_json_of_any_kind_where_only_schemas_are_known() -> None:
    made = said("lmstudio", response_format={"type": "json_object"})["response_format"]
    assert made == {"type": "json_schema", "json_schema": {"name": "response", "schema": {"type": "object"}}}


def test_a_schema_in_words() -> None:
    made, _ = spoken("deepseek", response_format=wanted())
    assert made["response_format"] == {"type": "json_object"}
    assert made["messages"][1:] == [HELLO] and made["messages"][0]["role"] == "system"
    assert json.dumps(SCHEMA) in made["messages"][0]["content"]
    made, _ = spoken("minimax", response_format={"type": "json_object"}, messages=[])
    assert "response_format" not in made and len(made["messages"]) == 1
    with pytest.raises(Unsupported) as refused:
        said("deepseek", response_format=wanted(True))
    assert refused.value.param == "response_format"


# Tools


def test_tool_choice() -> None:
    by_name = {"type": "function", "function": {"name": "f"}}
    assert said("mistral", tool_choice="required") == {"tool_choice": "any"}
    assert said("mistral", tool_choice=by_name) == {"tool_choice": by_name}
    assert said("dashscope", tool_choice=by_name) == {"tool_choice": by_name}
    assert said("zhipu", tool_choice="auto") == {"tool_choice": "auto"}
    for provider, choice in (("zhipu", by_name), ("zhipu", "required"), ("dashscope", "required")):
        with pytest.raises(Unsupported) as refused:
            said(provider, tool_choice=choice)
        assert refused.value.param == "tool_choice"


def test_tools_without_what_is_not_known() -> None:
    tool = {"type": "function", "function": {"name": "f"}, "cache_control": {"type": "ephemeral"}}
    bare = {"type": "function", "function": {"name": "f"}}
    assert said("openai", tools=[tool])["tools"] == [bare]
    assert said("openrouter", tools=[tool])["tools"] == [tool]
    loose = {"type": "function", "function": {"name": "f", "strict": False}}
    strict = {"type": "function", "function": {"name": "f", "strict": True}}
    assert said("zhipu", tools=[loose])["tools"] == [bare] and said("openai", tools=[strict])["tools"] == [strict]
    with pytest.raises(Unsupported):
        said("zhipu", tools=[strict])


# Thinking

HIGH = {"reasoning_effort": "high"}
OFF = {"reasoning_effort": "none"}
BUDGET = {"reasoning": {"max_tokens": 9000}}
ENABLED = {"reasoning": {"enabled": True}}


@pytest.mark.parametrize(
    ("provider", "model", "asked", "made"),
    [
        ("openai", "gpt-5", HIGH, HIGH),
        ("openai", "gpt-5", {"reasoning": {"effort": "high"}}, HIGH),
        ("openai", "gpt-5", {"reasoning": {"effort": "none"}}, {"reasoning_effort": "minimal"}),
        ("openai", "gpt-5.2", {"reasoning": {"effort": "none"}}, OFF),
        ("openai", "o3", BUDGET, {"reasoning_effort": "medium"}),
        ("openai", "o3", ENABLED, {"reasoning_effort": "medium"}),
        ("openai", "o3", OFF, {"reasoning_effort": "low"}),
        ("openai", "o3", {"reasoning_effort": "xhigh"}, HIGH),
        ("openai", "gpt-5", OFF, {"reasoning_effort": "minimal"}),
        ("openai", "gpt-5.1", OFF, OFF),
        ("openai", "gpt-5.1", {"reasoning_effort": "xhigh"}, HIGH),
        ("openai", "gpt-5.2", {"reasoning_effort": "xhigh"}, {"reasoning_effort": "xhigh"}),
        ("together", "openai/gpt-oss-20b", OFF, {"reasoning_effort": "low"}),
        ("azure", "gpt-5-mini", {"reasoning_effort": "xhigh"}, HIGH),
        ("openai", "gpt-4o", HIGH, HIGH),
        ("openai", "gpt-4o", ENABLED, {}),
        ("deepseek", "deepseek-chat", HIGH, {"thinking": {"type": "enabled"}, "reasoning_effort": "high"}),
        ("deepseek", "deepseek-chat", {"reasoning_effort": "low"}, {"thinking": {"type": "enabled"}, **HIGH}),
        ("deepseek", "deepseek-chat", OFF, {"thinking": {"type": "disabled"}}),
        ("deepseek", "deepseek-chat", {"thinking": {"type": "enabled"}}, {"thinking": {"type": "enabled"}}),
        ("zhipu", "glm-4.7", HIGH, {"thinking": {"type": "enabled"}}),
        ("moonshot", "kimi-k2.6", OFF, {"thinking": {"type": "disabled"}}),
        ("moonshot", "kimi-k3", {"reasoning_effort": "medium"}, {"reasoning_effort": "low"}),
        ("moonshot", "kimi-k3", OFF, {"reasoning_effort": "low"}),
        ("dashscope", "qwen3", BUDGET, {"enable_thinking": True, "thinking_budget": 9000}),
        ("dashscope", "qwen3", {"reasoning_effort": "low"}, {"enable_thinking": True, "thinking_budget": 1024}),
        ("dashscope", "qwen3", OFF, {"enable_thinking": False}),
        ("minimax", "MiniMax-M3", HIGH, {"thinking": {"type": "adaptive"}, "reasoning_split": True}),
        ("groq", "openai/gpt-oss-120b", {"reasoning": {"effort": "xhigh"}}, {**HIGH, "reasoning_format": "parsed"}),
        ("groq", "qwen/qwen3-32b", HIGH, {"reasoning_effort": "default", "reasoning_format": "parsed"}),
        ("groq", "qwen/qwen3-32b", OFF, {**OFF, "reasoning_format": "parsed"}),
        (
            "groq", "qwen/qwen3-32b", {"reasoning_effort": "default"},
            {"reasoning_effort": "default", "reasoning_format": "parsed"},
        ),
        ("xai", "grok-3-mini", {"reasoning_effort": "medium"}, {"reasoning_effort": "low"}),
        ("xai", "grok-4.3", OFF, OFF),
        ("openrouter", "x", BUDGET, BUDGET),
        (
            "openrouter", "x", {"thinking": {"type": "enabled", "budget_tokens": 7}},
            {"reasoning": {"enabled": True, "max_tokens": 7}},
        ),
        ("openrouter", "x", {"thinking": {"type": "disabled"}}, {"reasoning": {"enabled": False}}),
        ("mistral", "magistral-medium-latest", HIGH, {"prompt_mode": "reasoning"}),
        ("mistral", "mistral-small-latest", {"reasoning_effort": "low"}, HIGH),
        ("mistral", "mistral-small-latest", OFF, OFF),
        ("cerebras", "zai-glm-4.7", OFF, OFF),
        (
            "vllm", "Qwen/Qwen3-8B", {"reasoning": {"enabled": False}},
            {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}},
        ),
        (
            "vllm", "m", {**ENABLED, "chat_template_kwargs": {"thinking": False, "x": 1}},
            {"chat_template_kwargs": {"enable_thinking": True, "thinking": False, "x": 1}},
        ),
        ("ollama", "qwen3", {"reasoning": {"enabled": False}}, OFF),
        ("my-own", "m", {"reasoning": {"effort": "max"}}, HIGH),
    ],
)  # fmt: skip
def test_thinking_in_the_providers_words(provider: str, model: str, asked: Json, made: Json) -> None:
    found, spoke = spoken(provider, model, **asked)
    del found["messages"]
    assert found == made and spoke.dropped == ()


@pytest.mark.parametrize(
    ("provider", "model", "asked"),
    [
        ("xai", "grok-4", HIGH),
        ("moonshot", "kimi-k2.7-code", OFF),
        ("moonshot", "kimi-k2.7-code", HIGH),
        ("perplexity", "sonar", HIGH),
        ("mistral", "ministral-8b-latest", HIGH),
        ("openai", "gpt-4o", {"reasoning": {"effort": "high"}}),
    ],
)
def test_wishes_that_a_model_cannot_be_told(provider: str, model: str, asked: Json) -> None:
    found, spoke = spoken(provider, model, **asked)
    assert found == {"messages": [HELLO]} and spoke.dropped == tuple(asked)


def test_reasoning_that_shall_not_be_seen() -> None:
    found, spoke = spoken("deepseek", reasoning={"effort": "high", "exclude": True})
    assert spoke.hides_reasoning and "reasoning" not in found and found["reasoning_effort"] == "high"
    found, spoke = spoken("deepseek", reasoning={"exclude": True})
    assert spoke.hides_reasoning and found == {"messages": [HELLO]} and spoke.dropped == ()
    assert not spoken("deepseek", **HIGH)[1].hides_reasoning


def test_a_wish_that_is_none_is_refused() -> None:
    with pytest.raises(Refusal) as refused:
        said("deepseek", reasoning_effort="very")
    assert refused.value.param == "reasoning_effort"


# Messages


def test_the_developers_role() -> None:
    sent = {"role": "developer", "content": "Be brief"}
    assert messages("openai", sent) == [sent]
    assert messages("deepseek", sent) == [{"role": "system", "content": "Be brief"}]


ANSWERED = {
    "role": "assistant", "content": "4", "reasoning_content": "2 and 2", "extra_content": {"google": {}},
    "reasoning_details": [{"type": "reasoning.text", "text": "2 and 2"}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("provider", "made"),
    [
        ("openai", {"content": "4"}),
        ("deepseek", {"content": "4", "reasoning_content": "2 and 2"}),
        ("groq", {"content": "4", "reasoning": "2 and 2"}),
        ("cerebras", {"content": "4", "reasoning": "2 and 2"}),
        (
            "openrouter",
            {**ANSWERED, "reasoning": "2 and 2"},
        ),
        (
            "mistral",
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "2 and 2"}]},
                    {"type": "text", "text": "4"},
                ]
            },
        ),
    ],
)
def test_an_assistants_reasoning_comes_back_as_it_is_known(provider: str, made: Json) -> None:
    [found] = messages(provider, ANSWERED)
    if provider == "openrouter":
        made = {name: value for name, value in made.items() if name != "extra_content"}
    assert found == {"role": "assistant", **made}


def test_reasoning_before_parts_and_calls() -> None:
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    sent = {"role": "assistant", "content": None, "reasoning": "Hm", "tool_calls": [call]}
    [made] = messages("mistral", sent)
    assert made["content"] == [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}]
    sent = {"role": "assistant", "content": [{"type": "text", "text": "4"}], "reasoning": "Hm"}
    assert [part["type"] for part in messages("mistral", sent)[0]["content"]] == ["thinking", "text"]


def test_breakpoints_where_they_are_known() -> None:
    sent = {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]}
    bare = {"role": "user", "content": [{"type": "text", "text": "x"}]}
    assert messages("openrouter", sent) == messages("dashscope", sent) == [sent]
    assert messages("openai", sent) == messages("groq", sent) == messages("my-own", sent) == [bare]


def test_names_where_they_are_known() -> None:
    sent = {"role": "user", "name": "ann", "content": "x"}
    assert messages("openai", sent) == [sent] and messages("groq", sent) == [{"role": "user", "content": "x"}]


def test_ids_of_calls() -> None:
    call = {"id": "call_123456", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    result = {"role": "tool", "tool_call_id": "call_123456", "content": "21"}
    asked, answered = messages("mistral", {"role": "assistant", "content": "", "tool_calls": [call]}, result)
    id = asked["tool_calls"][0]["id"]
    assert id == answered["tool_call_id"] and len(id) == 9 and id.isalnum() and id.isascii()
    own = {**result, "tool_call_id": "Df1cqWOle"}
    assert messages("mistral", own) == [own]
    assert messages("openai", result) == [result]
    many = {
        messages("mistral", {**result, "tool_call_id": f"call_{number}"})[0]["tool_call_id"] for number in range(2000)
    }
    assert len(many) == 2000


def test_documents() -> None:
    sent = {"role": "user", "content": [{"type": "file", "file": {"file_data": "data:application/pdf;base64,AA=="}}]}
    assert messages("openai", sent) == [sent]
    document = {"type": "document_url", "document_url": "data:application/pdf;base64,AA=="}
    assert messages("mistral", sent)[0]["content"] == [document]
    sent["content"][0]["file"]["file_data"] = "AA=="
    assert messages("mistral", sent)[0]["content"] == [document]
    with pytest.raises(Unsupported):
        messages("mistral", {"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]})


def picture(url: str) -> Json:
    return {"type": "image_url", "image_url": {"url": url}}


def test_a_pdf_in_a_pictures_place_is_a_file() -> None:
    url = "data:application/pdf;base64,AAAA"
    words = {"type": "text", "text": "Read"}
    (made,) = messages("openai", {"role": "user", "content": [words, picture(url), picture("https://a.example/x")]})
    file = {"type": "file", "file": {"filename": "document.pdf", "file_data": url}}
    assert made["content"] == [words, file, picture("https://a.example/x")]
    (made,) = messages("mistral", {"role": "user", "content": [{"type": "image_url", "image_url": url}]})
    assert made["content"] == [{"type": "document_url", "document_url": url}]


def test_pictures_in_results_follow_them() -> None:
    seen, words = picture("data:image/png;base64,AAAA"), {"type": "text", "text": "Seen:"}
    calls = [{"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}} for id in ("a", "b")]
    asked = {"role": "assistant", "content": None, "tool_calls": calls}
    results = [
        {"role": "tool", "tool_call_id": "a", "content": [words, seen]},
        {"role": "tool", "tool_call_id": "b", "content": [seen]},
    ]
    made = messages("openai", HELLO, asked, *results, HELLO)
    told = [{"type": "text", "text": "The result of a:"}, seen, {"type": "text", "text": "The result of b:"}, seen]
    assert made == [
        HELLO, asked, {**results[0], "content": [words]}, {**results[1], "content": "It follows."},
        {"role": "user", "content": told}, HELLO,
    ]  # fmt: skip
    assert messages("openai", HELLO, asked, *results) == made[:-1]
    assert messages("openrouter", HELLO, asked, *results) == [HELLO, asked, *results]


def test_messages_that_are_none() -> None:
    for broken in ([3, {"role": "developer"}], [{"role": 3, "name": "developer"}]):
        with pytest.raises(Refusal):
            said("deepseek", messages=broken)


# Answers


def answer(**message: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    return json.dumps({"id": "i", "choices": [choice]}).encode()


def chunk(**delta: Any) -> bytes:
    return json.dumps({"id": "i", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}).encode()


def understood(provider: str, payload: bytes, show: bool = True) -> Json:
    choice = json.loads(understand(accent_of(provider), payload, show))["choices"][0]
    return dict(choice)


def test_reasoning_under_its_other_name() -> None:
    made = understood("groq", answer(content="4", reasoning="Hm"))["message"]
    assert made == {"role": "assistant", "content": "4", "reasoning": "Hm", "reasoning_content": "Hm"}
    assert understood("groq", chunk(reasoning="Hm"))["delta"]["reasoning_content"] == "Hm"
    assert "reasoning_content" not in understood("groq", chunk(reasoning=None))["delta"]


def test_content_in_parts_is_text() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}
    made = understood("mistral", answer(content=[thinking, {"type": "text", "text": "4"}]))["message"]
    assert (made["content"], made["reasoning_content"]) == ("4", "Hm")
    made = understood("mistral", chunk(content=[thinking]))["delta"]
    assert (made["content"], made["reasoning_content"]) == (None, "Hm")


def test_reasoning_is_hidden() -> None:
    details = [{"type": "reasoning.text", "text": "Hm"}]
    sent = answer(content="4", reasoning="Hm", reasoning_content="Hm", reasoning_details=details)
    for provider in ("openai", "openrouter"):
        assert understood(provider, sent, show=False)["message"] == {"role": "assistant", "content": "4"}


def test_calls_end_an_answer_with_their_own_reason() -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": "{}"}}
    made = understood("mistral", answer(content="", tool_calls=[call]))
    assert made["finish_reason"] == "tool_calls" and made["message"]["tool_calls"][0]["type"] == "function"
    assert understood("mistral", answer(content="x", tool_calls=[]))["finish_reason"] == "stop"


def test_finish_reasons_of_their_own() -> None:
    sent = answer(content="x").replace(b'"stop"', b'"sensitive"')
    made = understood("zhipu", sent)
    assert (made["finish_reason"], made["native_finish_reason"]) == ("content_filter", "sensitive")
    assert understood("mistral", sent.replace(b"sensitive", b"model_length"))["finish_reason"] == "length"


def test_pages_that_an_answer_rests_on() -> None:
    pages = [{"title": "A", "url": "https://a.example/", "date": None}, {"title": "no page"}]
    whole = json.loads(answer(content="x")) | {"search_results": pages}
    made = understood("perplexity", json.dumps(whole).encode())["message"]["annotations"]
    citation = {"url": "https://a.example/", "title": "A", "start_index": 0, "end_index": 0}
    assert made == [{"type": "url_citation", "url_citation": citation}]
    piece = json.loads(chunk(content="x")) | {"search_results": pages}
    assert "annotations" not in understood("perplexity", json.dumps(piece).encode())["delta"]


def test_plain_answers_are_the_very_same_bytes() -> None:
    payload = chunk(content='she said "reasoning": hm')
    for provider in ACCENTS:
        assert understand(accent_of(provider), payload) is payload
    assert understand(accent_of("groq"), b'{"error":{"reasoning":"x"}}') == b'{"error":{"reasoning":"x"}}'
