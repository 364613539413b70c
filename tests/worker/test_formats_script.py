"""One script of the OpenAI SDK, unchanged, against every format that upstreams speak: the same but for the words."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.harness import Waypost, serving
from tests.sim.running import Running

PNG = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
        "1f15c4890000000d49444154789c6360f8cf000000030101009a60e1d50000000049454e44ae426082"
    )
).decode()
PDF = base64.b64encode(b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n").decode()

# What a caller names, and the upstream's model behind it.
MODELS = {
    "openai": "lab/gpt-4o",
    "azure": "azure/gpt-4o",
    "anthropic-budget": "anthropic/claude-sonnet-4-5",
    "anthropic-adaptive": "anthropic/claude-opus-4-8",
    "gemini-2.5": "gemini/gemini-2.5-flash",
    "gemini-3": "gemini/gemini-3-flash-preview",
    "vertex-gemini": "vertex/gemini-2.5-flash",
    "vertex-claude": "vertex/claude-sonnet-4-5",
    "bedrock-claude": "bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0",
    "bedrock-nova": "bedrock/us.amazon.nova-2-lite-v1:0",
    "cohere": "cohere/command-a-03-2025",
    "cohere-reasoning": "cohere/command-a-reasoning-08-2025",
    "mistral": "mistral/mistral-large-latest",
    "openrouter": "openrouter/z-ai/glm-4.6",
}
THINKING = {
    "anthropic-budget", "anthropic-adaptive", "gemini-2.5", "gemini-3", "vertex-gemini", "vertex-claude",
    "bedrock-claude", "cohere-reasoning", "openrouter",
}  # fmt: skip
SEEING = set(MODELS) - {"cohere", "cohere-reasoning"}

every = pytest.mark.parametrize("name", list(MODELS))


def configuration(base: str) -> str:
    root = base.removesuffix("/v1")
    return f"""
