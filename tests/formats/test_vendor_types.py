"""What is rendered of every recorded conversation, held to the types that the vendors' own SDKs declare.

Bedrock's is held to AWS's service model in `test_bedrock_converse`, Cohere's to its SDK's in `test_cohere`.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.formats import anthropic_history, gemini_history
from tests.formats.recordings import chats
from tests.formats.typed import complaint
from waypost.formats import anthropic_messages, gemini, vertex
from waypost.formats.format import Format, Model
from waypost.formats.openai_chat import parse_request
from waypost.formats.openai_request import parse_chat

Json = dict[str, Any]
PLACE = vertex.place("p", "global")


def rendered(format: Format, model: Model, said: Json) -> Json:
    made: Json = json.loads(
        format.render_request(parse_chat(parse_request(json.dumps(said).encode()).fields), model).body
    )
    return made


def test_anthropic_s_types() -> None:
    params = pytest.importorskip("anthropic.types.message_create_params", reason="the SDK anthropic is not installed")
    beta = pytest.importorskip("anthropic.types.beta.message_create_params")
    checked = 0
    for exchange in chats("anthropic"):
        if anthropic_history.beyond(exchange.request):
            continue
        model = anthropic_messages.known_model(exchange.request["model"])
        made = rendered(anthropic_messages, model, anthropic_history.as_openai(exchange.request))
        for name in ("temperature", "top_p", "top_k"):  # older models have them; SDKs since 2.12 do not say so
            made.pop(name, None)
        is_stream = made.get("stream", False)
        found = [
            complaint(made, one.MessageCreateParamsStreaming if is_stream else one.MessageCreateParamsNonStreaming)
            for one in (params, beta)  # tools of Anthropic's own may be in trial
        ]
        assert "" in found, (exchange.where, found)
        checked += found[0] == ""
    assert checked > 200


@pytest.mark.parametrize("provider", ["gemini", "vertex"])
def test_google_s_types(provider: str) -> None:
    types = pytest.importorskip("google.genai.types", reason="the SDK google-genai is not installed")
    checked = 0
    for exchange in chats(provider):
        if gemini_history.beyond(exchange.request):
            continue
        id = exchange.url.split("/models/")[1].split(":")[0]
        model = gemini.known_model(id) if provider == "gemini" else vertex.known_model(id, PLACE)
        made = rendered(gemini, model, gemini_history.as_openai(exchange.request))
        kinds = {
            "contents": types.Content, "tools": types.Tool, "safetySettings": types.SafetySetting,
            "generationConfig": types.GenerationConfig, "systemInstruction": types.Content,
            "toolConfig": types.ToolConfig,
        }  # fmt: skip
        for name, value in made.items():
            if name in ("cachedContent", "serviceTier"):
                assert isinstance(value, str)
                continue
            for one in value if isinstance(value, list) else [value]:
                kinds[name].model_validate_json(json.dumps(one))  # these refuse what they don't know
        checked += 1
    assert checked > 100


WRONG: list[tuple[Json, str]] = [
    ({"bogus": 1}, "$.bogus: MessageCreateParamsNonStreaming has no such field"),
    ({"max_tokens": "5"}, "$.max_tokens: '5' is no int"),
    ({"max_tokens": True}, "$.max_tokens: True is no int"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "$.messages[0].role: 'wizard' is none of"),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "bogus": 1}]}]},
        "$.messages[0].content[0].bogus",
    ),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "$.messages[0].content[0]: TextBlockParam needs"),
    ({"tools": [{"name": "f"}]}, "$.tools[0]"),
]


@pytest.mark.parametrize(("change", "expected"), WRONG)
def test_the_check_finds_what_is_wrong(change: Json, expected: str) -> None:
    params = pytest.importorskip("anthropic.types.message_create_params", reason="the SDK anthropic is not installed")
    sound = {"model": "claude", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
    assert complaint(sound, params.MessageCreateParamsNonStreaming) == ""
    assert complaint({**sound, **change}, params.MessageCreateParamsNonStreaming).startswith(expected)