[providers.lab]
base_url = "{base}"
keys = ["sk-lab"]
[providers.mistral]
base_url = "{base}"
keys = ["mistral-key"]
[providers.openrouter]
base_url = "{base}"
keys = ["openrouter-key"]
[providers.azure]
base_url = "{root}/openai"
api_version = "2024-10-21"
keys = ["azure-key"]
[providers.anthropic]
base_url = "{base}"
keys = ["sk-ant-key"]
[providers.gemini]
base_url = "{root}/v1beta"
keys = ["gemini-key"]
[providers.vertex]
base_url = "{base}"
project = "my-project"
location = "europe-west4"
keys = ["ya29.token"]
[providers.bedrock]
base_url = "{root}"
region = "us-east-1"
keys = ["AKIDEXAMPLE:wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"]
[providers.cohere]
base_url = "{root}/v2"
keys = ["cohere-key"]
"""


@pytest.fixture(scope="module")
def gateway(simulator: Running) -> Iterator[Waypost]:
    with serving(configuration(simulator.base)) as gateway:
        yield gateway


@pytest.fixture
def client(gateway: Waypost) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.base, api_key=gateway.key, max_retries=0, timeout=60) as made:
        yield made


def function(name: str, about: str) -> Any:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    return {"type": "function", "function": {"name": name, "description": about, "parameters": parameters}}


WEATHER = function("get_weather", "The current weather in a city")
ASKED = [{"role": "user", "content": "What is the weather in Tokyo and Paris?"}]


class Town(BaseModel):
    name: str
    inhabitants: int
    rivers: list[str]


def check(answer: Any, model: str) -> None:
    """What every answer has, whoever gave it."""
    extras = answer.model_extra
    assert answer.id.startswith("chatcmpl_") and answer.object == "chat.completion" and answer.model == model
    assert extras["provider"] == model.partition("/")[0] and type(extras["latency_ms"]) is int
    usage = answer.usage
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@every
def test_text(client: openai.OpenAI, name: str) -> None:
    messages: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Reply with exactly: Paris"},
    ]
    answer = client.chat.completions.create(model=MODELS[name], messages=messages, max_tokens=200)
    check(answer, MODELS[name])
    assert answer.choices[0].finish_reason == "stop" and answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == "Paris"


@every
def test_stream(client: openai.OpenAI, name: str) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODELS[name],
            messages=[{"role": "user", "content": "Reply with exactly: one two three"}],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert len({(chunk.id, chunk.model, chunk.object) for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].model == MODELS[name]
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == "one two three"
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == ["stop"]
    assert chunks[-1].choices == [] and chunks[-1].usage is not None and chunks[-1].usage.completion_tokens > 0
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert (chunks[-1].model_extra or {})["provider"] == MODELS[name].partition("/")[0]


@every
def test_length(client: openai.OpenAI, name: str) -> None:
    model = MODELS[name] + "+words-300"
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Go on."}], max_tokens=5, reasoning_effort="none"
    )
    assert answer.choices[0].finish_reason == "length"


@every
@pytest.mark.parametrize("stream", [False, True])
def test_two_parallel_tools_and_back(client: openai.OpenAI, name: str, stream: bool) -> None:
    asked: Any = {"model": MODELS[name], "tools": [WEATHER]}
    if stream:
        with client.chat.completions.stream(messages=ASKED, **asked) as streamed:  # type: ignore[arg-type]
            answer: Any = streamed.get_final_completion()
    else:
        answer = client.chat.completions.create(messages=ASKED, **asked)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    calls = choice.message.tool_calls
    assert [call.function.name for call in calls] == ["get_weather"] * 2 and len({call.id for call in calls}) == 2
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": "Tokyo"}, {"city": "Paris"}]
    # The results go back, with nothing of the turn but what every client keeps.
    turn = {
        "role": "assistant",
        "content": choice.message.content,
        "tool_calls": [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
            for call in calls
        ],
    }
    results = [{"role": "tool", "tool_call_id": call.id, "content": f"sunny {at}"} for at, call in enumerate(calls)]
    final = client.chat.completions.create(messages=[*ASKED, turn, *results], **asked)
    check(final, MODELS[name])
    assert final.choices[0].finish_reason == "stop" and final.choices[0].message.content


@every
def test_a_forced_tool(client: openai.OpenAI, name: str) -> None:
    answer = client.chat.completions.create(
        model=MODELS[name],
        messages=[{"role": "user", "content": "Hello Rome"}],
        tools=[WEATHER],
        tool_choice="required"
        if name.startswith(("cohere", "mistral"))
        else {"type": "function", "function": {"name": "get_weather"}},
    )
    calls = answer.choices[0].message.tool_calls
    assert calls and calls[0].function.name == "get_weather"  # type: ignore[union-attr]


@every
def test_schema_by_pydantic(client: openai.OpenAI, name: str) -> None:
    answer = client.chat.completions.parse(
        model=MODELS[name],
        messages=[{"role": "user", "content": "Tell me of a town."}],
        response_format=Town,
    )
    assert isinstance(answer.choices[0].message.parsed, Town)
    with client.chat.completions.stream(
        model=MODELS[name], messages=[{"role": "user", "content": "Another one."}], response_format=Town
    ) as streamed:
        assert isinstance(streamed.get_final_completion().choices[0].message.parsed, Town)


@every
def test_json_object(client: openai.OpenAI, name: str) -> None:
    answer = client.chat.completions.create(
        model=MODELS[name],
        messages=[{"role": "user", "content": 'Reply with exactly: {"town": "Ulm"}'}],
        response_format={"type": "json_object"},
    )
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


@pytest.mark.parametrize("name", ["anthropic-budget", "bedrock-nova", "vertex-claude"])
def test_words_in_the_place_of_a_json_object(client: openai.OpenAI, name: str) -> None:
    # Claude and Nova have no JSON mode: they are told in words, which the simulator, being no model, does not obey.
    with pytest.raises(openai.InternalServerError, match="not JSON"):
        client.chat.completions.create(
            model=MODELS[name],
            messages=[{"role": "user", "content": "Some JSON, please."}],
            response_format={"type": "json_object"},
        )


@pytest.mark.parametrize("name", sorted(THINKING))
def test_reasoning(client: openai.OpenAI, name: str) -> None:
    asked: Any = {
        "model": MODELS[name],
        "messages": [{"role": "user", "content": "Think about nonce:r1, please."}],
        "reasoning_effort": "medium",
    }
    answer = client.chat.completions.create(**asked)
    check(answer, MODELS[name])
    assert answer.choices[0].message.content and answer.choices[0].message.reasoning_content  # type: ignore[attr-defined]
    chunks = list(client.chat.completions.create(stream=True, **asked))
    thoughts = [
        (choice.delta.model_extra or {}).get("reasoning_content") or "" for chunk in chunks for choice in chunk.choices
    ]
    assert "".join(thoughts)
    hidden = client.chat.completions.create(extra_body={"reasoning": {"exclude": True}}, **asked)
    assert hidden.choices[0].message.content
    assert "reasoning_content" not in (hidden.choices[0].message.model_extra or {})


@pytest.mark.parametrize("name", sorted(SEEING))
def test_a_picture(client: openai.OpenAI, name: str) -> None:
    content: Any = [
        {"type": "text", "text": "What is it? nonce:p1"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
    ]
    answer = client.chat.completions.create(model=MODELS[name], messages=[{"role": "user", "content": content}])
    assert answer.choices[0].message.content


@pytest.mark.parametrize("name", sorted(SEEING))
def test_a_document(client: openai.OpenAI, name: str) -> None:
    content: Any = [
        {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}},
        {"type": "text", "text": "What does it say? nonce:d1"},
    ]
    answer = client.chat.completions.create(model=MODELS[name], messages=[{"role": "user", "content": content}])
    assert answer.choices[0].message.content
